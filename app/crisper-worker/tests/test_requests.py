"""What a request must be, and what becomes of its place in the pool."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from crisper_worker.bindings import is_binding
from crisper_worker.consumer import run
from crisper_worker.requests import misfit_embed, misfit_headers
from hypothesis import given
from hypothesis import strategies as st
from kombu.asynchronous.semaphore import LaxBoundedSemaphore
from kombu.transport.virtual.exchange import TopicExchange

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
SEPARATOR = "\x06\x16"


@pytest.mark.parametrize("error", [TypeError("garbage"), ConnectionError("away")])
def test_a_request_that_fails_gives_its_place_back(error: Exception) -> None:
    """Regression: Celery keeps the place; a worker without places waits for ever."""
    places = LaxBoundedSemaphore(1)
    controller = SimpleNamespace(_quick_release=places.release)
    message = SimpleNamespace(
        channel=SimpleNamespace(qos=SimpleNamespace(leased=())), delivery_tag="tag"
    )

    def fail(_: Any) -> None:
        raise error

    for _ in range(3):
        request = Mock(id="id", message=message)
        with pytest.raises(type(error)):
            places.acquire(run, controller, fail, request)
        assert places.value == 1


@given(st.dictionaries(st.sampled_from(["stamps", "stamped_headers", "retries"]), values), values)
def test_headers_that_are_no_misfits_do_what_celery_does_with_them(
    headers: dict[str, Any], limits: Any
) -> None:
    if misfit_headers(headers | {"id": "id"}, limits):
        return
    hard, soft = limits
    assert (hard or 0) + (soft or 0) >= 0
    stamps = headers.get("stamps") or {}
    {name: stamps.get(name) for name in headers.get("stamped_headers") or []}
    assert (headers.get("retries") or 0) + 1


@given(
    values | st.dictionaries(st.sampled_from(["callbacks", "errbacks", "chain", "chord"]), values)
)
def test_what_is_embedded_is_judged_whatever_it_is(embed: Any) -> None:
    if not misfit_embed(embed):
        embed = embed or {}
        assert all(one.get("task", 1) for one in embed.get("errbacks") or [] if "task" not in one)
        dict(embed.get("chord") or {})


@given(st.binary())
def test_a_member_that_is_taken_breaks_no_lookup(member: bytes) -> None:
    if is_binding(member, SEPARATOR):
        _key, pattern, _queue = member.decode().split(SEPARATOR)
        re.compile(pattern)
    assert not is_binding(member + SEPARATOR.encode() * 3, SEPARATOR)


@given(st.text(alphabet="ab.*#([+$", max_size=9), st.text(alphabet="q.", max_size=5), st.booleans())
def test_what_kombu_writes_is_a_binding(key: str, queue: str, topic: bool) -> None:
    pattern = TopicExchange(None).key_to_pattern(key) if topic else ""
    assert is_binding(SEPARATOR.join([key, pattern, queue]).encode(), SEPARATOR)
