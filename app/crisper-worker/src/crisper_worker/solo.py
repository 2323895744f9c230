"""Heartbeats of a solo pool while it runs a task: its event loop stands still, and is not stuck.

Of Celery 5.3 to 5.7 this relies on ``Consumer.pool`` and on its class standing in
``celery.concurrency.solo``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from celery import signals


def is_solo(consumer: Any) -> bool:
    """Return whether a worker runs its tasks in its own event loop."""
    return type(consumer.pool).__module__ == "celery.concurrency.solo"


class BusyBeats:
    """Beats from a thread while a task runs.

    Args:
        beat: called in each round in which a task runs.
        interval: seconds of a round.
    """

    def __init__(self, beat: Callable[[], None], interval: float) -> None:
        self.beat = beat
        self.interval = interval
        self.running = 0  # tasks; one may call another in place
        signals.task_prerun.connect(self._began)
        signals.task_postrun.connect(self._ended)
        threading.Thread(target=self._watch, name="solo", daemon=True).start()

    def _began(self, **_kwargs: Any) -> None:
        self.running += 1

    def _ended(self, **_kwargs: Any) -> None:
        self.running -= 1

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(self.interval):
            if self.running > 0:
                self.beat()
