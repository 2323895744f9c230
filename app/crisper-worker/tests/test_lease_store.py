"""The scripts, on a real Redis: what is taken, kept, given back and taken over stays intact."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable

import pytest
import redis as redis_py
from crisper_worker.lease_keeper import LeaseKeeper
from crisper_worker.lease_store import LeaseStore
from crisper_worker.messages import Delivery
from crisper_worker.poison import judged
from crisper_worker.settings import Settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lease_kit import message, store
from redis.backoff import NoBackoff
from redis.retry import Retry
from testkit import Redis, wait_until

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(), values, max_size=4), st.sampled_from(["q", "q\x06\x163"]))
def test_a_message_comes_back_as_it_went(empty: Redis, headers: dict, source: str) -> None:
    mine, redis = store(empty), empty.client()
    sent = message() | {"headers": {**headers, "id": "id"}}
    redis.lpush(source, json.dumps(sent))
    taken_from, raw, *registered = redis.execute_command(*mine.take_command(["none", source]))
    assert (taken_from.decode(), json.loads(raw), registered) == (source, sent, [1, b"tag-id"])
    assert json.loads(redis.hget("p:unacked", "tag-id")) == [sent, "", "q"]
    assert mine.renew(["tag-id", "other"])[1] == {"other"}
    assert mine.give_back("tag-id") is True
    back = json.loads(redis.rpop(source))
    assert back["headers"].pop("redelivered") is True
    assert back["properties"]["delivery_info"].pop("redelivered") is True
    sent["headers"].pop("redelivered", None)
    assert back == sent
    assert redis.keys("*") == []


def test_only_the_holder_gives_back_and_only_the_expired_is_taken_over(empty: Redis) -> None:
    mine, other, redis = store(empty), store(empty, "other"), empty.client()
    redis.lpush("q", json.dumps(message()))
    before, _ = other.renew([])
    redis.execute_command(*mine.take_command(["q"]))
    assert other.give_back("tag-id") is False
    assert other.renew(["tag-id"])[1] == {"tag-id"}
    delivery = other.find("tag-id")
    assert (delivery.holder, delivery.source, delivery.task_id) == ("me", "q", "id")
    assert other.expired(before) == []
    assert other.reclaim(delivery, before) is False
    now, _ = other.renew([])
    assert other.expired(now) == ["tag-id"]
    mine.renew(["tag-id"])
    assert other.reclaim(delivery, now) is False  # renewed between the look and the leap
    later, _ = other.renew([])
    assert other.reclaim(delivery, later) is True
    assert other.reclaim(delivery, later) is False
    assert redis.llen("q") == 1
    assert redis.keys("p:*") == []


def test_deaths_count_only_what_was_started(empty: Redis) -> None:
    mine, redis = store(empty), empty.client()
    for started, deaths in ((False, 0), (True, 1), (True, 2), (False, 2)):
        redis.delete("q")
        redis.lpush("q", json.dumps(message()))
        redis.execute_command(*mine.take_command(["q"]))
        if started:
            mine.start("tag-id")
        now, _ = mine.renew([])
        assert mine.reclaim(mine.find("tag-id"), now) is True
        assert mine.deaths("id") == deaths
    mine.start("tag-id")  # nobody holds it: nothing to mark
    assert redis.exists("p:unacked_started") == 0


def test_a_redis_that_takes_no_writes_keeps_the_message(empty: Redis, full_disk: Callable) -> None:
    mine, redis = store(empty), empty.client()
    redis.lpush("q", json.dumps(message()))
    with full_disk(empty):
        with pytest.raises(redis_py.ResponseError, match="MISCONF"):
            redis.set("more", 1)
        assert redis.execute_command(*mine.take_command(["q"])) is None
    assert redis.llen("q") == 1
    assert redis.keys("p:*") == []


def test_what_a_worker_holds_ends_at_the_memory_limit(empty: Redis, at_limit: Callable) -> None:
    mine, redis = store(empty), empty.client()
    for task_id in ("done", "given", "aside"):
        redis.lpush("q", json.dumps(message(task_id)))
    with at_limit(empty):
        with pytest.raises(redis_py.exceptions.OutOfMemoryError):
            redis.lpush("q", "more")
        for _ in range(3):
            redis.execute_command(*mine.take_command(["q"]))
        assert redis.llen("q") == 0
        assert mine.renew(["tag-done", "tag-given"])[1] == set()
        mine.start("tag-done")
        assert mine.was_started("tag-done")
        mine.ack("tag-done")
        assert mine.give_back("tag-given") is True
        delivery = mine.find("tag-aside")
        assert delivery is not None
        assert mine.count_death("aside") == mine.deaths("aside") == 1
        entry = judged(delivery, 1, 1, "tested")
        assert entry is not None
        assert mine.set_aside(delivery, entry)
        assert mine.dead_letters.requeue(entry)
    assert redis.llen("q") == 2
    assert redis.keys("p:*") == []


def test_after_an_outage_nobody_takes_over_before_all_could_renew(empty: Redis) -> None:
    taken: list[str] = []
    keeper = LeaseKeeper(2, lambda store, delivery, before: taken.append(delivery.tag))
    keeper.store = store(empty, "other")
    empty.client().zadd("p:unacked_lease", {"tag-id": 0})
    keeper.tick()
    keeper.sweep()
    assert taken == []  # just begun: the holder may not have been heard yet

    def ticked() -> bool:
        keeper.tick()
        keeper.sweep()
        return bool(taken)

    begun = time.monotonic()
    wait_until(ticked, "it is taken over", 10)
    assert time.monotonic() - begun >= 1.5
    assert taken == ["tag-id"]


def test_a_standstill_delays_what_is_taken_over_and_is_said(
    sweeper: LeaseKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    assert sweeper.is_calm()
    # Redis's clock has gone on since, and this worker has not.
    sweeper.calm.server_time -= 7
    with caplog.at_level(logging.WARNING):
        sweeper.tick()
        sweeper.tick()
    assert not sweeper.is_calm()
    (said,) = [record.message for record in caplog.records]
    assert said.startswith("leases: this worker or Redis stood still for 7 s; for 2 s nothing")


def test_a_lost_lease_is_said_once(empty: Redis, caplog: pytest.LogCaptureFixture) -> None:
    keeper = LeaseKeeper(2, lambda store, delivery, before: None)
    keeper.store = store(empty)
    keeper.hold("tag-id")
    with caplog.at_level(logging.ERROR):
        for _ in range(4):
            keeper.tick()
    assert len(caplog.records) == 1
    assert caplog.records[0].message.startswith("the lease of message tag-id expired")
    assert keeper.leased_tags() == set()


def test_what_cannot_be_said_is_held_and_said_later(empty: Redis) -> None:
    mine, redis = store(empty), empty.client()
    keeper = LeaseKeeper(2, lambda store, delivery, before: None)
    nobody = redis_py.Redis(port=1, retry=Retry(NoBackoff(), 0))
    keeper.store = LeaseStore(nobody, "p:", "unacked", "unacked_index", "me")
    for task_id in ("done", "left"):
        redis.lpush("q", json.dumps(message(task_id)))
        redis.execute_command(*mine.take_command(["q"]))
        keeper.hold(f"tag-{task_id}")
    keeper.ack("tag-done")
    keeper.give_back(["tag-left"])
    keeper.store = mine
    keeper.tick()
    assert [json.loads(raw)["headers"]["id"] for raw in redis.lrange("q", 0, -1)] == ["left"]
    assert redis.keys("p:*") == []
    assert keeper.leased_tags() == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CELERY_LEASE_SECONDS", "soon"),
        ("CELERY_LEASE_SECONDS", "1"),
        ("CELERY_LEASE_SECONDS", "nan"),
        ("CELERY_LEASE_SECONDS", "inf"),
        ("CELERY_MAX_DELIVERIES", "-1"),
        ("CELERY_DRAIN_TIMEOUT", "-5"),
    ],
)
def test_a_bad_number_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{name} is '{value}': set a number of at least"):
        Settings.read()


def test_a_message_of_another_protocol_has_its_tag_for_an_id() -> None:
    assert Delivery("tag", {"headers": None}, "q", "me").task_id == "tag"
