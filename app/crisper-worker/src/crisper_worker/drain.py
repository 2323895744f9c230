"""A deadline for the warm shutdown.

``docker stop`` sends SIGTERM: Celery stops consuming, returns what it prefetched and finishes
what runs, however long that takes; Docker kills it at the end of its grace period, and then
what ran is stuck until the visibility timeout. At the deadline this module sends SIGQUIT to the
worker itself: the cold shutdown ends the pool and puts unacknowledged tasks (``task_acks_late``)
back into their queues, where the next worker takes them. Celery before 5.5 does not hear SIGQUIT
once it waits for its pool, and a pool of threads, or solo, cannot end a task. So what is still
there a moment later gives back what it holds, and leaves. Measured in tests/test_drain.py.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import Any

from billiard import active_children
from celery import signals

from crisper_worker.lease_state import Lease

PATIENCE = 3.0  # seconds for a cold shutdown


def arm_deadline(seconds: float) -> None:
    """End a shutdown the cold way `seconds` after its first sign."""

    @signals.worker_shutting_down.connect(weak=False)
    def _shutting_down(how: str = "", **_kwargs: Any) -> None:
        if str(how).lower() == "warm":
            # As daemons: a worker that is done earlier does not wait for them.
            for after, act in ((seconds, _quit), (seconds + PATIENCE, _leave)):
                timer = threading.Timer(after, act)
                timer.daemon = True
                timer.start()


def _quit() -> None:
    os.kill(os.getpid(), signal.SIGQUIT)


def _leave() -> None:
    """End the pool's processes, give back what they ran, and end this one."""
    for child in active_children():
        with contextlib.suppress(OSError):
            os.kill(child.pid, signal.SIGKILL)
    keeper = Lease.keeper
    if keeper is not None and keeper.store is not None:
        keeper.give_back(keeper.leased_tags())
    os._exit(1)
