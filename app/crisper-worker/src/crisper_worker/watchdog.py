"""Ends a worker that no longer consumes, for its container to be started anew.

Plain Docker starts no unhealthy container again, but one whose process ended. A thread counts for
how long there was no heartbeat although the broker answers, in its own rounds: a host that stood
still for an hour has missed one of them, not an hour.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from crisper_worker.fork_guard import guard

log = logging.getLogger(__name__)
TURNS = 5  # rounds without a turn of the event loop, and it stands still


@dataclass
class Beats:
    """Counters of the consumer's event loop."""

    turns: int = 0  # rounds of the event loop, good or bad
    good: int = 0  # heartbeats
    draining: bool = False


class Watchdog:
    """Watches `beats` from the first heartbeat on.

    Args:
        beats: what is counted.
        seconds: a worker that has not beaten for that long is ended.
        interval: seconds of a round.
        answers: whether the broker answers; while it does not, a new worker were no better.
        shut_down: end in good order: the event loop still turns.
        leave: end at once: nothing else would be heard.
    """

    def __init__(
        self,
        beats: Beats,
        seconds: float,
        interval: float,
        answers: Callable[[], bool],
        shut_down: Callable[[], None],
        leave: Callable[[], None],
    ) -> None:
        self.beats = beats
        self.seconds = seconds
        self.interval = interval
        self.answers = answers
        self.shut_down = shut_down
        self.leave = leave
        self.silent = 0  # rounds
        self.standing = 0  # rounds
        self._last_beats = Beats()

    def start(self) -> None:
        """Watch, from a thread."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        pause, talking = threading.Event(), guard()
        while not pause.wait(self.interval):
            with talking:
                if self.ended():
                    return

    def ended(self) -> bool:
        """Run one round; return whether the worker is on its way out."""
        beats, last = self.beats, self._last_beats
        if beats.draining:
            return True  # it has a deadline of its own
        self.standing = 0 if beats.turns != last.turns else self.standing + 1
        beat = beats.good == 0 or beats.good != last.good
        self._last_beats = Beats(beats.turns, beats.good)
        if beat or not self.answers():
            self.silent = 0
            return False
        self.silent += 1
        if self.silent * self.interval < self.seconds:
            return False
        stands = self.standing >= TURNS
        how = "its event loop stands still" if stands else "it finishes what runs"
        log.critical("this worker has not consumed for %g s and ends: %s", self.seconds, how)
        (self.leave if stands else self.shut_down)()
        return True


def leave(code: int) -> Callable[[], None]:
    """Return the way out that nothing can hold up: what runs starts again elsewhere."""
    return lambda: os._exit(code)
