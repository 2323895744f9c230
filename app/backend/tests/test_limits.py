"""What anonymous visitors may do at once, in a minute, and to what others started."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from appstack import PASSWORD, Stack, Web
from testkit import Redis, wait_until

LIMITS = {
    "RESEARCH_PER_MINUTE": "60",
    "RESEARCH_UNFINISHED": "30",
    "RESEARCH_WAITING": "200",
    "RAG_PER_MINUTE": "300",
    "CHAT_PER_MINUTE": "60",
    "ITINERARY_PER_MINUTE": "60",
    "EVENTS_PER_CLIENT": "20",
}
QUERY = {"query": "palaces"}
RESEARCH = "/api/research/async"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis for these tests, where nobody works."""
    made = Redis(tmp_path_factory.mktemp("limits"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def alone(server: Redis) -> dict[str, str]:
    """The settings that name it."""
    return {
        "CELERY_BROKER_URL": server.url(0),
        "REDIS_URL": server.url(1),
        "CELERY_RESULT_BACKEND": server.url(2),
    }


@pytest.fixture(autouse=True)
def nothing_of_earlier_tests(server: Redis) -> None:
    server.client().flushall()


@pytest.fixture
def start(stack: Stack, alone: dict[str, str]) -> Iterator[Callable[..., Web]]:
    """Start web processes with other limits than those of production."""
    made: list[Web] = []

    def web(**changed: str) -> Web:
        made.append(stack.web(**alone, **(LIMITS | changed)))
        return made[-1]

    yield web
    for each in made:
        each.kill()


@pytest.fixture(scope="module")
def webs(stack: Stack, alone: dict[str, str]) -> Iterator[list[Web]]:
    """Two processes with the limits of production, but for fewer streams. Each test comes from
    addresses of its own."""
    made = [stack.web(**alone, **LIMITS, EVENTS_STREAMS="40") for _ in range(2)]
    yield made
    for each in made:
        each.kill()


def at(address: str) -> dict[str, str]:
    """Headers of a request that the proxy says comes from an address."""
    return {"X-Forwarded-For": address}


def post(web: Web, count: int, path: str = RESEARCH, address: str = "198.51.100.7") -> Counter[int]:
    """Statuses of so many requests, each of a stranger without a cookie."""

    def one(_: int) -> int:
        body = {"message": "x"} if path == "/chat" else QUERY
        headers = at(address) | {"Content-Type": "application/json"}
        with closing(HTTPConnection("127.0.0.1", web.port, timeout=30)) as connection:
            connection.request("POST", path, json.dumps(body), headers)
            answer = connection.getresponse()
            told = answer.read()
        if answer.status == 429:
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
            detail = json.loads(told)["detail"]
            assert "ry again" in detail or "wait" in detail
        return answer.status

    with ThreadPoolExecutor(8) as pool:
        return Counter(pool.map(one, range(count)))


def test_one_visitor_cannot_fill_the_queue(webs: list[Web], server: Redis) -> None:
    """1,400 of these queued 1,400 tasks, and a deploy's verification failed behind them."""
    begun = time.monotonic()
    # Several processes have one limit.
    statuses = post(webs[0], 50) + post(webs[1], 50)
    assert set(statuses) == {202, 429}
    queued = server.client(0).llen("research")
    assert statuses[202] == queued == 30  # of one client unfinished at a time
    # Others are served meanwhile, from another address and by other processes.
    assert post(webs[1], 1, address="203.0.113.9") == {202: 1}
    # Whoever has a network of 2^64 addresses is one client too.
    spread = Counter[int]()
    for number in range(35):
        spread += post(webs[number % 2], 1, address=f"2001:db8:0:7::{number:x}")
    assert spread[202] == 30
    # The queue has an end, a quarter of which is kept for who is logged in.
    for number in range(8):
        post(webs[0], 20, address=f"192.0.2.{number}")
    waiting = server.client(0).llen("research")
    assert 150 <= waiting < 160  # those that look at the same time see the same length
    assert post(webs[1], 1, address="192.0.2.99") == {429: 1}
    with webs[0].client() as admin:
        log_in(admin)
        assert admin.post(RESEARCH, json=QUERY).status_code == 202
        # What was there before research had a queue of its own is not touched.
        assert server.client(0).llen("default") == 0
    assert time.monotonic() - begun < 60


def test_the_pace_of_one_client(start: Callable[..., Web], server: Redis) -> None:
    questions = dict.fromkeys(("RAG_PER_MINUTE", "CHAT_PER_MINUTE", "ITINERARY_PER_MINUTE"), "4")
    web = start(RESEARCH_PER_MINUTE="5", RESEARCH_UNFINISHED="0", **questions)
    assert post(web, 20) == {202: 5, 429: 15}
    for path in ("/rag/query", "/itinerary", "/chat"):  # each by itself, and asked before it works
        assert post(web, 20, path)[429] == 16, path
    with web.client() as client:
        refused = client.post("/rag/query", json=QUERY, headers=at("198.51.100.7"))
        assert 1 <= int(refused.headers["Retry-After"]) <= 15
        # A forged chain makes no new client: only what the proxy itself wrote counts.
        forged = at("203.0.113.77, 198.51.100.7")
        assert client.post(RESEARCH, json=QUERY, headers=forged).status_code == 429
        # What others ask for is nobody else's limit; and one who is logged in has an own one.
        log_in(client)
        mine = at("198.51.100.7")
        statuses = [client.post(RESEARCH, json=QUERY, headers=mine).status_code for _ in range(7)]
        assert statuses == [202] * 5 + [429] * 2
        keys = server.client(1).keys("limits:*")
        assert keys
        assert all(0 < server.client(1).ttl(key) <= 60 for key in keys)


def test_ended_researches_make_room(webs: list[Web], server: Redis) -> None:
    with webs[0].client() as client:
        client.headers = at("198.51.100.50")
        first = [client.post(RESEARCH, json=QUERY).json()["task_id"] for _ in range(30)]
        refused = client.post(RESEARCH, json=QUERY)
        assert refused.status_code == 429
        assert "30 of your researches" in refused.json()["detail"]
        ended = json.dumps({"status": "SUCCESS", "result": {}, "task_id": first[7]})
        server.client(2).set(f"celery-task-meta-{first[7]}", ended)
        statuses = [client.post(RESEARCH, json=QUERY).status_code for _ in range(2)]
        assert statuses == [202, 429]


def test_without_redis_every_process_counts_for_itself(
    start: Callable[..., Web], server: Redis
) -> None:
    """Questions need no Redis; without it the limit must neither fail them nor be gone."""
    web = start(RAG_PER_MINUTE="10")
    begun = time.monotonic()
    server.stop()
    try:
        statuses = post(web, 15, "/rag/query")
        with web.client() as client:
            assert client.post(RESEARCH, json=QUERY).status_code == 503
    finally:
        server.start()
    assert statuses[429] == 5, statuses
    assert statuses[200] == 10
    assert time.monotonic() - begun < 30
    assert "limits are counted by this process alone" in web.log.read_text()


def streams(
    stack: ExitStack, client: httpx.Client, count: int, headers: dict[str, str]
) -> Counter[int]:
    """Statuses of so many streams that stay open."""
    found = Counter[int]()
    for number in range(count):
        answer = stack.enter_context(
            client.stream("GET", f"/api/task/s-{number}/events", headers=headers)
        )
        found[answer.status_code] += 1
        if answer.status_code == 429:
            assert answer.headers["Retry-After"] == "5"
    return found


def test_one_visitor_leaves_streams_to_others(webs: list[Web], server: Redis) -> None:
    """250 anonymous streams of one visitor answered 58 of 80 others with 503."""
    limits = httpx.Limits(max_connections=200)
    with ExitStack() as opened:
        one, other = (
            opened.enter_context(
                httpx.Client(base_url=f"http://127.0.0.1:{web.port}", timeout=15, limits=limits)
            )
            for web in webs
        )
        attack = opened.enter_context(ExitStack())
        assert streams(attack, one, 15, at("198.51.100.7")) == {200: 15}
        # The limit holds over processes.
        assert streams(attack, other, 10, at("198.51.100.7")) == {200: 5, 429: 5}
        # From many addresses: a quarter stays for who is logged in.
        for number in range(5):
            streams(attack, one, 5, at(f"203.0.113.{number}"))
        assert streams(attack, one, 1, at("192.0.2.1")) == {429: 1}
        assert streams(attack, other, 1, at("192.0.2.1")) == {200: 1}
        token = log_in(httpx.Client(base_url=one.base_url))
        assert streams(attack, one, 3, {"Authorization": token}) == {200: 3}
        attack.close()  # they hang up
        wait_until(
            lambda: server.client(1).keys("limits:streams:*") == [],
            "what is closed is not counted",
            20,
        )
        assert streams(opened, one, 20, at("198.51.100.7")) == {200: 20}


def test_streams_of_a_killed_process_are_forgotten(
    start: Callable[..., Web], server: Redis
) -> None:
    web = start()
    with web.client() as client, ExitStack() as opened:
        streams(opened, client, 3, {})
        (key,) = server.client(1).keys("limits:streams:*")
        assert server.client(1).zcard(key) == 3
        web.kill()
    assert 0 < server.client(1).ttl(key) <= 60


def log_in(client: httpx.Client) -> str:
    answer = client.post("/admin/login", json={"username": "admin", "password": PASSWORD})
    client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
    return client.headers["Authorization"]


def test_slow_questions_of_one_client_leave_room(stack: Stack) -> None:
    """They would hold every thread of the process, with which it answers everything else."""
    release = threading.Event()

    class Silent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            release.wait(20)

        do_POST = do_GET  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    web = stack.web(QDRANT_URL=f"http://127.0.0.1:{server.server_port}", QUESTIONS_AT_ONCE="8")
    statuses: dict[str, list[int]] = {"a": [], "b": [], "c": []}

    def ask(name: str, number: int) -> None:
        with web.client() as client:
            address = at(f"198.51.100.{ord(name)}")
            answer = client.post("/rag/query", json={"query": f"{number}"}, headers=address)
            statuses[name].append(answer.status_code)

    threads = []
    try:
        for name, count, most in (("a", 6, 2), ("b", 4, 2), ("c", 1, 1)):
            now = [threading.Thread(target=ask, args=(name, n)) for n in range(count)]
            threads += now
            for thread in now:
                thread.start()
            wait_until(lambda n=name, m=most: len(statuses[n]) >= m, f"{name} is refused", 20)
        # One client has half of eight, guests together three quarters; users the rest.
        assert statuses == {"a": [429] * 2, "b": [429] * 2, "c": [429]}
        with web.client() as client:
            assert client.get("/health").status_code == 200
    finally:
        release.set()
        for thread in threads:
            thread.join(30)
        server.shutdown()
        web.kill()


@pytest.fixture
def two(webs: list[Web]) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Two guests; their requests go to different processes."""
    with webs[0].client() as one, webs[1].client() as other:
        yield one, other


def test_a_report_is_for_who_asked_for_it(two: tuple[httpx.Client, httpx.Client]) -> None:
    """The id was enough: for reports, their streams and chats."""
    one, other = two
    begun = one.post(RESEARCH, json=QUERY)
    task = begun.json()["task_id"]
    cookie = begun.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Secure" not in cookie
    for path in (f"/api/task/{task}", f"/api/task/{task}/events"):
        assert other.get(path).status_code == 404
    other.post(RESEARCH, json=QUERY)  # a guest too now, and another one
    assert other.cookies != one.cookies
    for path in (f"/api/task/{task}", f"/api/task/{task}/events"):
        answer = other.get(path)
        assert answer.headers["Cache-Control"] == "private, no-store"
        assert (answer.status_code, answer.json()) == (
            404,
            {"detail": f"There is no task {task} of yours."},
        )
    assert one.get(f"/api/task/{task}").json() == {"task_id": task, "status": "pending"}
    with one.stream("GET", f"/api/task/{task}/events") as stream:
        first = next(line for line in stream.iter_lines() if line.startswith("data: "))
        assert json.loads(first.removeprefix("data: "))["status"] == "pending"
    # A guest stays the same one.
    assert "Set-Cookie" not in one.post(RESEARCH, json=QUERY).headers
    # A user's is the user's, wherever; and not that of a browser's next user.
    log_in(one)
    mine = one.post(RESEARCH, json=QUERY).json()["task_id"]
    assert one.get(f"/api/task/{mine}").status_code == 200
    assert one.get(f"/api/task/{task}").status_code == 200  # as the guest it was, too
    log_in(other)
    assert other.get(f"/api/task/{mine}").status_code == 200
    assert other.get(f"/api/task/{task}").status_code == 404
    del one.headers["Authorization"]
    assert one.get(f"/api/task/{mine}").status_code == 404


@pytest.mark.parametrize("cookie", ["", "x", "0" * 32, f"{'0' * 32}.{'0' * 32}", "a" * 5000])
def test_a_made_up_cookie_is_none(two: tuple[httpx.Client, httpx.Client], cookie: str) -> None:
    one, other = two
    task = one.post(RESEARCH, json=QUERY).json()["task_id"]
    header = {"Cookie": f"guest={cookie}"}
    assert other.get(f"/api/task/{task}", headers=header).status_code == 404
    assert "guest=" in other.post(RESEARCH, json=QUERY, headers=header).headers["Set-Cookie"]


def test_the_cookie_of_an_https_site_is_secure(two: tuple[httpx.Client, httpx.Client]) -> None:
    secure = {"X-Forwarded-Proto": "https"}
    assert "; Secure" in two[0].post(RESEARCH, json=QUERY, headers=secure).headers["Set-Cookie"]


def test_a_token_that_is_not_valid_is_told(two: tuple[httpx.Client, httpx.Client]) -> None:
    for path in ("/rag/query", RESEARCH):
        answer = two[0].post(path, json=QUERY, headers={"Authorization": "Bearer x"})
        assert answer.status_code == 401
        assert "log in again" in answer.json()["detail"]
