"""Many tasks into the broker at once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from celery import Task

from backend.callers import new_id
from backend.celery_app import app as celery

log = logging.getLogger(__name__)
LARGEST = 10_000  # messages that travel together: about 12 MB
# Celery would subscribe to the result of each call: a round trip, and a subscription that stays.
# `ignore_result` spares that here, and the header lets the worker store the result all the same.
UNWATCHED: dict[str, Any] = {"ignore_result": True, "headers": {"ignore_result": False}}


def publish(
    task: Task, calls: Iterable[Sequence[Any]], owner: str | None = None, **options: Any
) -> list[str]:
    """Queue one call of `task` per tuple of arguments, in one round trip; the tasks' ids.

    All of them or none, of up to LARGEST: a Redis without room for the last takes no first one.
    Only the owner (`Caller.owners`) may read what becomes of them. Options are those of
    `apply_async`.
    """
    with celery.producer_or_acquire() as producer, producer.batch(max_size=LARGEST) as batch:
        options |= {"producer": producer, **UNWATCHED}
        ids = [task.apply_async(args, task_id=new_id(owner), **options).id for args in calls]
        if batch.state.session is not None:  # nothing was queued, or this is no Redis
            batch.state.session.pipeline.transaction = True
    log.info("queued %s of %s", len(ids), task.name)
    return ids
