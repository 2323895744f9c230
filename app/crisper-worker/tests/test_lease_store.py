"""The scripts, on a real Redis: what is taken, kept, given back and taken over stays intact."""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis as redis_py
from celery import Celery
from crisper_worker import install
from crisper_worker.aside import act, described
from crisper_worker.lease_keeper import LeaseKeeper
from crisper_worker.lease_store import Delivery, LeaseStore
from crisper_worker.past_limit import PastLimitRedis
from crisper_worker.poison import judged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry
from testkit import APPLICATION, Redis, wait_until

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def message(task_id: str = "id", **headers: Any) -> dict[str, Any]:
    properties = {
        "delivery_tag": f"tag-{task_id}",
        "delivery_info": {"exchange": "", "routing_key": "q"},
    }
    return {"body": "W10=", "headers": {"id": task_id, **headers}, "properties": properties}


def store(server: Redis, holder: str = "me") -> LeaseStore:
    redis = PastLimitRedis(port=server.port, username="app", password=APPLICATION)
    return LeaseStore(redis, "p:", "unacked", "unacked_index", holder)


@pytest.fixture
def empty(redis_server: Redis) -> Redis:
    redis_server.client().flushall()
    return redis_server


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


@pytest.mark.parametrize("raw", ["", "no json", "[]", '{"properties": {}}', '{"properties": 7}'])
def test_what_cannot_be_read_is_held_and_set_aside(
    empty: Redis, sweeper: LeaseKeeper, raw: str
) -> None:
    """Regression: it was in no key of Redis any more before the worker had read it."""
    mine, redis = store(empty), empty.client()
    for by_its_worker in (True, False):
        redis.lpush("q", raw)
        source, told, readable, tag = redis.execute_command(*mine.take_command(["q"]))
        assert (source, told, readable) == (b"q", raw.encode(), 0)
        assert redis.hgetall("p:unacked") == {tag: raw.encode()}
        assert redis.exists("p:unacked_index", "q") == 0
        if by_its_worker:
            assert mine.shelve(tag.decode(), "tested")
        else:  # it was killed: another one does it
            redis.zadd("p:unacked_lease", {tag: 1})
            sweeper.sweep()
        assert redis.keys("*") == [b"p:unacked_aside"]
        (entry,) = mine.set_aside_entries().values()
        assert (base64.b64decode(entry.message["unreadable"]), entry.source) == (raw.encode(), "q")
        assert mine.drop(entry)


def test_an_entry_that_is_set_aside_replaces_no_other(empty: Redis) -> None:
    """Regression: whoever wrote a message chose, by its tag, which entry it took the place of."""
    mine, redis = store(empty), empty.client()
    for bad in ({"headers": 7}, {"headers": {"task": []}}, {"headers": {"id": []}}):
        redis.lpush("q", json.dumps(message() | bad))
        redis.execute_command(*mine.take_command(["q"]))
        assert mine.shelve("tag-id", "tested")
    assert len(mine.set_aside_entries()) == 3


def test_a_message_that_does_not_fit_can_be_requeued(empty: Redis) -> None:
    mine, redis, app = store(empty), empty.client(), Celery(backend="cache+memory://")
    redis.lpush("q", json.dumps(message(task="nap")))
    redis.execute_command(*mine.take_command(["q"]))
    assert mine.shelve_unfit("tag-id", "tested")
    (entry,) = mine.set_aside_entries().values()
    assert (entry.task, entry.reason) == ("nap", "cannot be run (tested); it calls itself id")
    assert act(app, mine, "requeue", [entry.task_id]) == []
    assert recovered(redis) == ["id"]
    assert redis.keys("p:*") == []


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
        assert mine.requeue(entry)
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


RAW = st.binary(max_size=40) | st.sampled_from(
    [
        b"[]",
        b"{}",
        b"[7]",
        b'[{"headers": 7}]',
        b'[{"headers": {"id": []}}]',
        b'[{"headers": {"id": "\\ud800"}}, "", "q"]',
        b"[" * 100_000,
        b"9" * 5000,
        b'[{"properties": {"delivery_info": 1}}, "", "q"]',
    ]
)
HOLDERS = st.binary(max_size=20) | st.sampled_from(
    [b"dead\nq", b"dead\n", b"a\np:unacked", b"\n\n"]
)


