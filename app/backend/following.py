"""Follow tasks on the event loop, as the result backend announces them: no thread, no polling."""

from __future__ import annotations

import secrets
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache
from types import FrameType
from typing import Any

import anyio
from fastapi import FastAPI
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from backend.callers import Caller
from backend.limits import limits, quota, too_many_requests
from backend.settings import settings
from backend.task_state import FINAL, describe, keys

# Seconds. An announcement may be lost while Redis restarts, and a server that stops says nothing.
LOOK = 2.0
# Seconds that a stream counts unless it is renewed: a process that is killed says nothing.
LEASE, RENEW = 60.0, 20.0
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


_open: set[str] = set()


@asynccontextmanager
async def _stream_slot(who: Caller) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Be one of the streams of this process, and of the client's; yields what renews that.

    Each stream holds a connection to Redis. Guests leave a quarter of a process's for users.
    """
    stream, what = secrets.token_hex(8), "streams"
    if len(_open) >= quota(settings().events_streams, who):
        raise too_many_requests("Too many wait for tasks already; ask GET /api/task.", 5)
    _open.add(stream)
    due = time.monotonic() + RENEW

    async def renew() -> None:
        nonlocal due
        if time.monotonic() >= due:
            due = time.monotonic() + RENEW
            await limits().renew(what, who, stream, LEASE)

    try:
        if not await limits().acquire(what, who, stream, LEASE, settings().events_per_client):
            raise too_many_requests(
                "Too many of your streams are open; close one, or ask GET /api/task.", 5
            )
        try:
            yield renew
        finally:
            with anyio.CancelScope(shield=True):  # also of a client that hangs up
                await limits().release(what, who, stream)
    finally:
        _open.discard(stream)


@asynccontextmanager
async def following(
    task_id: str, seconds: float, who: Caller
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """How a task goes on, from now on; inside, whatever is announced is not missed.

    Yields:
        Its states (`describe`), each one further than the one before. They end after the final
        one, after `seconds` without it, or when the server stops.

    Raises:
        HTTPException: 429, too many are being followed.
        redis.exceptions.RedisError: Redis is away.
    """
    async with _stream_slot(who) as renew, _redis().pubsub() as channel:
        await channel.subscribe(keys(task_id)[0])
        yield _changes(task_id, channel, time.monotonic() + seconds, renew)


async def _changes(
    task_id: str, channel: PubSub, end: float, renew: Callable[[], Awaitable[None]]
) -> AsyncIterator[dict[str, Any]]:
    last = (-1, -1)
    while (left := end - time.monotonic()) > 0 and not _stopping.is_set():
        await renew()
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
