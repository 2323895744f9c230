"""What became of a task, and putting an end to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path
from fastapi.sse import EventSourceResponse
from redis.exceptions import RedisError

from backend.api.errors import errors
from backend.auth import Admin
from backend.callers import Asking, may_read
from backend.celery_app import app as celery
from backend.following import following
from backend.revoking import revoke
from backend.settings import settings
from backend.task_state import describe, keys

router = APIRouter(prefix="/api/task", tags=["tasks"])
TaskId = Annotated[str, Path(pattern=r"^[A-Za-z0-9-]{1,64}$")]


def _state(task_id: str) -> dict[str, Any]:
    return describe(task_id, celery.backend.client.mget(keys(task_id)))


async def _readable(task_id: TaskId, who: Asking) -> str:
    """The id of a task that the caller may read; 404 for another's."""
    if not may_read(task_id, who):
        raise HTTPException(404, f"There is no task {task_id} of yours.")
    return task_id


OwnTask = Annotated[str, Depends(_readable)]


@router.get("/{task_id}", responses=errors(401, 404))
def show_task(task_id: OwnTask) -> dict[str, Any]:
    """State with stage and percentage, and the result or the error; for who started the task."""
    return _state(task_id)


@router.delete("/{task_id}", responses=errors(409))
def revoke_task(task_id: TaskId, _: Admin) -> dict[str, Any]:
    """Revoke a task, waiting or running; a running one ends within about a second."""
    state = _state(task_id)
    if state["status"] in ("success", "failure"):
        raise HTTPException(409, f"The task has ended already: {state['status']}.")
    revoke(celery, task_id)
    return _state(task_id)


async def _feed(task_id: OwnTask, who: Asking) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Before the answer starts, so that a Redis that is away is a 503; closed when it ends."""
    async with following(task_id, settings().events_seconds, who) as feed:
        yield feed


@router.get(
    "/{task_id}/events", response_class=EventSourceResponse, responses=errors(401, 404, 429)
)
async def task_events(
    feed: Annotated[AsyncIterator[dict[str, Any]], Depends(_feed)],
) -> AsyncIterator[dict[str, Any]]:
    """Each new state as a server-sent event, up to the final one.

    A stream that ends without a final state has reached its time limit, or Redis or this server
    went away: an EventSource comes back by itself. Close it at the final state.
    """
    try:
        async for state in feed:
            yield state
    except RedisError:
        return
