"""Messages that take too much memory once they are read are set aside unread."""

from __future__ import annotations

import base64
import bz2
import json
import lzma
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from crisper_worker import weight
from crisper_worker.dead_letters import DeadLetter
from crisper_worker.garbage import read_message
from crisper_worker.lease_keeper import LeaseKeeper
from crisper_worker.messages import UnreadableError
from lease_kit import message, store
from testkit import Redis

TABLES = 2_000_000  # each of a few bytes


def bomb(tables: int = TABLES) -> str:
    return f'{{"a":[{",".join(["{}"] * tables)}]}}'


def with_body(body: bytes, **headers: Any) -> dict[str, Any]:
    """A message as kombu writes it, whose body comes first."""
    sent = message()
    sent["properties"]["body_encoding"] = "base64"
    sent["headers"] |= headers
    return {"body": base64.b64encode(body).decode()} | {k: sent[k] for k in sent if k != "body"}


def test_a_bomb_is_not_read_by_redis(empty: Redis) -> None:
    """Regression: one message of 24 MB ended Redis, and again after each start."""
    mine, redis = store(empty), empty.client()
    redis.config_resetstat()
    redis.rpush("q", bomb())
    begun = time.monotonic()
    _, raw, readable, tag = redis.execute_command(*mine.take_command(["q"]))
    assert (readable, raw[:9]) == (0, b'{"a":[{},')
    assert time.monotonic() - begun < 5
    assert redis.info("memory")["used_memory_peak"] < 200_000_000
    with pytest.raises(UnreadableError, match="takes more than"):
        read_message(raw)
    assert mine.shelve(tag.decode(), "too heavy")
    assert redis.hlen("p:unacked_aside") == 1
    assert redis.hstrlen("p:unacked_aside", redis.hkeys("p:unacked_aside")[0]) < 200_000


def test_a_large_message_is_read(empty: Redis) -> None:
    """Of an application that sends files, and of one whose client orders the parts otherwise."""
    mine, redis = store(empty), empty.client()
    for sent in (with_body(bytes(4_000_000)), dict(reversed(with_body(bytes(4_000_000)).items()))):
        sent["properties"]["delivery_info"] |= {"exchange": "", "routing_key": "q"}
        redis.rpush("q", json.dumps(sent))
        _, raw, readable, _ = redis.execute_command(*mine.take_command(["q"]))
        assert readable == 1
        assert read_message(raw) == sent


def test_a_bomb_under_a_lease_is_set_aside(empty: Redis, sweeper: LeaseKeeper) -> None:
    """Regression: each worker that swept was ended for its memory."""
    redis = empty.client()
    redis.hset("p:unacked", "bomb", f'[{{"headers":{bomb()},"properties":{{}}}},"","q"]')
    redis.hset("p:unacked_holder", "bomb", "dead\nq")
    redis.zadd("p:unacked_lease", {"bomb": 1})
    assert sweeper.opened_store().is_kombus("bomb") is False
    sweeper.sweep()
    assert redis.hlen("p:unacked") == 0
    (entry,) = sweeper.opened_store().dead_letters.entries().values()
    assert "takes more than" in entry.reason
    assert "takes more than" in DeadLetter.load("x", bomb().encode()).reason


@pytest.mark.parametrize(
    ("kind", "compress"),
    [
        ("application/x-gzip", zlib.compress),
        ("gzip", zlib.compress),
        ("bzip2", bz2.compress),
        ("lzma", lzma.compress),
    ],
)
def test_what_grows_when_it_is_decompressed(
    monkeypatch: pytest.MonkeyPatch, kind: str, compress: Callable[[bytes], bytes]
) -> None:
    """Regression: 300 KB made 300 MB, in every worker and without a death that counts."""
    monkeypatch.setattr(weight, "MOST", 3 << 20)
    fine = with_body(compress(b"[" + b" " * (2 << 20)), compression=kind)
    assert read_message(json.dumps(fine).encode())["headers"]["compression"] == kind
    for body in (bytes(4 << 20), bomb(600_000).encode()):
        with pytest.raises(UnreadableError, match="its body has"):
            read_message(json.dumps(with_body(compress(body), compression=kind)).encode())
    with pytest.raises(UnreadableError):
        read_message(json.dumps(with_body(b"garbage", compression=kind)).encode())


def test_a_set_of_started_tasks_of_another_type_is_removed(empty: Redis) -> None:
    """Regression: no acknowledgement was complete any more, and each was tried for ever."""
    mine, redis = store(empty), empty.client()
    redis.lpush("q", json.dumps(message()))
    redis.execute_command(*mine.take_command(["q"]))
    redis.set("p:unacked_started", "x")
    mine.ack("tag-id")
    assert redis.keys("p:*") == []
