"""Is it alive, is it ready, do the workers answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from celery.states import READY_STATES
from fastapi import APIRouter, Response
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy import text

from backend import history, vectors
from backend.celery_app import app as celery
from backend.db import engine
from backend.queueing import UNWATCHED
from backend.settings import settings
from backend.tasks import health_check

router = APIRouter(tags=["health"])
DOWN: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "The same body; `down` says what does not answer.",
        "model": dict[str, Any],
    }
}
LIMIT = 5.0  # seconds


@router.get("/health")
async def health() -> dict[str, str]:
    """Alive: the process answers. Says nothing of what it depends on."""
    return {"status": "ok", "release": settings().release}


def _database() -> None:
    with engine().connect() as connection:
        connection.execute(text("SELECT 1"))


def _broker() -> None:
    with celery.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=2)


def _vectors() -> None:
    vectors.client().get_collections()


CHECKS: dict[str, Callable[[], None]] = {
    "postgres": _database,
    "redis": _broker,
    "qdrant": _vectors,
}
if settings().mariadb_url:
    CHECKS["mariadb"] = history.ping


async def _timed(check: Callable[[], None]) -> dict[str, Any]:
    started = time.monotonic()
    try:
        await asyncio.wait_for(asyncio.to_thread(check), LIMIT)
    except Exception as error:
        return {"ok": False, "error": type(error).__name__}
    return {"ok": True, "latency_ms": round((time.monotonic() - started) * 1000, 1)}


async def _check_all() -> list[dict[str, Any]]:
    return list(await asyncio.gather(*(_timed(check) for check in CHECKS.values())))


@router.get("/ready", responses=DOWN)
async def ready(response: Response) -> dict[str, Any]:
    """Ready: every dependency answers; 503 and which one is down otherwise."""
    results = await _checking.answer()
    shown = dict(zip(CHECKS, results, strict=True))
    down = [name for name, result in shown.items() if not result["ok"]]
    if down:
        response.status_code = 503
    return {"status": "unavailable" if down else "ok", "down": down, "dependencies": shown}


def _ask_worker() -> dict[str, Any]:
    started = time.monotonic()
    _broker()
    task_id = health_check.apply_async(expires=LIMIT, retry=False, **UNWATCHED).id
    # Asked for, not subscribed to: Celery's own wait overshoots its limit by up to a second.
    while (meta := celery.backend.get_task_meta(task_id))["status"] not in READY_STATES:
        if time.monotonic() - started > LIMIT - 0.5:
            raise NoAnswerError
        time.sleep(0.01)
    celery.backend.forget(task_id)
    return {
        "status": "ok",
        "worker": meta["result"]["worker"],
        "latency_ms": round((time.monotonic() - started) * 1000, 1),
    }


class NoAnswerError(Exception):
    """The broker took the task, and no worker ran it in time."""


async def _ask_in_time() -> dict[str, Any]:
    return await asyncio.wait_for(asyncio.to_thread(_ask_worker), LIMIT)


class _Asking:
    """One question at a time: whoever asks meanwhile gets the same answer."""

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.ask = ask
        self.task: asyncio.Task[Any] | None = None

    async def answer(self) -> Any:
        if self.task is None or self.task.done():
            self.task = asyncio.create_task(self.ask())
        # One who hangs up takes the answer from nobody else.
        return await asyncio.shield(self.task)


_asking, _checking = _Asking(_ask_in_time), _Asking(_check_all)


@router.get("/api/celery/health", responses=DOWN)
async def celery_health(response: Response) -> dict[str, Any]:
    """A worker ran the ``tasks.health_check`` task; 503 within 5 s tells what is down."""
    try:
        return await _asking.answer()
    except NoAnswerError:
        down = "worker"
    except (OperationalError, RedisError, ConnectionError, TimeoutError):
        down = "broker"
    response.status_code = 503
    return {"status": "unavailable", "down": down}
