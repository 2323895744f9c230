"""What others have written into Redis is set aside, and stops the recovery of nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
import redis as redis_py
from celery import Celery
from crisper_worker.aside import act, described
from crisper_worker.lease_keeper import LeaseKeeper
from crisper_worker.lease_store import LeaseStore
from crisper_worker.messages import Delivery
from crisper_worker.poison import judged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lease_kit import leave_expired, leave_valid, message, recovered, store
from testkit import Redis


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
        (entry,) = mine.dead_letters.entries().values()
        assert (base64.b64decode(entry.message["unreadable"]), entry.source) == (raw.encode(), "q")
        assert mine.dead_letters.drop(entry)


def test_an_entry_that_is_set_aside_replaces_no_other(empty: Redis) -> None:
    """Regression: whoever wrote a message chose, by its tag, which entry it took the place of."""
    mine, redis = store(empty), empty.client()
    for bad in ({"headers": 7}, {"headers": {"task": []}}, {"headers": {"id": []}}):
        redis.lpush("q", json.dumps(message() | bad))
        redis.execute_command(*mine.take_command(["q"]))
        assert mine.shelve("tag-id", "tested")
    assert len(mine.dead_letters.entries()) == 3


def test_a_message_that_does_not_fit_can_be_requeued(empty: Redis) -> None:
    mine, redis, app = store(empty), empty.client(), Celery(backend="cache+memory://")
    redis.lpush("q", json.dumps(message(task="nap")))
    redis.execute_command(*mine.take_command(["q"]))
    assert mine.shelve_unfit("tag-id", "tested")
    (entry,) = mine.dead_letters.entries().values()
    assert (entry.task, entry.reason) == ("nap", "cannot be run (tested); it calls itself id")
    assert act(app, mine, "requeue", [entry.task_id]) == []
    assert recovered(redis) == ["id"]
    assert redis.keys("p:*") == []


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
    held, entries = set(redis.hkeys("p:unacked")), sweeper.opened_store().dead_letters.entries()
    # None is gone: it is kombu's still, set aside, or in the list that its holder named.
    moved = [key for key in redis.keys("*") if redis.type(key) == b"list"]
    assert len(held) + len(entries) - 1 + sum(redis.llen(key) for key in moved) - 1 >= len(
        {tag for tag in bad if tag != other}
    )
    assert all(sweeper.opened_store().dead_letters.drop(entry) for entry in entries.values())
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
    keeper.store, keeper.calm.since = mine, 0.0
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

    sweeper.recovery.take_over = take_over
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
    (entry,) = sweeper.opened_store().dead_letters.entries().values()
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
    entries = mine.dead_letters.entries()
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
