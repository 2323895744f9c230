"""A client that goes past Redis's memory limit, but for what comes in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from crisper_worker.oom_bypass import OomBypassRedis, is_refusal, oom_bypass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.exceptions import ConnectionError, OutOfMemoryError, RedisError, ResponseError
from testkit import APPLICATION, Redis

words = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=4)


@pytest.fixture
def limited(redis_server: Redis) -> OomBypassRedis:
    redis_server.client().flushall()
    return OomBypassRedis(port=redis_server.port, username="app", password=APPLICATION)


def test_a_command_goes_past_and_lpush_does_not(
    limited: OomBypassRedis, redis_server: Redis, at_limit: Callable
) -> None:
    with at_limit(redis_server):
        assert limited.set("key", "value")
        assert limited.hset("hash", mapping={"a": 1, "b": 2}) == 2
        with pytest.raises(OutOfMemoryError):
            limited.lpush("queue", "task")
        with pytest.raises(ResponseError, match="WRONGTYPE"):
            limited.sadd("hash", "member")
    assert (limited.get("key"), limited.llen("queue")) == (b"value", 0)


def test_a_transaction_goes_past_as_a_whole_or_not_at_all(
    limited: OomBypassRedis, redis_server: Redis, at_limit: Callable
) -> None:
    script = limited.register_script("return redis.call('GET', KEYS[1])")
    with at_limit(redis_server):
        with limited.pipeline() as pipe:
            assert pipe.set("key", "value", ex=60).publish("key", "x").get("none").execute() == [
                b"OK",
                0,
                None,
            ]
        with limited.pipeline() as pipe, pytest.raises(OutOfMemoryError):
            pipe.set("other", "x").lpush("queue", "task").execute()
        with limited.pipeline() as pipe:
            script(keys=["key"], client=pipe)
            assert pipe.incr("more").execute() == [b"value", 1]
    assert limited.exists("other", "queue") == 0


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(words, max_size=5))
def test_commands_arrive_as_they_were_given(limited: OomBypassRedis, commands: list) -> None:
    limited.delete("list")
    pushed = [word for command in commands for word in command]
    oom_bypass(limited, [("RPUSH", "list", *command) for command in commands])
    assert limited.lrange("list", 0, -1) == pushed


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), True),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), True),
        (ResponseError("OOM command not allowed"), True),
        (ResponseError("Command # 1 (SETEX a 1 b) of pipeline caused error: MISCONF Err"), True),
        (ResponseError("Command # 1 (SET a MISCONF ) of pipeline caused error: ERR x"), False),
        (ResponseError("WRONGTYPE Operation against a key"), False),
        (ConnectionError("MISCONF"), False),
        (RedisError("OOM "), False),
    ],
)
def test_a_refusal_is_told_from_an_error(error: Exception, refused: bool) -> None:
    assert is_refusal(error) == refused
