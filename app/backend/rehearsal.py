"""Work that can be counted, for rehearsing deploys: slow requests, and tasks that leave one mark.

Only with REHEARSAL=true; `molecule/rollout` and `tests/bench` drive it under load. A task is
done when its mark is counted once: never means lost, twice means run twice.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import redis
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from backend.celery_app import app as celery
from backend.queueing import publish
from backend.settings import settings

MARKS = "rehearsal:marks"
router = APIRouter(prefix="/api/rehearsal", tags=["rehearsal"])


def _redis() -> redis.Redis:
    return redis.Redis.from_url(settings().redis_url, decode_responses=True)


@celery.task(name="rehearse")
def rehearse(number: str, seconds: float) -> None:
    """Take a while, then count the mark: deliberately not idempotent, so that twice shows."""
    time.sleep(seconds)
    with _redis() as client:
        client.hincrby(MARKS, number, 1)


class Batch(BaseModel):
    """Tasks to queue: number to seconds."""

    tasks: Annotated[dict[str, Annotated[float, Field(ge=0, le=60)]], Field(max_length=1000)]


@router.get("/slow")
async def slow(seconds: Annotated[float, Query(ge=0, le=30)] = 2) -> dict[str, float]:
    """A request that takes a while."""
    await asyncio.sleep(seconds)
    return {"seconds": seconds}


@router.post("/tasks", status_code=202)
def queue(batch: Batch) -> dict[str, int]:
    """Queue the tasks; all of them are accepted, or the answer is no 202."""
    return {"accepted": len(publish(rehearse, batch.tasks.items()))}


@router.get("/marks")
def marks() -> dict[str, int]:
    """How often each number's mark was counted."""
    with _redis() as client:
        return {number: int(count) for number, count in client.hgetall(MARKS).items()}