@pytest.fixture
def sweeper(empty: Redis) -> LeaseKeeper:
    def take_over(mine: LeaseStore, delivery: Delivery, before: float) -> None:
        mine.was_started(delivery.tag)
        mine.deaths(delivery.task_id)
        mine.reclaim(delivery, before)

    keeper = LeaseKeeper(2, take_over)
    keeper.store = store(empty, "other")
    keeper.tick()
    keeper._calm_since = 0.0
    return keeper


def leave_expired(redis: redis_py.Redis, tag: Any, raw: Any, holder: Any, score: float = 2) -> None:
    redis.hset("p:unacked", tag, raw)
    redis.zadd("p:unacked_index", {tag: time.time()})
    redis.zadd("p:unacked_lease", {tag: score})
    if holder is not None:
        redis.hset("p:unacked_holder", tag, holder)


def leave_valid(redis: redis_py.Redis) -> None:
    leave_expired(redis, "tag-valid", json.dumps([message("valid"), "", "q"]), "dead\nq")


def recovered(redis: redis_py.Redis) -> list[str]:
    return [json.loads(raw)["headers"]["id"] for raw in redis.lrange("q", 0, -1)]


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        st.binary(min_size=1, max_size=8), st.tuples(RAW, st.none() | HOLDERS), max_size=4
    ),
    st.binary(max_size=8),
    RAW,
)
def test_garbage_in_redis_stops_the_recovery_of_no_valid_message(
    empty: Redis, sweeper: LeaseKeeper, bad: dict, other: bytes, raw: bytes
) -> None:
    """Regression: one entry `[]` before a valid one kept every worker from taking that over."""
    redis = empty.client()
    redis.flushall()
    for tag, (value, holder) in bad.items():
        leave_expired(redis, tag, value, holder, 1)
    redis.sadd("p:unacked_started", other, "tag-valid")
    redis.hset("p:unacked_aside", other, raw)
    redis.set("p:unacked_deaths:valid", raw)
    leave_valid(redis)
    sweeper.sweep()
    assert "valid" in recovered(redis)
    assert redis.zcard("p:unacked_lease") == 0
    held, entries = set(redis.hkeys("p:unacked")), sweeper.opened_store().set_aside_entries()
    # None is gone: it is kombu's still, set aside, or in the list that its holder named.
    moved = [key for key in redis.keys("*") if redis.type(key) == b"list"]
    assert len(held) + len(entries) - 1 + sum(redis.llen(key) for key in moved) - 1 >= len(
        {tag for tag in bad if tag != other}
    )
    assert all(sweeper.opened_store().drop(entry) for entry in entries.values())
    assert redis.hlen("p:unacked_aside") == 0


@pytest.mark.parametrize("kind", ["started", "source", "deaths"])
def test_a_key_of_another_type_loses_no_message(
    empty: Redis, sweeper: LeaseKeeper, kind: str
) -> None:
    """Regression: a script is not undone by the error that ends it half-way."""
    redis = empty.client()
    leave_valid(redis)
    key = {"started": "p:unacked_started", "source": "q", "deaths": "p:unacked_deaths:valid"}[kind]
    if kind == "deaths":
        redis.sadd("p:unacked_started", "tag-valid")
    redis.set(key, "x")
    now, _ = sweeper.opened_store().renew([])
    if kind == "started":  # it cannot be known, and is asked for each round
        delivery = sweeper.opened_store().find("tag-valid")
        assert delivery is not None
        assert sweeper.opened_store().reclaim(delivery, now)
    else:
        sweeper.sweep()
    if kind == "source":
        assert redis.hkeys("p:unacked") == redis.zrange("p:unacked_index", 0, -1) == [b"tag-valid"]
    else:
        assert recovered(redis) == ["valid"]


