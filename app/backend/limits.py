"""How much one client, and all clients together, may have of what costs much: 429 beyond it.

The counts lie in Redis, so that they hold over all processes and hosts. While Redis does not answer
each process counts for itself: questions are answered without Redis, and a limit that fails open
would be gone just when the site is in trouble. What needs Redis itself is a 503 then, as before.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any

from fastapi import HTTPException
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from backend.callers import Asking, Caller
from backend.settings import settings
from backend.task_state import FINAL, describe, keys

log = logging.getLogger(__name__)
MINUTE = 60.0  # seconds
ANSWER = 0.5  # seconds that Redis has; a request waits for it
AWAY = 5.0  # seconds for which a Redis that did not answer is not asked again
CONNECTIONS = 32  # to each database of Redis, per process
KNOWN = 10_000  # clients that one process remembers
BUSY = 30  # seconds after which to come back to a full queue
DAY = 86400.0  # seconds; results are kept as long
# KEYS: the client's. ARGV: milliseconds that one request takes of the client's time, and the most
# that may be taken ahead. Returns the milliseconds to wait: 0 when the request may pass. What lies
# there is the time until which requests have taken the client's time (GCRA).
TAKE = """
local now = redis.call('TIME')
now = now[1] * 1000 + math.floor(now[2] / 1000)
local taken = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now) + tonumber(ARGV[1])
local wait = math.ceil(taken - tonumber(ARGV[2]) - now)
if wait > 0 then return wait end
redis.call('SET', KEYS[1], string.format('%.3f', taken), 'PX', math.ceil(taken - now))
return 0
"""
# KEYS: the client's. ARGV: a new member, seconds that it counts, the most members. 1: it is in.
ACQUIRE = """
local now = redis.call('TIME')[1]
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], math.ceil(ARGV[2]))
return 1
"""
# KEYS: the client's. ARGV: a member, seconds that it counts from now on.
RENEW = """
redis.call('ZADD', KEYS[1], 'XX', redis.call('TIME')[1] + ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], math.ceil(ARGV[2]))
"""


def too_many_requests(detail: str, seconds: float) -> HTTPException:
    """Return a 429 that says when to come back."""
    return HTTPException(429, detail, headers={"Retry-After": str(max(1, math.ceil(seconds)))})


class RateLimiter:
    """Requests of clients over time, as one process counts them: TAKE without Redis."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.taken: dict[str, float] = {}

    def wait(self, key: str, per_minute: int) -> float:
        """Return the seconds to wait, 0 when the request may pass (it is counted then)."""
        now, each = self.clock(), MINUTE / per_minute
        taken = max(self.taken.get(key, 0.0), now) + each
        # A request that comes after exactly so long may pass, whatever floats make of that.
        if (wait := taken - MINUTE - now) > 1e-6:
            return wait
        self.remember(key, taken)
        return 0.0

    def blocked(self, key: str) -> float:
        """Return the seconds for which `remember` has heard that the client is to wait."""
        return max(0.0, self.taken.get(key, 0.0) - self.clock())

    def remember(self, key: str, until: float) -> None:
        """Keep a time of a client; of more than KNOWN the earliest are forgotten."""
        self.taken[key] = until
        if len(self.taken) > KNOWN:
            latest = sorted(self.taken.items(), key=lambda item: -item[1])
            self.taken = dict(latest[: KNOWN // 2])


class Limits:
    """The limits of one process, with those of all processes in Redis."""

    def __init__(self) -> None:
        self.local, self.refused = RateLimiter(), RateLimiter()
        self.members: dict[str, dict[str, float]] = {}
        self.running: Counter[str] = Counter()
        self.away_until = 0.0

    async def run_script(self, script: str, key: str, *arguments: Any) -> Any:
        """Return the answer of a script in Redis; None while Redis does not answer."""
        if time.monotonic() < self.away_until:
            return None
        try:
            return await _redis().register_script(script)(keys=[key], args=arguments)
        except (RedisError, OSError) as error:
            self.away_until = time.monotonic() + AWAY
            log.warning("limits are counted by this process alone for %s s: %s", AWAY, error)
            return None

    async def check_rate(self, what: str, who: Caller, per_minute: int) -> None:
        """Count a request of a client; 429 for one too many."""
        if not per_minute:
            return
        key = f"limits:{what}:{who.bucket}"
        if not (wait := self.refused.blocked(key)):
            each = MINUTE / per_minute * 1000
            reply = await self.run_script(TAKE, key, each, MINUTE * 1000)
            wait = self.local.wait(key, per_minute) if reply is None else reply / 1000
            if wait and reply is not None:
                # Until then Redis would say the same: a flood does not reach it.
                self.refused.remember(key, self.refused.clock() + wait)
        if wait:
            shown = max(1, math.ceil(wait))
            raise too_many_requests(
                f"Too many requests: {per_minute} a minute are allowed. Try again in {shown} s.",
                shown,
            )

    async def acquire(self, what: str, who: Caller, member: str, seconds: float, most: int) -> bool:
        """Count something of a client that lasts, for so many seconds; False beyond the most."""
        if not most:
            return True
        key = f"limits:{what}:{who.bucket}"
        reply = await self.run_script(ACQUIRE, key, member, seconds, most)
        if reply is not None:
            return bool(reply)
        now = time.monotonic()
        here = {name: end for name, end in self.members.get(key, {}).items() if end > now}
        if len(here) >= most:
            return False
        self.members[key] = {**here, member: now + seconds}
        return True

    async def renew(self, what: str, who: Caller, member: str, seconds: float) -> None:
        """Let something of a client count for so many seconds more."""
        key = f"limits:{what}:{who.bucket}"
        await self.run_script(RENEW, key, member, seconds)
        if member in self.members.get(key, {}):
            self.members[key][member] = time.monotonic() + seconds

    async def release(self, what: str, who: Caller, *members: str) -> None:
        """Count these no more."""
        key = f"limits:{what}:{who.bucket}"
        for member in members:
            self.members.get(key, {}).pop(member, None)
        if not self.members.get(key, {"": 0.0}):
            del self.members[key]
        await self.run_script("return redis.call('ZREM', KEYS[1], unpack(ARGV))", key, *members)

    async def unfinished(self, who: Caller) -> list[str]:
        """Return the researches of a client that are still to be finished; forget the others."""
        key = f"limits:research-unfinished:{who.bucket}"
        members = await self.run_script("return redis.call('ZRANGE', KEYS[1], 0, -1)", key)
        started = [name.decode() for name in members or []]
        if not started:
            return []
        values = await _results().mget([key for task in started for key in keys(task)])
        states = {
            task: describe(task, values[2 * number : 2 * number + 2])["status"]
            for number, task in enumerate(started)
        }
        if ended := [task for task, status in states.items() if status in FINAL]:
            await self.release("research-unfinished", who, *ended)
        return [task for task in started if task not in ended]

    @asynccontextmanager
    async def running_slot(self, who: Caller) -> AsyncIterator[None]:
        """Be one of the questions that this process answers; 429 when there is no room.

        They share the process's threads with all that is quick, and one client has half of them.
        """
        most = settings().questions_at_once
        room = quota(most, who) - self.running.total()
        if most and (room <= 0 or self.running[who.bucket] >= max(1, most // 2)):
            raise too_many_requests(
                "Too many questions are being answered; try again in a moment.", 2
            )
        self.running[who.bucket] += 1
        try:
            yield
        finally:
            self.running[who.bucket] -= 1
            if not self.running[who.bucket]:
                del self.running[who.bucket]


def quota(most: int, who: Caller) -> int:
    """Return how much of what all share a caller may fill: the last quarter is for users."""
    return most if who.user else max(1, most * 3 // 4)


@lru_cache
def limits() -> Limits:
    """Those of this process."""
    return Limits()


def _client(url: str) -> Redis:
    return Redis(
        connection_pool=BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=ANSWER,
            socket_connect_timeout=ANSWER,
            socket_timeout=ANSWER,
            # The one retry is for a pooled connection that died with an earlier Redis.
            retry=Retry(NoBackoff(), 1),
        )
    )


@lru_cache
def _redis() -> Redis:
    return _client(settings().redis_url)


@lru_cache
def _results() -> Redis:
    return _client(settings().celery_result_backend)


@lru_cache
def _broker() -> Redis:
    return _client(settings().celery_broker_url)


async def check_research(who: Asking) -> None:
    """Dependency of what starts a research: 429 for too many of a client, and for a full queue."""
    await limits().check_rate("research", who, settings().research_per_minute)
    if not (most := settings().research_waiting):
        return
    try:
        waiting = await _broker().llen(settings().research_queue)
    except (RedisError, OSError):
        return  # the broker will say so itself: it takes no task either
    if waiting >= quota(most, who):
        raise too_many_requests(
            f"Too many researches wait already ({waiting}); try again later.", BUSY
        )


@asynccontextmanager
async def count_research(who: Caller, task_id: str) -> AsyncIterator[None]:
    """Count a research of a client until it has ended, if what is inside starts it."""
    what, most = "research-unfinished", settings().research_unfinished
    if not await limits().acquire(what, who, task_id, DAY, most):
        unfinished = await limits().unfinished(who)
        if not await limits().acquire(what, who, task_id, DAY, most):
            raise too_many_requests(
                f"{len(unfinished)} of your researches are not finished; wait for one of them.", 10
            )
    try:
        yield
    except BaseException:
        await limits().release(what, who, task_id)
        raise


def question(what: str, per_minute: int) -> Callable[[Asking], AsyncIterator[None]]:
    """Return the dependency of a route that costs much: the client's pace, and room for it."""

    async def asked(who: Asking) -> AsyncIterator[None]:
        await limits().check_rate(what, who, per_minute)
        async with limits().running_slot(who):
            yield

    return asked
