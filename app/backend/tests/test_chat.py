"""Chat: answers from the items, history in PostgreSQL or MariaDB, and either of them away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from appstack import Stack, Web
from mariadbkit import Mariadb, mariadb
from testkit import wait_until

__all__ = ["mariadb"]
COLLECTION = "chatted"
SESSION = "9b0c6a0e-3c5e-4f0e-9a53-0a8f6d6a3b11"  # well-formed, and nobody's


@pytest.fixture(scope="module")
def in_postgres(stack: Stack) -> Iterator[Web]:
    web = stack.web(QDRANT_COLLECTION=COLLECTION)
    yield web
    web.kill()


@pytest.fixture(scope="module")
def in_mariadb(stack: Stack, mariadb: Mariadb) -> Iterator[Web]:
    web = stack.web(QDRANT_COLLECTION=COLLECTION, MARIADB_URL=mariadb.url)
    yield web
    web.kill()


@pytest.fixture(scope="module", params=["in_postgres", "in_mariadb"])
def client(request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """Of a web process that keeps its history in one or the other."""
    with request.getfixturevalue(request.param).client() as client:
        yield client


@pytest.fixture(scope="module")
def places(stack: Stack, admin: httpx.Client) -> dict[int, str]:
    """Items that the chat can talk about, by id."""
    items = [
        {"title": "Palace", "content": "A royal palace in Seoul.\n서울의 궁궐입니다."},
        {"title": "Beach", "content": "A sandy beach in Busan.\n부산의 해변입니다."},
    ]
    made = {item["id"]: item["title"] for item in admin.post("/api/admin/items", json=items).json()}
    worker = stack.worker("chatted", QDRANT_COLLECTION=COLLECTION)
    try:
        for item in made:
            stack.send(item, "chatted")

        def embedded() -> bool:
            shown = [admin.get(f"/api/admin/items/{item}").json()["status"] for item in made]
            return shown == ["COMPLETED"] * len(made)

        wait_until(embedded, "the places are embedded", log=worker.log)
    finally:
        worker.kill()
    return made


def say(client: httpx.Client, message: str, session_id: str | None = None) -> dict:
    answer = client.post("/chat", json={"message": message, "session_id": session_id})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_conversation(client: httpx.Client, places: dict[int, str]) -> None:
    first = say(client, "Which palace is in Seoul?")
    session = first["session_id"]
    assert UUID(session).version == 4
    assert first["reply"].startswith("Palace: A royal palace in Seoul.")
    assert {source["id"] for source in first["sources"]} == places.keys()
    second = say(client, "부산의 해변은 어디인가요? 🙂", session)
    assert second["session_id"] == session
    assert "Beach: 부산의 해변입니다." in second["reply"]
    shown = client.get(f"/chat/{session}").json()
    assert shown["session_id"] == session
    assert [(line["role"], line["content"]) for line in shown["messages"]] == [
        ("user", "Which palace is in Seoul?"),
        ("assistant", first["reply"]),
        ("user", "부산의 해변은 어디인가요? 🙂"),
        ("assistant", second["reply"]),
    ]
    assert shown["messages"][1]["sources"] == first["sources"]
    assert shown["messages"][0]["sources"] == []
    age = datetime.now(UTC) - datetime.fromisoformat(shown["messages"][0]["created_at"])
    assert abs(age) < timedelta(minutes=1)
    end = client.get(f"/chat/{session}", params={"limit": 1}).json()["messages"]
    assert end == shown["messages"][-1:]


def test_a_short_message_goes_on_from_the_one_before(
    client: httpx.Client, places: dict[int, str]
) -> None:
    session = say(client, "A sandy beach, please")["session_id"]
    assert say(client, "Where?", session)["reply"].startswith("Beach: ")


def test_every_session_has_its_own_history(client: httpx.Client, places: dict[int, str]) -> None:
    with ThreadPoolExecutor(6) as pool:
        begun = list(pool.map(lambda n: say(client, f"beach {n}")["session_id"], range(6)))
    assert len(set(begun)) == 6
    for number, session in enumerate(begun):
        lines = client.get(f"/chat/{session}").json()["messages"]
        assert [lines[0]["content"], len(lines)] == [f"beach {number}", 2]


def test_a_session_that_nobody_began_is_not_there(client: httpx.Client) -> None:
    unknown = str(uuid4())
    for answer in (
        client.get(f"/chat/{unknown}"),
        client.post("/chat", json={"message": "x", "session_id": unknown}),
    ):
        assert answer.status_code == 404
        assert unknown in answer.json()["detail"]


def test_a_conversation_is_for_who_began_it(client: httpx.Client, places: dict[int, str]) -> None:
    """The id was enough to read what others had said, and to go on with it."""
    session = say(client, "beach")["session_id"]
    with httpx.Client(base_url=client.base_url, timeout=15) as other:
        for known in (False, True):
            body = {"message": "beach", "session_id": session}
            for answer in (other.get(f"/chat/{session}"), other.post("/chat", json=body)):
                assert answer.status_code == 404
                assert answer.json() == {"detail": f"There is no session {session}."}
            if not known:
                say(other, "beach")  # a guest too, and another one
    assert len(client.get(f"/chat/{session}").json()["messages"]) == 2


def test_a_conversation_of_an_earlier_release_goes_on(
    in_postgres: Web, stack: Stack, places: dict[int, str]
) -> None:
    """Its id has no owner: who knew it then may go on after the deploy."""
    session = str(uuid4())
    url = stack.environment["DATABASE_URL"].replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO chat_messages (session_id, role, content, sources, created_at)"
            " VALUES (%s, 'user', 'A sandy beach, please', '[]', now())",
            [session],
        )
    with in_postgres.client() as client:
        assert say(client, "Where?", session)["reply"].startswith("Beach: ")
        assert len(client.get(f"/chat/{session}").json()["messages"]) == 3


@pytest.mark.parametrize(
    "session",
    ["", "1", "x" * 36, "../../admin", str(UUID(int=0)), SESSION.upper(), f"{SESSION}\n", 7],
)
def test_session_ids_are_checked(client: httpx.Client, session: str | int) -> None:
    answer = client.post("/chat", json={"message": "x", "session_id": session})
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"message": ""}',
        '{"message": " \\t"}',
        '{"message": "a\\u0000"}',
        '{"message": "\\udfff"}',
        '{"message": "%s"}' % ("x" * 2001),
        '{"message": ["x"]}',
    ],
)
def test_a_wrong_message_is_told(client: httpx.Client, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post("/chat", content=body, headers=headers)
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("path", ["x", f"{SESSION}?limit=0", f"{SESSION}?limit=201", "%00"])
def test_wrong_paths_are_told(client: httpx.Client, path: str) -> None:
    assert client.get(f"/chat/{path}").status_code == 422


def test_the_history_lies_where_it_should(
    in_postgres: Web,
    in_mariadb: Web,
    stack: Stack,
    mariadb: Mariadb,
    places: dict[int, str],
) -> None:
    with in_postgres.client() as client:
        here = say(client, "beach")["session_id"]
    with in_mariadb.client() as client:
        there = say(client, "beach")["session_id"]
    statement = "SELECT DISTINCT session_id FROM chat_messages"
    url = stack.environment["DATABASE_URL"].replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        postgres = {row[0] for row in connection.execute(statement)}
    assert (here in postgres, there in postgres) == (True, False)
    found = {row[0] for row in mariadb.rows(statement)}
    assert (here in found, there in found) == (False, True)
    assert [row[2] for row in mariadb.rows("SHOW INDEX FROM chat_messages")] == [
        "PRIMARY",
        "ix_chat_messages_session_id_id",
        "ix_chat_messages_session_id_id",
    ]


def test_two_processes_at_once_make_one_table(
    stack: Stack, mariadb: Mariadb, places: dict[int, str]
) -> None:
    mariadb.rows("DROP TABLE IF EXISTS chat_messages")
    webs = [
        stack.web(QDRANT_COLLECTION=COLLECTION, MARIADB_URL=mariadb.url, RELEASE=str(number))
        for number in range(2)
    ]
    try:
        with webs[0].client() as one, webs[1].client() as other, ThreadPoolExecutor(8) as pool:
            said = list(pool.map(lambda n: say((one, other)[n % 2], "beach"), range(8)))
    finally:
        for web in webs:
            web.kill()
    assert mariadb.rows("SELECT COUNT(*) FROM chat_messages") == ((2 * len(said),),)


def test_a_new_mariadb_gets_the_table_too(
    in_mariadb: Web, mariadb: Mariadb, places: dict[int, str]
) -> None:
    with in_mariadb.client() as client:
        say(client, "beach")
        mariadb.rows("DROP TABLE chat_messages")
        assert client.post("/chat", json={"message": "beach"}).status_code == 503
        assert len(say(client, "beach")["session_id"]) == 36


def test_mariadb_away_is_a_503_that_names_it_and_heals(
    stack: Stack, mariadb: Mariadb, places: dict[int, str]
) -> None:
    web = stack.web(QDRANT_COLLECTION=COLLECTION, MARIADB_URL=mariadb.url)
    try:
        with web.client() as client:
            session = say(client, "beach")["session_id"]
            assert client.get("/ready").json()["dependencies"]["mariadb"]["ok"] is True
            mariadb.stop()
            started = time.monotonic()
            for answer in (
                client.post("/chat", json={"message": "beach"}),
                client.get(f"/chat/{session}"),
            ):
                assert answer.status_code == 503, answer.text
                assert "mariadb" in answer.json()["detail"]
            ready = client.get("/ready")
            assert (ready.status_code, ready.json()["down"]) == (503, ["mariadb"])
            # What needs no history goes on.
            assert client.post("/rag/query", json={"query": "beach"}).status_code == 200
            assert time.monotonic() - started < 15
            mariadb.start()
            wait_until(lambda: client.get("/ready").status_code == 200, "ready again", 15)
            assert len(client.get(f"/chat/{session}").json()["messages"]) == 2
    finally:
        web.kill()


def test_mariadb_away_from_the_start_stops_only_the_chat(stack: Stack) -> None:
    web = stack.web(MARIADB_URL="mysql+pymysql://x:x@127.0.0.1:1/x")
    try:
        with web.client() as client:
            assert client.post("/chat", json={"message": "x"}).status_code == 503
            assert client.get("/ready").json()["down"] == ["mariadb"]
            assert client.get("/health").status_code == 200
    finally:
        web.kill()


def test_postgresql_or_qdrant_away_is_a_503(stack: Stack) -> None:
    away = "postgresql+psycopg://crisper@127.0.0.1:1/postgres"
    for setting, value, name in (
        ("DATABASE_URL", away, "database"),
        ("QDRANT_URL", "http://127.0.0.1:1", "vector database"),
    ):
        web = stack.web(**{setting: value})
        try:
            with web.client() as client:
                answer = client.post("/chat", json={"message": "x"})
                assert answer.status_code == 503
                assert answer.json()["detail"].startswith(f"The {name} is not available")
        finally:
            web.kill()


def test_without_mariadb_it_is_no_dependency(in_postgres: Web) -> None:
    with in_postgres.client() as client:
        assert "mariadb" not in client.get("/ready").json()["dependencies"]
