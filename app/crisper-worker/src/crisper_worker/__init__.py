"""Additions to a Celery worker in a container: proof of life, an end in time, and a lease.

    from celery import Celery
    from crisper_worker import install

    app = install(Celery("project"))

`install` changes nothing outside the worker; it knows no application.
"""

from __future__ import annotations

import math
import os
import time

from celery import Celery

from crisper_worker.drain import arm_deadline
from crisper_worker.heartbeat import HeartbeatStep, mark_draining
from crisper_worker.lease import arm_lease

__all__ = ["install"]

HEARTBEAT_FILE = "/tmp/celery-heartbeat"
DRAIN_TIMEOUT = 300
LEASE_SECONDS = 30
MAX_DELIVERIES = 5
REPLACE_SECONDS = 40  # more than Celery's longest pause between two tries to connect, 30 s


def install(
    app: Celery,
    *,
    heartbeat_file: str | None = None,
    drain_timeout: float | None = None,
    lease_seconds: float | None = None,
    max_deliveries: int | None = None,
    replace_seconds: float | None = None,
) -> Celery:
    """Give the workers of `app` a heartbeat file, a drain deadline and leases.

    Args:
        app: the Celery application.
        heartbeat_file: path of the file; default ``$CELERY_HEARTBEAT_FILE``, else
            ``/tmp/celery-heartbeat``.
        drain_timeout: seconds a stopping worker may finish what runs before it puts it back;
            default ``$CELERY_DRAIN_TIMEOUT``, else 300.
        lease_seconds: a worker that has not renewed the lease of a message for that long is
            taken for dead, 0 for no leases; default ``$CELERY_LEASE_SECONDS``, else 30.
        max_deliveries: a task that killed its worker or process that often is set aside, 0 for
            never; default ``$CELERY_MAX_DELIVERIES``, else 5.
        replace_seconds: a worker that has not consumed for that long though the broker answers
            ends, for its container to start again, 0 for never; default
            ``$CELERY_REPLACE_SECONDS``, else 40.

    Returns:
        `app`, for chaining.

    Raises:
        ValueError: a number is none, or out of its range.
    """
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return app  # Windows, macOS: no containers there, so nothing to watch or to drain
    HeartbeatStep.path = heartbeat_file or os.environ.get("CELERY_HEARTBEAT_FILE") or HEARTBEAT_FILE
    drain = _number("CELERY_DRAIN_TIMEOUT", drain_timeout, DRAIN_TIMEOUT)
    lease = _number("CELERY_LEASE_SECONDS", lease_seconds, LEASE_SECONDS, least=2)
    deliveries = _number("CELERY_MAX_DELIVERIES", max_deliveries, MAX_DELIVERIES, least=1)
    replace = _number("CELERY_REPLACE_SECONDS", replace_seconds, REPLACE_SECONDS, least=2)
    _arm(app, drain, lease, int(deliveries), replace)
    return app


def _arm(app: Celery, drain: float, lease: float, deliveries: int, replace: float) -> None:
    """Add the steps and the handlers to an application, once its settings are known to be right."""
    HeartbeatStep.replace_after = replace
    app.steps["consumer"].add(HeartbeatStep)
    mark_draining(HeartbeatStep.path)
    arm_deadline(drain)
    if lease:
        arm_lease(app, lease, deliveries)


def _number(name: str, argument: float | None, default: float, least: float = 0) -> float:
    """Return the argument, else the environment's variable `name`, else the default.

    Raises:
        ValueError: neither 0 nor a finite number of at least `least`.
    """
    value = os.environ.get(name) or default if argument is None else argument
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if number == 0 or least <= number < math.inf:
        return number
    raise ValueError(f"{name} is {value!r}: set a number of at least {least:g}, or 0")
