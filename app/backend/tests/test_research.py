"""Research through real workers: its report, its progress, and what puts an end to it.

Every test starts workers of its own: many need a time without one.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from appstack import PASSWORD, Stack, Web
from celery import Celery
from fakeprovider import Provider, provider
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from testkit import Process, wait_until

BULK = "/api/admin/bulk/regenerate-embeddings"
STAGES = ["initialise", "create_graph", "research", "finalise"]
QUERY = "Where was the palace built? Who built it?"


@pytest.fixture(autouse=True)
def empty_queue(stack: Stack) -> Iterator[None]:
    """What a test leaves to nobody is not the next one's."""
    yield
    stack.redis.client(0).delete("research")


def events(client: httpx.Client, task_id: str, started: threading.Event) -> list[dict[str, Any]]:
    """All that a stream tells, until the server ends it."""
    told = []
    with client.stream("GET", f"/api/task/{task_id}/events", timeout=60) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["x-accel-buffering"] == "no"
        for line in answer.iter_lines():
            if line.startswith("data: "):
                told.append(json.loads(line.removeprefix("data: ")))
                started.set()
    return told


def ask(client: httpx.Client, query: str = QUERY) -> str:
    answer = client.post("/api/research/async", json={"query": query})
    assert answer.status_code == 202, answer.text
    told = answer.json()
    assert set(told) == {"task_id", "status", "message"}
    assert told["status"] == "processing"
    assert told["task_id"] in told["message"]
    return told["task_id"]


def test_progress_in_order_and_a_report(
    stack: Stack, admin: httpx.Client, web: Web, make_items: Callable, finish: Callable
) -> None:
    task_id = ask(admin)
    told: list[dict[str, Any]] = []
    started = threading.Event()

    def follow() -> None:
        with web.client() as client:
            client.headers = admin.headers
            told.extend(events(client, task_id, started))

    thread = threading.Thread(target=follow)
    thread.start()
    assert started.wait(30)  # it is listened to before there is a worker
    worker = stack.worker()
    try:
        items = make_items("The palace of Gyeongbokgung", "A bridge over the Han")
        for task in admin.post(BULK, json={"context_ids": items}).json()["task_ids"]:
            assert finish(task)["status"] == "success"
        thread.join(60)
        second = finish(ask(admin), 60)
    finally:
        worker.kill()
        thread.join()
    assert [state.get("status") for state in told] == ["pending", *["progress"] * 5, "success"]
    assert [state.get("stage") for state in told] == [None, None, *STAGES, None]
    percentages = [state["percentage"] for state in told if "percentage" in state]
    assert percentages == sorted(set(percentages))
    assert all(0 <= percentage < 100 for percentage in percentages)
    for state in told:  # nothing of the worker's own
        assert set(state) <= {"task_id", "status", "stage", "percentage", "result"}
    assert admin.get(f"/api/task/{task_id}").json() == told[-1]
    result = second["result"]
    assert set(result) == {"status", "report", "session_id", "query"}
    assert (result["status"], result["query"]) == ("completed", QUERY)
    assert result["report"].startswith(f"# {QUERY}\n")
    assert "[1] The palace of Gyeongbokgung" in result["report"]
    assert "> What is known of The palace of Gyeongbokgung." in result["report"]


def test_waiting_for_the_report(stack: Stack, guest: httpx.Client, finish: Callable) -> None:
    worker = stack.worker()
    try:
        finish(ask(guest), 60, guest)  # the first one takes seconds longer
        answer = guest.post("/api/research", json={"query": "  A  palace?\n"}, timeout=40)
        topic = {"topic": "A palace", "constraints": {"days": 2, "budget": "low"}}
        bound = guest.post("/api/research", json=topic, timeout=40)
    finally:
        worker.kill()
    assert bound.status_code == 200, bound.text
    assert bound.json()["query"] == "A palace (days: 2; budget: low)"
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"status", "report", "session_id", "query"}
    assert answer.json()["report"].startswith("# A palace?\n")


