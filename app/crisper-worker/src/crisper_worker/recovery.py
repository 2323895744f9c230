"""Recovery of a message whose worker is gone: back to its queue, or set aside."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery
from celery.app.task import Context
from kombu.transport import redis as kombu_redis

from crisper_worker.garbage import Decoder
from crisper_worker.lease_state import Lease
from crisper_worker.lease_store import LeaseStore
from crisper_worker.messages import Delivery, described_error
from crisper_worker.poison import failure, judged
from crisper_worker.text import shorten

log = logging.getLogger(__name__)


def take_over(app: Celery, store: LeaseStore, delivery: Delivery, before: float) -> None:
    """Put a message back whose worker is gone, or set it aside if that was once too often."""
    entry = None
    if store.was_started(delivery.tag):
        deaths = store.deaths(delivery.task_id) + 1
        cause = f"its worker {shorten(delivery.holder)} is gone"
        entry = judged(delivery, deaths, Lease.max_deliveries, cause)
    if entry is not None:
        error = failure(entry)
        # First the result: a worker that dies between the two does both again.
        app.backend.mark_as_failure(delivery.task_id, error, request=context(delivery))
        if store.set_aside(delivery, entry, before):
            log.error("%s", error)
    elif store.reclaim(delivery, before):
        log.warning(
            "%s goes back to its queue: its worker %s has not renewed its lease for %g s",
            delivery.label,
            shorten(delivery.holder),
            Lease.seconds,
        )


def context(delivery: Delivery) -> Context:
    """Return what the result backend needs of a task: its chord and its errbacks."""
    embed: dict[str, Any] = {}
    try:
        embed = kombu_redis.Channel.Message(delivery.message, channel=Decoder()).payload[2] or {}
    except Exception as error:  # whatever its serializer makes of a message that it cannot read
        log.warning("%s: the message is not readable: %s", delivery.label, described_error(error))
    return Context({**(delivery.message.get("headers") or {}), **embed})
