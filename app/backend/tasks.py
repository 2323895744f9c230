"""Celery tasks."""

from __future__ import annotations

import logging
from typing import Any

import httpx
from celery import Task
from celery.app.task import Context
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_failure, task_revoked, worker_process_init
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from sqlalchemy.exc import OperationalError

from backend import rag_cache, vectors
from backend.celery_app import app
from backend.db import engine, session
from backend.embeddings import embed
from backend.former_names import task
from backend.models import Item, Status

log = logging.getLogger(__name__)
# What may be better in a moment; everything else is the item's own fault and final.
PASSING = (
    OperationalError,
    ResponseHandlingException,
    UnexpectedResponse,
    httpx.TransportError,
    ConnectionError,
    TimeoutError,
)


@task(name="tasks.health_check", former="health_check", bind=True, ignore_result=False)
def health_check(self: Task) -> dict[str, Any]:
    """Tell which worker ran it: the canary of a deploy."""
    return {"worker": self.request.hostname, "status": "ok"}


@app.task(
    name="regenerate_embedding_task",
    bind=True,
    autoretry_for=PASSING,
    max_retries=3,
    retry_backoff=2,
    retry_backoff_max=60,
    retry_jitter=True,
)
def regenerate_embedding_task(self: Task, item_id: int) -> dict[str, Any]:
    """Embed one item and store its vector; run twice, the result is the same."""
    try:
        with session() as current:
            item = current.get(Item, item_id, with_for_update=True)
            if item is None:
                log.warning("item %s does not exist", item_id)
                return {"item_id": item_id, "status": Status.FAILED, "error": "no such item"}
            item.status = Status.PROCESSING
            payload = {"title": item.title, "content": item.content}
        vector = embed(["\n".join(payload.values())])[0]
        vectors.ensure_collection(len(vector))
        vectors.store(item_id, vector, payload)
        if not set_status(item_id, Status.COMPLETED, None):
            vectors.remove(item_id)  # the item was deleted meanwhile
        rag_cache.bump()
    except Exception as caught:
        # Clients wrap the soft limit's exception as a failed request; it is no reason to retry.
        error = SoftTimeLimitExceeded() if is_time_up(caught) else caught
        # Before Celery tells anyone of the failure, so that nobody finds it PROCESSING still.
        if not isinstance(error, PASSING) or self.request.retries >= self.max_retries:
            set_status(item_id, Status.FAILED, told(error))
        if error is caught:
            raise
        raise error from caught
    return {"item_id": item_id, "status": Status.COMPLETED}


@task_failure.connect(sender=regenerate_embedding_task)
def keep_failure(exception: BaseException, args: list, kwargs: dict, **_: Any) -> None:
    """Keep what the task could not see: its process was killed, or ran into the hard limit."""
    item_id = kwargs.get("item_id", args[0] if args else None)
    try:
        set_status(item_id, Status.FAILED, told(exception))
    except OperationalError:
        log.exception("item %s: its failure could not be recorded", item_id)


@task_revoked.connect(sender=regenerate_embedding_task)
def keep_revoked(request: Context, **_: Any) -> None:
    """An item whose task was revoked does not wait for it any longer."""
    item_id = request.kwargs.get("item_id", request.args[0] if request.args else None)
    set_status(item_id, Status.FAILED, "revoked")


@worker_process_init.connect
def own_connections(**_: Any) -> None:
    """A forked process leaves its parent's database connections alone."""
    engine().dispose(close=False)


def is_time_up(error: BaseException | None) -> bool:
    """Whether the soft time limit is behind an error."""
    while error is not None and not isinstance(error, SoftTimeLimitExceeded):
        error = getattr(error, "source", None) or error.__cause__ or error.__context__
    return error is not None


def told(error: BaseException) -> str:
    """An error as it is kept at the item."""
    return f"{type(error).__name__}: {error}"


def set_status(item_id: int | None, status: Status, error: str | None) -> bool:
    """Record where an item stands; whether it is still there: one that is gone stays gone."""
    if item_id is None:
        return False
    with session() as current:
        # Locked: an item that is being deleted is not there.
        item = current.get(Item, item_id, with_for_update=True)
        if item is not None:
            item.status, item.error = status, error
        return item is not None