def test_messages_of_the_release_before_are_run(stack: Stack) -> None:
    worker = stack.worker()
    try:
        with Celery(broker=stack.redis.url(0), backend=stack.redis.url(2)) as client:
            canary = client.send_task("health_check", queue="default").get(timeout=60)
            result = client.send_task("run_research", (QUERY,), queue="research").get(timeout=60)
    finally:
        worker.kill()
    assert canary["status"] == "ok"
    assert (result["status"], result["query"]) == ("completed", QUERY)


def test_waiting_has_an_end_and_the_task_goes_on(
    stack: Stack, finish: Callable, guest: httpx.Client
) -> None:
    web = stack.web(RESEARCH_WAIT_SECONDS="1")
    try:
        with web.client() as client:  # a new guest: the 504 brings the cookie
            answer = client.post("/api/research", json={"query": QUERY})
            assert answer.status_code == 504, answer.text
            task_id = answer.json()["detail"]["task_id"]
            assert client.get(f"/api/task/{task_id}").json() == {
                "task_id": task_id,
                "status": "pending",
            }
            assert guest.get(f"/api/task/{task_id}").status_code == 404
            worker = stack.worker()
            try:
                assert finish(task_id, 60, client)["status"] == "success"
            finally:
                worker.kill()
    finally:
        web.kill()


@pytest.mark.parametrize("path", ["/api/research", "/api/research/async"])
@pytest.mark.parametrize(
    "body",
    [
        "{",
        "{}",
        '{"query": 1}',
        '{"query": ""}',
        '{"query": " \\n\\t "}',
        '{"query": "x\\u0000"}',
        '{"query": "\\ud800"}',
        json.dumps({"query": "x" * 2001}),
        '{"topic": " "}',
        '{"constraints": {"days": 2}}',
        '{"topic": "x", "constraints": 1}',
        '{"topic": "x", "constraints": ["x\\u0000"]}',
        json.dumps({"topic": "x", "constraints": ["x"] * 21}),
    ],
)
def test_a_wrong_query_is_told(guest: httpx.Client, path: str, body: str) -> None:
    answer = guest.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"]


def test_too_large_a_query(guest: httpx.Client) -> None:
    assert guest.post("/api/research", json={"query": "x" * 5_000_000}).status_code == 413


def test_revoking_is_the_admins(guest: httpx.Client) -> None:
    assert guest.delete("/api/task/abc").status_code == 401


@pytest.mark.parametrize("path", ["/api/task/a%00b", "/api/task/" + "a" * 65])
def test_wrong_task_ids(admin: httpx.Client, path: str) -> None:
    assert admin.delete(path).status_code == 422
    assert admin.get(f"{path}/events").status_code == 422


def test_a_waiting_task_is_revoked_for_a_worker_that_comes_later(
    stack: Stack, admin: httpx.Client, make_items: Callable, finish: Callable
) -> None:
    (item,) = make_items("Changdeokgung")
    embedding = stack.send(item)
    research = ask(admin)
    for task_id in (embedding, research, research):  # twice is once
        answer = admin.delete(f"/api/task/{task_id}")
        assert answer.status_code == 200, answer.text
        assert answer.json() == {"task_id": task_id, "status": "revoked", "error": "revoked"}
    worker = stack.worker()
    try:
        after = ask(admin)
        assert finish(after, 60)["status"] == "success"  # the queue went on behind them

        def failed() -> bool:
            shown = admin.get(f"/api/admin/items/{item}").json()
            return (shown["status"], shown["error"]) == ("FAILED", "revoked")

        wait_until(failed, "the item does not wait for its task", log=worker.log)
    finally:
        worker.kill()
    for task_id in (embedding, research):
        assert admin.get(f"/api/task/{task_id}").json()["status"] == "revoked"
        assert stored(stack, task_id) == "REVOKED"
    late = admin.delete(f"/api/task/{after}")
    assert late.status_code == 409
    assert "success" in late.json()["detail"]
    assert admin.get(f"/api/task/{after}").json()["status"] == "success"


