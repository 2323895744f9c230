"""The lease of this process: its settings, and its keeper once it holds messages.

A module of its own, without redis-py: an application with another broker may have none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery import Celery

if TYPE_CHECKING:
    from crisper_worker.lease_keeper import LeaseKeeper

# What these mean in a worker with leases.
TRANSPORTS = {
    "redis": "crisper_worker.transport:Transport",
    "rediss": "crisper_worker.transport:Transport",
    "sentinel": "crisper_worker.transport:SentinelTransport",
}


class Lease:
    """The settings of this process and, in a worker, its keeper."""

    seconds = 0.0
    max_deliveries = 0
    keeper: LeaseKeeper | None = None


def broker_of(app: Celery) -> str:
    """Return the name of the transport to an application's broker."""
    return str(app.connection_for_read().transport_cls)
