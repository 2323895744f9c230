"""Questions: answered from items, from the cache while the data is the same, and under failures."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from appstack import Stack, Web
from proxy import before_each
from testkit import Process, Redis

BULK = "/api/admin/bulk/regenerate-embeddings"


@pytest.fixture(scope="module")
def lonely(stack: Stack) -> Iterator[Web]:
    """A web process with a collection that nothing else fills."""
    process = stack.web(QDRANT_COLLECTION="lonely")
    yield process
    process.kill()


@pytest.fixture(scope="module")
def lonely_worker(stack: Stack) -> Iterator[Process]:
    process = stack.worker("lonely", QDRANT_COLLECTION="lonely")
    yield process
    process.kill()


@pytest.fixture
def embedded(
    stack: Stack, lonely_worker: Process, make_items: Callable, finish: Callable
) -> Callable[..., list[int]]:
    """Create items and wait until the real worker stored their vectors in the lonely collection."""

    def embed(*titles: str) -> list[int]:
        items = make_items(*titles)
        for item in items:
            assert finish(stack.send(item, "lonely"))["status"] == "success"
        return items

    return embed


def ask(client: httpx.Client, query: str, top_k: int = 5) -> dict:
    answer = client.post("/rag/query", json={"query": query, "top_k": top_k})
    assert answer.status_code == 200, answer.text
    return answer.json()


def count(client: httpx.Client, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert found, name
    return float(found[1])


def test_without_any_item_the_answer_says_so(stack: Stack) -> None:
    web = stack.web(QDRANT_COLLECTION="never-made")
    try:
        with web.client() as client:
            answer = ask(client, "palace")
            assert (answer["sources"], answer["cached"]) == ([], False)
            assert answer["answer"] == "Nothing is known about this yet."
            assert "아직 없습니다" in ask(client, "궁궐")["answer"]
    finally:
        web.kill()


def test_an_answer_is_cached_until_the_data_changes(
    lonely: Web, admin: httpx.Client, embedded: Callable
) -> None:
    (bell,) = embedded("The bell pavilion")
    with lonely.client() as client:
        hits, misses = count(client, "cache_hits_total"), count(client, "cache_misses_total")
        first = ask(client, "Where is the bell pavilion?")
        assert [source["id"] for source in first["sources"]] == [bell]
        assert first["answer"] == "The bell pavilion: What is known of The bell pavilion."
        assert first["variants"] == ["where is the bell pavilion?", "bell pavilion"]
        again = ask(client, "  where IS the bell　pavilion? ")
        assert again == first | {"cached": True, "query": "  where IS the bell　pavilion? "}
        assert ask(client, "Where is the bell pavilion?", top_k=4)["cached"] is False
        assert count(client, "cache_hits_total") - hits == 1
        assert count(client, "cache_misses_total") - misses == 2
        assert count(client, "rag_query_seconds_count") >= 3
        (drum,) = embedded("The drum pavilion")
        fresh = ask(client, "Where is the bell pavilion?")
        assert fresh["cached"] is False
        assert {source["id"] for source in fresh["sources"]} == {bell, drum}
        assert ask(client, "Where is the bell pavilion?")["cached"] is True
        assert admin.delete(f"/api/admin/items/{drum}").status_code == 204


def test_a_deleted_item_is_in_no_answer(
    stack: Stack, admin: httpx.Client, embedded: Callable
) -> None:
    (item,) = embedded("The lost lighthouse")
    web = stack.web(QDRANT_COLLECTION="lonely")
    try:
        with web.client() as client:
            client.headers = admin.headers
            assert item in [s["id"] for s in ask(client, "lighthouse")["sources"]]
            assert client.delete(f"/api/admin/items/{item}").status_code == 204
            answer = ask(client, "lighthouse")
            assert answer["cached"] is False
            assert item not in [s["id"] for s in answer["sources"]]
            assert client.get(f"/api/admin/items/{item}").status_code == 404
    finally:
        web.kill()


def test_an_item_that_is_deleted_while_it_is_embedded_leaves_no_vector(
    stack: Stack, admin: httpx.Client, qdrant: str, make_items: Callable, finish: Callable
) -> None:
    (item,) = make_items("The sunken ship")
    deleted: list[int] = []

    def delete(method: str, path: str) -> None:
        if method == "PUT" and path.split("?")[0].endswith("/points"):
            deleted.append(admin.delete(f"/api/admin/items/{item}").status_code)

    with before_each(qdrant, delete) as url:
        worker = stack.worker("deleting", QDRANT_COLLECTION="deleting", QDRANT_URL=url)
        try:
            finish(stack.send(item, "deleting"))
        finally:
            worker.kill()
    assert deleted == [204]
    web = stack.web(QDRANT_COLLECTION="deleting")
    try:
        with web.client() as client:
            assert ask(client, "sunken ship")["sources"] == []
    finally:
        web.kill()


def test_a_cache_that_is_away_or_lies_is_no_failure(
    stack: Stack, tmp_path: Path, embedded: Callable
) -> None:
    embedded("The stone bridge")
    server = Redis(tmp_path)
    server.start()
    web = stack.web(REDIS_URL=server.url(1), QDRANT_COLLECTION="lonely")
    try:
        with web.client() as client:
            assert ask(client, "stone bridge")["cached"] is False
            assert ask(client, "stone bridge")["cached"] is True
            cache = server.client(1)
            (kept,) = cache.keys("rag:answer:*")
            assert 0 < cache.ttl(kept) <= 3600
            cache.set(kept, b'{"not": "an answer"}')
            assert ask(client, "stone bridge")["cached"] is False
            server.stop()
            answer = ask(client, "stone bridge")
            assert answer["cached"] is False
            assert answer["sources"]
            server.start()
            ask(client, "stone bridge")
            assert ask(client, "stone bridge")["cached"] is True
    finally:
        web.kill()
        server.stop()


def test_without_qdrant_it_is_a_503_that_says_so(stack: Stack) -> None:
    web = stack.web(QDRANT_URL="http://127.0.0.1:1", RELEASE="without-qdrant")
    try:
        with web.client() as client:
            answer = client.post("/rag/query", json={"query": "palace"})
            assert answer.status_code == 503
            assert answer.json() == {"detail": "The vector database is not available; try again."}
    finally:
        web.kill()


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"query": ""}',
        '{"query": " \\n\\u3000"}',
        '{"query": "a\\u0000b"}',
        '{"query": "\\ud800"}',
        '{"query": 5}',
        '{"query": "%s"}' % ("x" * 2001),
        '{"query": "x", "top_k": 0}',
        '{"query": "x", "top_k": 51}',
        '{"query": "x", "top_k": 1.5}',
        '{"query": "x", "top_k": null}',
        "[",
        "null",
    ],
)
def test_a_wrong_question_is_told(guest: httpx.Client, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = guest.post("/rag/query", content=body, headers=headers)
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"]


@pytest.mark.parametrize("query", ["?", "\u200b", "ㅋㅋ", "🙂", "x" * 2000, "'; DROP TABLE items"])
def test_a_strange_question_is_answered(guest: httpx.Client, query: str) -> None:
    assert ask(guest, query, 50)["answer"]


def test_the_openapi_shows_examples(guest: httpx.Client) -> None:
    schema = guest.get("/openapi.json").json()["components"]["schemas"]["Question"]
    assert "부산에서 가볼 만한 해변" in [example["query"] for example in schema["examples"]]