def test_a_task_that_waits_for_its_retry_is_revoked(stack: Stack, admin: httpx.Client) -> None:
    worker = stack.worker(QDRANT_URL="http://127.0.0.1:1")

    def log(text: str) -> bool:
        return text in worker.log.read_text()

    try:
        task_id = ask(admin)
        wait_until(lambda: log(f"{task_id}] retry: Retry in"), "it is retried", 60, worker.log)
        assert admin.delete(f"/api/task/{task_id}").status_code == 200
        wait_until(lambda: log(f"{task_id}] ignored"), "it is not run", 60, worker.log)
    finally:
        worker.kill()
    assert admin.get(f"/api/task/{task_id}").json()["status"] == "revoked"
    assert stored(stack, task_id) == "REVOKED"


def stored(stack: Stack, task_id: str) -> str:
    return json.loads(stack.redis.client(2).get(f"celery-task-meta-{task_id}"))["status"]


@pytest.fixture
def model() -> Iterator[Provider]:
    with provider() as made:
        yield made


@pytest.fixture
def chatting(stack: Stack, model: Provider) -> Iterator[Process]:
    """A worker whose reports come from a chat model."""
    worker = stack.worker(OPENAI_BASE_URL=model.url, CHAT_MODEL="fake-chat")
    yield worker
    worker.kill()


def test_the_report_of_a_chat_model(
    admin: httpx.Client,
    chatting: Process,
    model: Provider,
    make_items: Callable,
    finish: Callable,
) -> None:
    (item,) = make_items("Deoksugung")
    (task,) = admin.post(BULK, json={"context_ids": [item]}).json()["task_ids"]
    finish(task)
    result = finish(ask(admin, "Deoksugung"), 60)["result"]
    assert result["report"] == "# A report of the model"
    asked = model.asked[0][2]["messages"][1]["content"]
    assert asked.startswith("Question: Deoksugung\n")
    assert "> What is known of Deoksugung." in asked


def test_a_running_research_is_revoked_and_the_worker_goes_on(
    stack: Stack, admin: httpx.Client, chatting: Process, model: Provider, finish: Callable
) -> None:
    model.silent = True
    task_id = ask(admin)
    wait_until(lambda: model.asked, "the model is asked", 60, chatting.log)
    assert admin.get(f"/api/task/{task_id}").json() == {
        "task_id": task_id,
        "status": "progress",
        "stage": "finalise",
        "percentage": 70,
    }
    assert admin.delete(f"/api/task/{task_id}").json()["status"] == "revoked"
    ended = f"tasks.run_research[{task_id}] was revoked while it ran"
    wait_until(lambda: ended in chatting.log.read_text(), "it ends", 20, chatting.log)
    model.silent = False
    assert finish(ask(admin), 60)["status"] == "success"
    assert admin.get(f"/api/task/{task_id}").json()["status"] == "revoked"
    assert stored(stack, task_id) == "REVOKED"


def test_the_time_limit_ends_it_readably(stack: Stack, model: Provider, finish: Callable) -> None:
    model.silent = True
    settings = {"OPENAI_BASE_URL": model.url, "CHAT_MODEL": "fake-chat", "RESEARCH_SECONDS": "5"}
    worker = stack.worker(**settings)
    web = stack.web(**settings)  # the message carries the limit
    try:
        with web.client() as client:
            task = finish(ask(client), 60, client)
            answer = client.post("/api/research", json={"query": QUERY}, timeout=40)
    finally:
        worker.kill()
        web.kill()
    assert task["status"] == "failure"
    assert task["error"] == "The research took longer than 5 s."
    assert answer.status_code == 502, answer.text
    assert answer.json()["detail"]["error"] == task["error"]
    assert "Retry in" not in worker.log.read_text()


def test_without_qdrant_it_is_retried_and_then_failed(
    stack: Stack, admin: httpx.Client, finish: Callable
) -> None:
    worker = stack.worker(QDRANT_URL="http://127.0.0.1:1")
    try:
        task = finish(ask(admin), 60)
    finally:
        worker.kill()
    assert task["status"] == "failure"
    assert "refused" in task["error"]
    assert worker.log.read_text().count("Retry in") == 3


