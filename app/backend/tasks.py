"""Celery tasks."""

from __future__ import annotations

import logging
from typing import Any

import httpx
from celery import Task
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from sqlalchemy.exc import OperationalError

from backend import vectors
from backend.celery_app import app
from backend.db import session
from backend.embeddings import embed
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


@app.task(name="health_check", bind=True, ignore_result=False)
def health_check(self: Task) -> dict[str, Any]:
    """Tell which worker ran it: the canary of a deploy."""
    return {"worker": self.request.hostname, "status": "ok"}


class EmbeddingTask(Task):
    """Marks the item FAILED when the last try failed."""

    def on_failure(
        self, exc: Exception, task_id: str, args: list, kwargs: dict, einfo: object
    ) -> None:
        """Keep the error where a person looks: at the item."""
        item_id = kwargs.get("item_id", args[0] if args else None)
        try:
            set_status(item_id, Status.FAILED, f"{type(exc).__name__}: {exc}")
        except OperationalError:
            log.exception("item %s: its failure could not be recorded", item_id)


@app.task(
    name="regenerate_embedding_task",
    bind=True,
    base=EmbeddingTask,
    autoretry_for=PASSING,
    max_retries=3,
    retry_backoff=2,
    retry_backoff_max=60,
    retry_jitter=True,
)
def regenerate_embedding_task(self: Task, item_id: int) -> dict[str, Any]:
    """Embed one item and store its vector; run twice, the result is the same."""
    with session() as current:
        item = current.get(Item, item_id)
        if item is None:
            log.warning("item %s does not exist", item_id)
            return {"item_id": item_id, "status": Status.FAILED, "error": "no such item"}
        item.status = Status.PROCESSING
        text, title = f"{item.title}\n{item.content}", item.title
    vectors.ensure_collection()
    vectors.store(item_id, embed([text])[0], {"title": title})
    set_status(item_id, Status.COMPLETED, None)
    return {"item_id": item_id, "status": Status.COMPLETED}


def set_status(item_id: int | None, status: Status, error: str | None) -> None:
    """Record where an item stands; an item that is gone stays gone."""
    with session() as current:
        item = current.get(Item, item_id) if item_id is not None else None
        if item is not None:
            item.status, item.error = status, error
