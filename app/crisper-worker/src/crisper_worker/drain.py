"""A deadline for the warm shutdown.

``docker stop`` sends SIGTERM: Celery stops consuming, returns what it prefetched and finishes
what runs, however long that takes; Docker kills it at the end of its grace period, and then
what ran is stuck until the visibility timeout. At the deadline this module sends SIGQUIT to the
worker itself: the cold shutdown ends the pool and puts unacknowledged tasks (``task_acks_late``)
back into their queues, where the next worker takes them. Measured in shared CELERY notes and in
tests/test_drain.py.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from celery import signals


def arm_deadline(seconds: float) -> None:
    """End a shutdown the cold way `seconds` after its first sign."""

    @signals.worker_shutting_down.connect(weak=False)
    def _shutting_down(how: str = "", **_kwargs: Any) -> None:
        if str(how).lower() != "warm":
            return
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGQUIT))
        timer.daemon = True  # a worker that is done earlier does not wait for its deadline
        timer.start()