def test_streams_are_bounded_and_leave_nothing_behind(stack: Stack) -> None:
    redis = stack.redis.client(2)

    def followed() -> int:
        return len(redis.pubsub_channels("celery-task-meta-stream-*"))

    # Of three, guests have two.
    web = stack.web(EVENTS_STREAMS="3", EVENTS_SECONDS="17")
    try:
        with web.client() as client:
            with (
                client.stream("GET", "/api/task/stream-1/events", timeout=30) as first,
                client.stream("GET", "/api/task/stream-2/events") as second,
            ):
                lines = first.iter_lines()
                assert json.loads(next(lines).removeprefix("data: "))["status"] == "pending"
                waiting = second.iter_lines()
                assert json.loads(next(waiting).removeprefix("data: "))["status"] == "pending"
                assert followed() == 2
                for ask_again in (
                    client.get("/api/task/stream-3/events"),
                    client.post("/api/research", json={"query": QUERY}),
                ):
                    assert ask_again.status_code == 429
                    assert ask_again.headers["Retry-After"] == "5"
                assert client.get("/health").status_code == 200
                mine = {"headers": login(client), "timeout": 5}
                with client.stream("GET", "/api/task/stream-3/events", **mine) as third:
                    assert third.status_code == 200  # the room that is left for users
                wait_until(lambda: followed() == 2, "its connection is given back", 10)
                second.close()  # this client hangs up
                wait_until(lambda: followed() == 1, "its connection is given back", 10)
                assert ": ping" in list(lines)  # a heartbeat, and the end of the stream
            wait_until(lambda: followed() == 0, "all connections are given back", 10)
            answer = client.delete("/api/task/stream-1", headers=login(client))
            assert answer.status_code == 200
            told = events(client, "stream-1", threading.Event())
            assert [state["status"] for state in told] == ["revoked"]
    finally:
        web.kill()


def test_a_server_that_stops_ends_its_streams(stack: Stack) -> None:
    web = stack.web()
    try:
        with web.client() as client, client.stream("GET", "/api/task/stream-4/events") as stream:
            lines = stream.iter_lines()
            assert json.loads(next(lines).removeprefix("data: "))["status"] == "pending"
            web.signal(signal.SIGTERM)
            assert "".join(lines) == ""  # it ends, and is not cut off
            web.wait(20)
    finally:
        web.kill()
    assert "Application shutdown complete" in web.log.read_text()


def login(client: httpx.Client) -> dict[str, str]:
    answer = client.post("/admin/login", json={"username": "admin", "password": PASSWORD})
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def test_without_redis_a_stream_is_a_503(stack: Stack) -> None:
    away = "redis://127.0.0.1:1/0"
    web = stack.web(CELERY_BROKER_URL=away, CELERY_RESULT_BACKEND=away)
    try:
        with web.client() as client:
            for answer in (
                client.get("/api/task/abc/events"),
                client.post("/api/research", json={"query": QUERY}),
                client.post("/api/research/async", json={"query": QUERY}),
            ):
                assert answer.status_code == 503, answer.text
    finally:
        web.kill()


@effort(deadline=None)  # the first call imports LangGraph
@given(
    st.lists(
        st.fixed_dictionaries(
            {"title": st.text(), "content": st.text(), "score": st.floats(-1, 1)}
        ),
        max_size=3,
    )
)
def test_passages_cannot_change_the_report(passages: list[dict[str, Any]]) -> None:
    from backend.research import listed

    text = listed(passages)
    for line in text.split("\n"):
        assert line == "" or line.startswith(("> ", "## [", "No passages"))
    assert sum(line.startswith("## [") for line in text.split("\n")) == len(passages)


@effort(deadline=None)
@given(st.text(min_size=1))
def test_a_query_becomes_questions(query: str) -> None:
    from backend.research import QUESTIONS, questions

    made = questions(query)
    assert made[0] == query
    assert len(made) == len(set(made)) <= QUESTIONS
    assert all(question in query for question in made)
