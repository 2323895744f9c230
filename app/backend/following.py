"""Follow tasks on the event loop, as the result backend announces them: no thread, no polling."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import lru_cache
from types import FrameType
from typing import Any

from fastapi import FastAPI, HTTPException
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from backend.settings import settings
from backend.task_state import FINAL, describe, keys

# Seconds. An announcement may be lost while Redis restarts, and a server that stops says nothing.
LOOK = 2.0
RANKS = {"pending": 0, "progress": 1}  # the others are final


_stopping = threading.Event()


@asynccontextmanager
async def ending_with_the_server(_: FastAPI) -> AsyncIterator[None]:
    """Lifespan: a server that is told to stop waits for its requests, these among them."""
    before = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        _stopping.set()
        if callable(before):
            before(number, frame)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, stop)
    yield
    await _redis().aclose()


@lru_cache
def _redis() -> Redis:
    """One pool per process, for its one event loop."""
    return Redis.from_url(
        settings().celery_result_backend, socket_connect_timeout=2, health_check_interval=10
    )


@lru_cache
def _slots() -> asyncio.Semaphore:
    """Each that follows a task holds a connection to Redis."""
    return asyncio.Semaphore(settings().events_streams)


@asynccontextmanager
async def following(task_id: str, seconds: float) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """How a task goes on, from now on; inside, whatever is announced is not missed.

    Yields:
        Its states (`describe`), each one further than the one before. They end after the final
        one, after `seconds` without it, or when the server stops.

    Raises:
        HTTPException: 503, too many are being followed.
        redis.exceptions.RedisError: Redis is away.
    """
    if _slots().locked():
        raise HTTPException(
            503, "Too many wait for tasks already; ask GET /api/task.", headers={"Retry-After": "5"}
        )
    async with _slots(), _redis().pubsub() as channel:
        await channel.subscribe(keys(task_id)[0])
        yield _changes(task_id, channel, time.monotonic() + seconds)


async def _changes(task_id: str, channel: PubSub, end: float) -> AsyncIterator[dict[str, Any]]:
    last = (-1, -1)
    while (left := end - time.monotonic()) > 0 and not _stopping.is_set():
        message = await channel.get_message(timeout=min(left, LOOK))
        if message is not None and message["type"] == "message":
            shown = describe(task_id, [message["data"], None])
        else:  # subscribed, or nothing was heard for a while
            shown = describe(task_id, await _redis().mget(keys(task_id)))
        # What was announced before the first look comes after it, and a retry starts anew.
        rank = (RANKS.get(shown["status"], 2), shown.get("percentage", -1))
        if rank > last:
            last = rank
            yield shown
        if shown["status"] in FINAL:
            return
