"""What a Celery worker in a container lacks: a cheap proof of life and an end to draining.

    from celery import Celery
    from crisper_worker import install

    app = install(Celery("project"))

`install` changes nothing outside the worker; it knows no application.
"""

from __future__ import annotations

import os
import time

from celery import Celery

from crisper_worker.drain import arm_deadline
from crisper_worker.heartbeat import HeartbeatStep, mark_draining

__all__ = ["install"]

HEARTBEAT_FILE = "/tmp/celery-heartbeat"
DRAIN_TIMEOUT = 300


def install(
    app: Celery, *, heartbeat_file: str | None = None, drain_timeout: float | None = None
) -> Celery:
    """Give the workers of `app` a heartbeat file and a drain deadline.

    Args:
        app: the Celery application.
        heartbeat_file: path of the file; default ``$CELERY_HEARTBEAT_FILE``, else
            ``/tmp/celery-heartbeat``.
        drain_timeout: seconds a stopping worker may finish what runs before it puts it back;
            default ``$CELERY_DRAIN_TIMEOUT``, else 300.

    Returns:
        `app`, for chaining.
    """
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return app  # Windows, macOS: no containers there, so nothing to watch or to drain
    path = heartbeat_file or os.environ.get("CELERY_HEARTBEAT_FILE") or HEARTBEAT_FILE
    if drain_timeout is None:
        drain_timeout = float(os.environ.get("CELERY_DRAIN_TIMEOUT") or DRAIN_TIMEOUT)
    HeartbeatStep.path = path
    app.steps["consumer"].add(HeartbeatStep)
    mark_draining(path)
    arm_deadline(drain_timeout)
    return app
