"""A heartbeat file that the running consumer writes and a health check only reads.

One line, ``<seconds since boot> <state>``. The state is ``ok`` while the consumer runs,
``draining`` during a warm shutdown (its event loop has stopped, and that is healthy), and
``broker-down`` while the connection is away (a restart would not cure it). A consumer that is
stuck writes nothing, nor does one that no longer consumes a queue that it should: the line grows
old. Seconds since boot and not the time of day, because a
stepped clock must not kill healthy workers.

The same beats keep `crisper_worker.watchdog` quiet.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from pathlib import Path
from typing import Any

from celery import bootsteps, signals

from crisper_worker.consuming import STUCK, broker_answers, shut_down, why_not_consuming
from crisper_worker.solo import BusyBeats, is_solo
from crisper_worker.watchdog import Beats, Watchdog, leave

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
    replace_after = 0.0  # seconds; 0: never
    looks_inside = True  # of Celery and kombu; a version that nobody has tested may look otherwise
    beats = Beats()
    watchdog: Watchdog | None = None
    busy: BusyBeats | None = None

    def __init__(self, parent: Any, **_kwargs: Any) -> None:
        super().__init__(parent)
        self.timers: list[Any] = []
        self.complaint = ""

    def start(self, parent: Any) -> None:
        """Start when the connection is up: beat from the first round of its event loop."""
        self.timers = [
            parent.timer.call_after(0, self.beat, (parent,)),
            parent.timer.call_repeatedly(INTERVAL, self.beat, (parent,)),
        ]
        if is_solo(parent) and HeartbeatStep.busy is None:
            HeartbeatStep.busy = BusyBeats(self.good_beat, INTERVAL)
        if self.replace_after and HeartbeatStep.watchdog is None:
            HeartbeatStep.watchdog = Watchdog(
                self.beats,
                self.replace_after,
                INTERVAL,
                functools.partial(broker_answers, parent.app),
                functools.partial(shut_down, parent),
                leave(STUCK),
            )
            HeartbeatStep.watchdog.start()

    def stop(self, parent: Any) -> None:
        """Stop with the consumer: the worker drains, or the connection is away."""
        for timer in self.timers:
            timer.cancel()
        self.timers = []
        write(self.path, DRAINING if self.beats.draining else BROKER_DOWN)

    def shutdown(self, parent: Any) -> None:
        """Do nothing: there is nothing to close."""

    def beat(self, parent: Any) -> None:
        """Write a fresh line, unless the worker should consume and does not."""
        looks = self.looks_inside and not self.beats.draining
        complaint = why_not_consuming(parent) if looks else ""
        if complaint and complaint != self.complaint:
            log.error("no heartbeat: %s", complaint)
        self.complaint = complaint
        if complaint:
            self.beats.turns += 1
        else:
            self.good_beat()

    def good_beat(self) -> None:
        """Write a fresh line."""
        self.beats.turns += 1
        self.beats.good += 1
        write(self.path, DRAINING if self.beats.draining else OK)


def mark_draining(path: str) -> None:
    """Write the state ``draining`` from the first sign of a shutdown on."""

    @signals.worker_shutting_down.connect(weak=False)
    def _shutting_down(**_kwargs: Any) -> None:
        HeartbeatStep.beats.draining = True
        write(path, DRAINING)
