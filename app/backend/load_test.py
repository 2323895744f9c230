"""Work that can be counted, for deploys and faults under load: slow requests, tasks with effects.

Only with LOAD_TEST=true; `molecule/rollout`, `molecule/faults` and `tests/bench` drive it under
load. A task begins, takes a while, applies its effect and counts its mark. No mark means lost; two
marks mean run twice. Its effect is idempotent, as every task's has to be: applied twice would mean
that even so it was doubled.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import defaultdict
from typing import Annotated, Any

import redis
from celery.worker.control import control_command
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from backend.celery_app import app as celery
from backend.queueing import publish
from backend.settings import settings

BEGUN, MARKS = "load_test:begun", "load_test:marks"
DONE, EFFECTS = "load_test:done", "load_test:effects"
# KEYS: done, effects, marks. ARGV: number. The effect of a number that is done already is none.
APPLY = """
if redis.call('SADD', KEYS[1], ARGV[1]) == 1 then redis.call('HINCRBY', KEYS[2], ARGV[1], 1) end
return redis.call('HINCRBY', KEYS[3], ARGV[1], 1)
"""
router = APIRouter(prefix="/api/load-test", tags=["load test"])


def _redis() -> redis.Redis:
    return redis.Redis.from_url(settings().redis_url, decode_responses=True)


@celery.task(
    name="load_test",
    # Whatever becomes of Redis meanwhile, the effect is owed.
    autoretry_for=(redis.RedisError, OSError),
    max_retries=None,
    retry_backoff=1,
    retry_backoff_max=8,
)
def load_test(number: str, seconds: float) -> None:
    """Begin, take a while, apply the effect and count the mark."""
    with _redis() as client:
        client.rpush(BEGUN, f"{number} {time.time()}")
    time.sleep(seconds)
    with _redis() as client:
        client.register_script(APPLY)(keys=[DONE, EFFECTS, MARKS], args=[number])


@celery.task(name="load_test_dying")
def load_test_dying() -> None:
    """Kill the process that runs it, each time: what is set aside in the end."""
    os.kill(os.getpid(), signal.SIGKILL)


@control_command()
def load_test_losing_consumers(state: Any) -> None:
    """A worker that receives this is connected, answers, and consumes no more."""
    channel = state.consumer.task_consumer.channel
    for tag in list(channel._consumers):
        channel.basic_cancel(tag)


class Batch(BaseModel):
    """Tasks to queue: number to seconds."""

    tasks: Annotated[dict[str, Annotated[float, Field(ge=0, le=60)]], Field(max_length=1000)]
    queue: Annotated[str, Field(min_length=1, max_length=100)] = "default"


@router.get("/slow")
async def slow(seconds: Annotated[float, Query(ge=0, le=30)] = 2) -> dict[str, float]:
    """A request that takes a while."""
    await asyncio.sleep(seconds)
    return {"seconds": seconds}


@router.post("/tasks", status_code=202)
def queue(batch: Batch) -> dict[str, int]:
    """Queue the tasks; all of them are accepted, or the answer is no 202."""
    return {"accepted": len(publish(load_test, batch.tasks.items(), queue=batch.queue))}


@router.get("/marks")
def marks() -> dict[str, int]:
    """How often each number was run to its end."""
    with _redis() as client:
        return {number: int(count) for number, count in client.hgetall(MARKS).items()}


@router.get("/effects")
def effects() -> dict[str, int]:
    """How often each number's effect was applied."""
    with _redis() as client:
        return {number: int(count) for number, count in client.hgetall(EFFECTS).items()}


@router.get("/begun")
def begun() -> dict[str, list[float]]:
    """When each number was begun, in seconds since the epoch."""
    found = defaultdict(list)
    with _redis() as client:
        for line in client.lrange(BEGUN, 0, -1):
            number, _, at = line.rpartition(" ")
            found[number].append(float(at))
    return found
