"""Who works, on what, and what waits."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from kombu.exceptions import OperationalError
from pydantic import BaseModel

from backend.auth import Admin
from backend.celery_app import app as celery
from backend.queue_depths import PATIENCE, depths

router = APIRouter(prefix="/api/admin", tags=["admin"])
ANSWERS_WITHIN = 1.0  # seconds that workers have; asking waits this long, as nobody knows how many
LIMIT = 5.0  # seconds


class Pool(BaseModel):
    """Where a worker runs its tasks: `kind` is prefork, solo or thread."""

    kind: str
    size: int


class Worker(BaseModel):
    """One worker: tasks it runs, and tasks it has taken and not begun."""

    name: str
    queues: list[str]
    active: int
    reserved: int
    pool: Pool


class Queue(BaseModel):
    """Messages that no worker has taken."""

    name: str
    waiting: int


class Overview(BaseModel):
    """Workers that answered, queues, and messages delivered and not acknowledged."""

    workers: list[Worker]
    queues: list[Queue]
    unacked: int


def _ask() -> Overview:
    waiting = depths()  # first: a broker that is away is found out quickly here
    options = {**celery.conf.broker_transport_options, "socket_timeout": PATIENCE}
    with celery.connection_for_write().clone(transport_options=options) as connection:
        answers = celery.control.broadcast(
            "overview", reply=True, timeout=ANSWERS_WITHIN, connection=connection
        )
    said = {name: answer for each in answers or () for name, answer in each.items()}
    return Overview(
        # A worker of an older release, while a new one is rolled out, does not know the command.
        workers=[
            Worker(name=name, **said[name]) for name in sorted(said) if "error" not in said[name]
        ],
        queues=[Queue(name=name, waiting=number) for name, number in waiting.waiting.items()],
        unacked=waiting.unacked,
    )


@router.get("/workers")
async def show_workers(_: Admin) -> Overview:
    """The workers that answer within a second; 503 names the broker when it is away."""
    try:
        return await asyncio.wait_for(asyncio.to_thread(_ask), LIMIT)
    except (TimeoutError, ConnectionError) as error:
        raise OperationalError(str(error)) from error
