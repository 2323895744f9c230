"""A channel that waited in kombu's own way before it takes messages under a lease."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any

import pytest
from crisper_worker import lease, transport
from crisper_worker.lease_keeper import LeaseKeeper
from kombu import Connection, Consumer, Producer, Queue
from testkit import Redis


def test_an_answer_after_mingles_time_ends_no_worker(
    redis_server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: with 100 busy workers a new one died of `expected 3, got 2` as it was ready."""
    redis_server.client().flushall()
    received: list[Any] = []
    url = redis_server.url()
    with Connection(url, transport=transport.Transport) as connection:
        channel = connection.default_channel
        answers, work = Queue("answers"), Queue("work")
        answers(channel).declare()
        work(channel).declare()
        # Mingle: ask, wait for a while, go on. Its BRPOP is still under way.
        with (
            Consumer(channel, [answers], no_ack=True, on_message=received.append),
            pytest.raises(socket.timeout),
        ):
            connection.drain_events(timeout=0.2)
        keeper = LeaseKeeper(30, lambda entry: None)
        monkeypatch.setattr(lease.Lease, "keeper", keeper)
        with Consumer(channel, [work], on_message=received.append):
            assert channel.keeper is keeper
            Producer(connection.channel()).publish("late", routing_key="answers")
            Producer(connection.channel()).publish("task", routing_key="work")
            while not received:
                with contextlib.suppress(socket.timeout):
                    connection.drain_events(timeout=1)
            assert [message.payload for message in received] == ["task"]
            received[0].ack()
    assert redis_server.client().llen("work") == 0
    assert redis_server.client().hlen("unacked") == 0


def test_what_kombu_cannot_restore_is_set_aside(redis_server: Redis) -> None:
    """Regression: kombu logged it and dropped it."""
    redis = redis_server.client()
    redis.flushall()
    fine = {"headers": None, "properties": {"delivery_info": {}}}
    entries = {
        "back": [fine, "", "q"],
        "homeless": [fine, "", ""],
        "nowhere": [fine, "no-exchange", "q"],
        "shapeless": [{"headers": {}, "properties": 7}, "", "q"],
        "no key": [fine, "", {}],
        "no triple": [fine],
        "no json": None,
    }
    with Connection(redis_server.url(), transport=transport.Transport) as connection:
        channel = connection.default_channel
        channel.keeper = LeaseKeeper(30, lambda entry: None)
        channel.keeper.store = lease.open_store(channel, "me")
        for tag, entry in entries.items():
            redis.hset("unacked", tag, "[" if entry is None else json.dumps(entry))
            redis.zadd("unacked_index", {tag: 1})
            channel.qos.restore_by_tag(tag)
    assert [json.loads(raw)["headers"] for raw in redis.lrange("q", 0, -1)] == [
        {"redelivered": True}
    ]
    assert redis.exists("unacked", "unacked_index") == 0
    assert redis.hlen("unacked_aside") == len(entries) - 1
