"""What workers did, counted in Redis: worker processes come and go, and nobody scrapes them."""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery import Task, states
from celery.signals import task_failure, task_postrun, task_prerun, task_revoked
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from backend.settings import settings

TOTALS = "crisper:metrics:tasks"  # hash: "<task>|<state>" to number
SECONDS = "crisper:metrics:task_seconds"  # hash: "<task>|<bucket>", "<task>|sum" to number
BUCKETS = ("0.05", "0.1", "0.5", "1", "5", "10", "30", "60", "300", "1800", "+Inf")
# The main process ends the task: its child runs no task_postrun any more.
ENDED_FROM_OUTSIDE = (TimeLimitExceeded, WorkerLostError)
log = logging.getLogger(__name__)
_started: dict[str, float] = {}


@lru_cache
def client() -> Redis:
    """Answers within a second or fails: counting never holds up a task or a scrape."""
    return Redis.from_url(
        settings().redis_url,
        socket_timeout=1,
        socket_connect_timeout=1,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )


def count(task: str, state: str, seconds: float | None = None) -> None:
    """One more run of `task` that ended in `state`, after `seconds` of it where they are known."""
    try:
        with client().pipeline(transaction=False) as pipe:
            pipe.hincrby(TOTALS, f"{task}|{state}", 1)
            if seconds is not None:
                bucket = next(b for b in BUCKETS if seconds <= float(b))
                pipe.hincrby(SECONDS, f"{task}|{bucket}", 1)
                pipe.hincrbyfloat(SECONDS, f"{task}|sum", seconds)
            pipe.execute()
    except (RedisError, OSError) as error:
        log.warning("%s of %s was not counted: %s", state, task, error)


@task_prerun.connect
def start(task_id: str, **_: Any) -> None:
    """Remember when the task began."""
    _started[task_id] = time.monotonic()


@task_postrun.connect
def end(task_id: str, task: Task, state: str | None = None, **_: Any) -> None:
    """Count a run: SUCCESS, FAILURE, RETRY, or what else the task made of itself."""
    started = _started.pop(task_id, None)
    seconds = None if started is None else time.monotonic() - started
    count(task.name, state or "UNKNOWN", seconds)


@task_failure.connect
def end_from_outside(sender: Task, exception: BaseException, **_: Any) -> None:
    """Count a task whose process was killed; every other failure has its task_postrun."""
    if isinstance(exception, ENDED_FROM_OUTSIDE):
        count(sender.name, states.FAILURE)


@task_revoked.connect
def revoked(sender: Task, **_: Any) -> None:
    """Count a task that was taken back or came too late."""
    count(sender.name, states.REVOKED)


@dataclass
class Seconds:
    """How long the runs of one task took: runs per bucket (not cumulative), and their sum."""

    buckets: Counter[str] = field(default_factory=Counter)
    sum: float = 0.0


def totals() -> dict[tuple[str, str], int]:
    """Runs by (task, state).

    Raises:
        RedisError: Redis is away.
    """
    found = client().hgetall(TOTALS)
    return {(*name.rsplit("|", 1),): int(number) for name, number in found.items()}


def seconds() -> dict[str, Seconds]:
    """Durations by task.

    Raises:
        RedisError: Redis is away.
    """
    found: dict[str, Seconds] = defaultdict(Seconds)
    for name, number in client().hgetall(SECONDS).items():
        task, part = name.rsplit("|", 1)
        if part == "sum":
            found[task].sum = float(number)
        else:
            found[task].buckets[part] = int(number)
    return dict(found)