@pytest.mark.parametrize("kind", ["unacked", "unacked_index", "unacked_lease", "unacked_holder"])
def test_a_key_of_another_type_is_named_and_loses_no_message(empty: Redis, kind: str) -> None:
    """Regression: a worker that could not register a message died of it, and the next one."""
    mine, redis = store(empty), empty.client()
    keeper = LeaseKeeper(2, lambda store, delivery, before: None)
    keeper.store, keeper._calm_since = mine, 0.0
    redis.set(f"p:{kind}", "x")
    redis.rpush("q", json.dumps(message()))
    with pytest.raises(redis_py.ResponseError) as caught:
        redis.execute_command(*mine.take_command(["q"]))
    assert mine.wrong_types(caught.value, ["q"]).startswith(f"'p:{kind}' is a string instead of a ")
    assert redis.llen("q") == 1
    redis.delete(f"p:{kind}")
    assert redis.hlen("p:unacked") == 0
    assert redis.execute_command(*mine.take_command(["q"]))[2] == 1
    assert (redis.hlen("p:unacked"), redis.llen("q")) == (1, 0)
    redis.set("p:unacked_lease", "x")
    keeper.hold("tag-id")
    assert "'p:unacked_lease' is a string" in keeper._described(caught_by(keeper.tick))
    redis.delete("p:unacked_lease")
    keeper.tick()
    assert redis.zrange("p:unacked_lease", 0, -1) == [b"tag-id"], "its lease is made again"


def caught_by(action: Callable[[], object]) -> Exception:
    with pytest.raises(redis_py.ResponseError) as caught:
        action()
    return caught.value


def test_a_queue_of_another_type_stops_no_other(empty: Redis) -> None:
    mine, redis = store(empty), empty.client()
    redis.set("odd", "x")
    redis.rpush("q", json.dumps(message()))
    assert redis.execute_command(*mine.take_command(["odd", "q"]))[0] == b"q"


def test_what_fails_is_logged_once_and_stops_nothing(
    empty: Redis, sweeper: LeaseKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    redis, taken = empty.client(), []

    def take_over(mine: LeaseStore, delivery: Delivery, before: float) -> None:
        if delivery.tag.startswith("bad"):
            raise TypeError("tested")
        taken.append(mine.reclaim(delivery, before))

    sweeper._take_over = take_over
    redis.zadd("p:unacked_lease", {f"bad{number}": 1 for number in range(501)})
    leave_valid(redis)
    for _ in range(3):
        sweeper.sweep()
    assert taken == [True]
    assert len(caplog.records) == 501
    redis.hset("p:unacked", "own", "[]")
    redis.hset("p:unacked_holder", "own", "other\nq")
    redis.hset("p:unacked", "next", json.dumps([message("next"), "", "q"]))
    redis.hset("p:unacked_holder", "next", "other\nq")
    sweeper.give_back(["own", "next"])
    assert sorted(recovered(redis)) == ["next", "valid"]
    (entry,) = sweeper.opened_store().set_aside_entries().values()
    assert base64.b64decode(entry.message["unreadable"]) == b"[]"


def test_an_entry_that_is_none_hides_no_other(empty: Redis) -> None:
    """Regression: `aside list` failed for all entries, and `drop` said that there were none."""
    mine, redis = store(empty), empty.client()
    app = Celery(backend="cache+memory://")
    good = judged(Delivery("tag", message(), "q", "me"), 1, 1, "tested")
    assert good is not None
    redis.hset("p:unacked_aside", "id", good.dump())
    for name, raw in ((b"zz", b'{"bad": 1}'), (b"\xff\n", b"[" * 100_000), (b"no", good.dump())):
        redis.hset("p:unacked_aside", name, raw)
    entries = mine.set_aside_entries()
    assert set(entries) == {"id", "zz", "no", "\udcff\n"}
    assert {name for name, entry in entries.items() if entry.readable} == {"id"}
    assert "\n" not in described(entries["\udcff\n"])
    assert act(app, mine, "requeue", ["zz"]) == ["zz is no message that can run; `drop` forgets it"]
    assert act(app, mine, "drop", ["zz", "no", r"\udcff\n"]) == []
    redis.set("q", "no list")
    (problem,) = act(app, mine, "requeue", ["id"])
    assert problem.startswith("id was not requeued: WRONGTYPE")
    assert redis.hkeys("p:unacked_aside") == [b"id"]
    redis.delete("q")
    assert act(app, mine, "requeue", ["id"]) == []
    assert recovered(redis) == ["id"]


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
        install(Celery())


def test_a_message_of_another_protocol_has_its_tag_for_an_id() -> None:
    assert Delivery("tag", {"headers": None}, "q", "me").task_id == "tag"
