"""Embeddings and chat by a provider: a fake one, at the HTTP protocol."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from appstack import Stack
from backend import provider as client
from backend.settings import settings
from fakeprovider import DIMENSIONS, Provider, provider
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from testkit import Process

KEY = "sk-a-key-that-no-log-may-hold"
QUEUE = "provided"


@pytest.fixture(scope="module")
def model() -> Iterator[Provider]:
    with provider() as made:
        yield made


@pytest.fixture
def clean(model: Provider) -> Provider:
    model.script, model.always, model.asked = [], None, []
    return model


@pytest.fixture(scope="module")
def provided(stack: Stack, model: Provider) -> Iterator[Process]:
    """A worker whose embeddings are the provider's."""
    worker = stack.worker(QUEUE, **model.settings(KEY))
    yield worker
    worker.kill()


def error_of(admin: httpx.Client, item: int) -> tuple[str, str | None]:
    # This web process looks into another collection: only the row counts.
    items = admin.get("/api/admin/items", params={"before": item, "limit": 1}).json()
    return items[0]["status"], items[0]["error"]


def test_too_many_requests_pass(
    stack: Stack,
    admin: httpx.Client,
    clean: Provider,
    provided: Process,
    make_items: Callable,
    finish: Callable,
) -> None:
    (item,) = make_items("Haeundae")
    clean.script = [(429, {"error": {"message": "slow down"}})]
    task = finish(stack.send(item, QUEUE))
    assert task["status"] == "success", task
    assert error_of(admin, item) == ("COMPLETED", None)
    assert len(clean.asked) == 2
    path, headers, body = clean.asked[-1]
    assert (path, headers["authorization"]) == ("/v1/embeddings", f"Bearer {KEY}")
    assert body["model"] == "fake-embedding"
    assert body["input"] == ["Haeundae\nWhat is known of Haeundae."]
    found = httpx.get(
        f"{stack.environment['QDRANT_URL']}/collections/of-the-provider",
        headers={"api-key": stack.environment["QDRANT_API_KEY"]},
    ).json()
    assert found["result"]["config"]["params"]["vectors"]["size"] == DIMENSIONS


def test_trouble_that_stays_is_retried_three_times(
    stack: Stack,
    admin: httpx.Client,
    clean: Provider,
    provided: Process,
    make_items: Callable,
    finish: Callable,
) -> None:
    (item,) = make_items("Gwanghwamun")
    clean.always = (500, {"error": {"message": "out of order"}})
    assert finish(stack.send(item, QUEUE), 60)["status"] == "failure"
    status, error = error_of(admin, item)
    assert status == "FAILED"
    assert "out of order" in error
    assert len(clean.asked) == 4


@pytest.mark.parametrize("status", [400, 401])
def test_a_refusal_is_final_and_the_key_stays_secret(
    stack: Stack,
    admin: httpx.Client,
    clean: Provider,
    provided: Process,
    make_items: Callable,
    finish: Callable,
    status: int,
) -> None:
    (item,) = make_items("Insadong")
    clean.always = (status, {"error": {"message": f"Incorrect API key provided: {KEY}"}})
    task = finish(stack.send(item, QUEUE))
    assert task["status"] == "failure"
    assert error_of(admin, item)[0] == "FAILED"
    error = error_of(admin, item)[1]
    assert "Incorrect API key provided: ***" in error
    assert len(clean.asked) == 1
    assert KEY not in provided.log.read_text() + error + str(task)


def test_another_model_needs_another_collection(
    stack: Stack,
    admin: httpx.Client,
    clean: Provider,
    make_items: Callable,
    finish: Callable,
    worker: Process,
) -> None:
    first, second = make_items("Namdaemun", "Dongdaemun")
    assert finish(stack.send(first))["status"] == "success"  # 256 floats, in `items`
    other = stack.worker("other", **clean.settings(KEY) | {"QDRANT_COLLECTION": "items"})
    try:
        assert finish(stack.send(second, "other"))["status"] == "failure"
    finally:
        other.kill()
    status, error = error_of(admin, second)
    assert status == "FAILED"
    assert "vectors of 256 floats, the embedding model makes 8" in error


@pytest.fixture
def here(clean: Provider, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """The provider's client in this process."""
    for name, value in clean.settings(KEY).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CHAT_MODEL", "fake-chat")
    for cached in (settings, client.client):
        cached.cache_clear()
    yield clean
    client.client().close()
    for cached in (settings, client.client):
        cached.cache_clear()


def test_chat(here: Provider, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert client.complete("Be brief.", "What is it?") == "# A report of the model"
    path, headers, body = here.asked[0]
    assert (path, headers["authorization"]) == ("/v1/chat/completions", f"Bearer {KEY}")
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["model"] == "fake-chat"
    assert caplog.text
    assert KEY not in caplog.text


def test_without_a_chat_model_there_is_no_answer(
    here: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAT_MODEL", "")
    settings.cache_clear()
    assert client.complete("Be brief.", "What is it?") is None
    assert here.asked == []


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_what_passes(here: Provider, status: int) -> None:
    here.always = (status, {"error": {"message": "later"}})
    with pytest.raises(client.ProviderAwayError, match="later"):
        client.embed(["x"])
    assert len(here.asked) == 1, "only Celery tries again"


def test_nobody_there_passes(here: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    client.client().close()
    for cached in (settings, client.client):
        cached.cache_clear()
    with pytest.raises(client.ProviderAwayError, match="refused"):
        client.complete("Be brief.", "What is it?")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(
            st.sampled_from(["data", "embedding", "choices", "message", "content", "object"]), inner
        )
    ),
    max_leaves=10,
)


def test_nonsense_is_an_error_that_says_so(here: Provider) -> None:
    @given(answer=JSON | st.binary())
    @effort(max_examples=60, deadline=None)
    def judged(answer: Any) -> None:
        here.always = (200, answer)
        for ask in (lambda: client.embed(["x", "y"]), lambda: client.complete("a", "b")):
            with pytest.raises(client.ProviderError):
                ask()

    judged()
