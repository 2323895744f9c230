"""What is published at the head of a queue, by a real Celery and a Redis that the test plays."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from ansible_collections.crisper.stack.plugins.module_utils.probes.queue_head import (
    NEAREST,
    QueueHead,
    priority_of,
)
from celery import Celery
from kombu import Queue


class Redis:
    """Lists and hashes of a Redis, without network; an old one knows no LPOS."""

    def __init__(self, old: bool = False) -> None:
        self.lists: dict[str, list[bytes]] = {}
        self.hashes: dict[str, dict[str, bytes]] = {}
        self.old = old

    def rpush(self, key: str, payload: str) -> None:
        self.lists.setdefault(key, []).append(payload.encode())

    def execute_command(self, name: str, key: str, payload: str, *options: Any) -> int | None:
        assert (name, *options) == ("LPOS", "RANK", -1, "MAXLEN", NEAREST)
        if self.old:
            raise redis.ResponseError("unknown command 'LPOS'")
        found = self.lists.get(key, [])
        return found.index(payload.encode()) if payload.encode() in found else None

    def lrem(self, key: str, count: int, payload: Any) -> int:
        assert count == -1
        raw = payload if isinstance(payload, bytes) else payload.encode()
        if raw not in self.lists.get(key, []):
            return 0
        self.lists[key].remove(raw)
        return 1

    def lrange(self, key: str, start: int, end: int) -> list[bytes]:
        return self.lists.get(key, [])[start : end + 1 or None]

    def hscan_iter(self, key: str, count: int) -> Any:
        return iter(self.hashes.get(key, {}).items())


@pytest.fixture
def head(monkeypatch):
    """A head of queues on such a Redis."""

    def begin(old: bool = False, **channel: Any) -> tuple[QueueHead, Redis]:
        facts = {"global_keyprefix": "p:", "priority_steps": [0, 3], "unacked_key": "unacked"}
        made = SimpleNamespace(**{**facts, **channel})
        made._q_for_pri = lambda queue, step: f"{queue}:{step}" if step else queue
        transport = SimpleNamespace(driver_type="redis")
        connection = SimpleNamespace(default_channel=made, transport=transport)
        server = Redis(old)
        found = QueueHead(SimpleNamespace(), lambda: connection)
        monkeypatch.setattr(found, "_client", lambda: server)
        return found, server

    return begin


def message(task_id: str) -> dict[str, Any]:
    return {"body": "", "headers": {"id": task_id, "task": "t"}, "properties": {}}


@pytest.mark.parametrize("old", [False, True])
def test_it_is_taken_back_from_the_key_that_is_read_first(head, old):
    found, server = head(old, priority_steps=[3, 6])
    assert found.exact
    found._put_first("q", message("one"))
    found._put_first("q", message("two"))
    assert list(server.lists) == ["p:q:3"], "kombu reads the keys of the first step first"
    assert [json.loads(raw)["headers"]["id"] for raw in server.lists["p:q:3"]] == ["one", "two"]
    assert found.take_back("one")
    assert not found.take_back("one"), "somebody took it"
    assert not found.take_back("never")
    assert len(server.lists["p:q:3"]) == 1


def test_one_that_was_restored_is_no_longer_what_was_published(head):
    found, server = head()
    found._put_first("q", message("one-1"))
    (raw,) = server.lists["p:q"]
    again = {**json.loads(raw), "redelivered": True}
    others = [json.dumps(message(f"one-1{n}")).encode() for n in range(120)]
    server.lists["p:q"] = [json.dumps(again).encode(), *others]
    assert found.take_back("one-1")
    assert server.lists["p:q"] == others


def test_what_workers_hold_is_told_apart(head):
    found, server = head()
    held = [json.dumps([message("one-10"), "exchange", "key"]).encode()]
    server.hashes["p:unacked"] = dict(zip(["tag"], held, strict=True))
    assert found.find_unacked(["one-1", "one-10"], 5.0) == {"one-10"}
    assert found.find_unacked(["one-1"], -1.0) is None, "not all was read"


def test_another_broker_cannot_be_searched():
    transport = SimpleNamespace(driver_type="py-amqp")
    found = QueueHead(SimpleNamespace(), lambda: SimpleNamespace(transport=transport))
    assert not found.exact
    assert not found.take_back("one")
    assert found.find_unacked(["one"], 5.0) is None


@pytest.mark.parametrize(
    ("queue", "options"),
    [
        (Queue("q", max_priority=9), {"priority": 9}),
        (Queue("q", queue_arguments={"x-max-priority": 4}), {"priority": 4}),
        (Queue("q"), {}),
    ],
)
def test_the_highest_priority_of_the_queue_is_used(queue, options):
    app = Celery("x", set_as_current=False)
    app.conf.task_queues = [queue]
    assert priority_of(app, "q") == options
    app.conf.task_create_missing_queues = False
    assert priority_of(Celery("y", set_as_current=False), "q") == {}


def test_a_failed_publication_is_followed_by_a_new_connection():
    made: list[Any] = []

    def connect() -> Any:
        made.append(SimpleNamespace(transport=SimpleNamespace(driver_type="py-amqp"), left=False))
        made[-1].release = lambda: sys.modules  # released without error
        return made[-1]

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no room")

    app = SimpleNamespace(send_task=refuse, amqp=SimpleNamespace(queues={}))
    found = QueueHead(app, connect)
    for _ in range(2):
        with pytest.raises(OSError, match="no room"):
            found.send("t", "one", "q")
    assert len(made) == 2
