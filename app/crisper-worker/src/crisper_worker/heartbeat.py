"""A heartbeat file that the running consumer writes and a health check only reads.

One line, ``<seconds since boot> <state>``. The state is ``ok`` while the consumer runs,
``draining`` during a warm shutdown (its event loop has stopped, and that is healthy), and
``broker-down`` while the connection is away (a restart would not cure it). A consumer that is
stuck writes nothing, nor does one that no longer consumes a queue that it should: the line grows
old. Seconds since boot and not the time of day, because a
stepped clock must not kill healthy workers.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from celery import bootsteps, signals

from crisper_worker.internals import why_not_consuming

log = logging.getLogger(__name__)
OK, DRAINING, BROKER_DOWN = "ok", "draining", "broker-down"
INTERVAL = 1.0  # seconds


def write(path: str, state: str) -> None:
    """Replace the file, so that a reader never sees half a line."""
    boot = int(time.clock_gettime(time.CLOCK_BOOTTIME))
    # A draft for each state: the signal handler may interrupt a beat between its two lines.
    draft = Path(f"{path}.{os.getpid()}.{state}")
    try:
        draft.write_text(f"{boot} {state}\n")
        draft.replace(path)
    except OSError as error:
        # Celery would take an OSError here for a lost connection. The old line tells enough.
        log.warning("the heartbeat %s could not be written: %s", path, error)


class HeartbeatStep(bootsteps.StartStopStep):
    """Consumer step that beats from the consumer's own timer once it consumes."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    path = ""
    draining = False

    def __init__(self, parent: Any, **_kwargs: Any) -> None:
        super().__init__(parent)
        self.timers: list[Any] = []
        self.complaint = ""

    def start(self, parent: Any) -> None:
        """The connection is up: beat from the event loop's first round on, when it consumes."""
        self.timers = [
            parent.timer.call_after(0, self.beat, (parent,)),
            parent.timer.call_repeatedly(INTERVAL, self.beat, (parent,)),
        ]

    def stop(self, parent: Any) -> None:
        """The consumer stops: because the worker drains, or because the connection is away."""
        for timer in self.timers:
            timer.cancel()
        self.timers = []
        write(self.path, DRAINING if HeartbeatStep.draining else BROKER_DOWN)

    def shutdown(self, parent: Any) -> None:
        """Nothing to close."""

    def beat(self, parent: Any) -> None:
        """Write a fresh line, unless the worker should consume and does not."""
        complaint = "" if HeartbeatStep.draining else why_not_consuming(parent)
        if complaint and complaint != self.complaint:
            log.error("no heartbeat: %s", complaint)
        self.complaint = complaint
        if not complaint:
            write(self.path, DRAINING if HeartbeatStep.draining else OK)


def mark_draining(path: str) -> None:
    """From the first sign of a shutdown on, the state is ``draining``."""

    @signals.worker_shutting_down.connect(weak=False)
    def _shutting_down(**_kwargs: Any) -> None:
        HeartbeatStep.draining = True
        write(path, DRAINING)
