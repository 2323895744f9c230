"""The guard of a worker: what it adds to whatever application is started.

Of Celery 5.3 to 5.7 this relies on the ``celeryd_init`` signal, which comes when the application is
loaded and before the worker makes its consumer, and on what `conf` of the remote control tells:
every setting that is not Celery's default.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery import signals

from crisper_worker import versions
from crisper_worker.drain import arm_deadline
from crisper_worker.heartbeat import HeartbeatStep, mark_draining
from crisper_worker.lease_state import broker_of
from crisper_worker.settings import Settings

log = logging.getLogger(__name__)
# The setting by which a worker tells what of the guard it has.
REPORT = "crisper_guard"
# Brokers that put back what a lost worker held as soon as its connection is gone.
WITHOUT_LEASE = ("amqp", "pyamqp", "amqps", "py-amqp", "memory")


def arm(settings: Settings) -> None:
    """Guard the worker that this process becomes."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return  # Windows, macOS: no containers there, so nothing to watch or to drain

    @signals.celeryd_init.connect(weak=False)
    def _starting(instance: Any = None, **_kwargs: Any) -> None:
        if instance is not None:
            guard_worker(instance.app, settings)


def guard_worker(app: Any, settings: Settings) -> None:
    """Add the steps and handlers to the worker of an application that is about to start."""
    unknown = versions.untested(versions.installed())
    HeartbeatStep.path = settings.heartbeat_file
    HeartbeatStep.replace_after = settings.replace_seconds
    HeartbeatStep.looks_inside = not unknown
    app.steps["consumer"].add(HeartbeatStep)
    mark_draining(settings.heartbeat_file)
    arm_deadline(settings.drain_timeout)
    missing = {}
    if reason := why_without_lease(app, settings, unknown):
        missing["lease"] = reason
        log.warning("no lease: %s", reason)
    app.conf[REPORT] = versions.report(missing)


def why_without_lease(app: Any, settings: Settings, unknown: str) -> str:
    """Give the worker leases, and return why not; empty if it has them, or needs none."""
    if not settings.lease_seconds or broker_of(app) in WITHOUT_LEASE:
        return ""
    if unknown:
        return f"it was never tested with {unknown}"
    try:
        from crisper_worker.lease import arm_lease  # which needs redis-py
    except ImportError as error:
        return f"the lease needs redis-py ({error})"
    return arm_lease(app, settings.lease_seconds, settings.max_deliveries)
