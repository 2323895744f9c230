"""Counters of what a deploy did to traffic and tasks while it ran.

Standard library only and Python 3.8: this file also runs inside a container, together with
``probes.ledger``. No I/O and no clock in here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TypedDict

# How many of the first answers define what is normal.
BASELINE = 3
TIMED_OUT = "timed out"
# A sentinel's result is deleted when it is seen, so that a second run would be told too.
FINAL = ("SUCCESS", "FAILURE", "REVOKED")


class TaskCounts(TypedDict):
    """Numbers of sentinel tasks."""

    accepted: int
    refused: int
    finished: int
    failed: int
    waiting: int
    stranded: int
    lost: int
    twice: int


class RequestCounts(TypedDict):
    """Numbers of requests; ``errors`` by kind, ``normal`` the statuses that are no failure."""

    probed: int
    failed: int
    errors: dict[str, int]
    normal: list[int]


class Ledger:
    """Sentinel tasks by id, from being accepted by the broker to their end."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.queues: dict[str, str] = {}
        self.refused = 0
        self.starts: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        self.failed: list[str] = []

    def sent(self, task_id: str, queue: str = "") -> None:
        """Note that the broker has accepted it."""
        self.accepted.append(task_id)
        self.queues[task_id] = queue

    def hear(self, task_id: str, state: str) -> bool:
        """Take a state that was stored for the task; return whether it is final."""
        if state == "STARTED":
            self.starts[task_id] = self.starts.get(task_id, 0) + 1
        elif state in FINAL:
            self.ends[task_id] = self.ends.get(task_id, 0) + 1
            if state != "SUCCESS":
                self.failed.append(task_id)
            return True
        return False

    def open(self, queue: str | None = None) -> list[str]:
        """Return those that are accepted and not finished, of one queue or of all."""
        mine = (i for i in self.accepted if queue is None or self.queues[i] == queue)
        return [task_id for task_id in mine if task_id not in self.ends]

    def twice(self) -> list[str]:
        """Return the ids of tasks that ran more than once, sorted."""
        return sorted(
            task_id
            for task_id in self.accepted
            if self.starts.get(task_id, 0) > 1 or self.ends.get(task_id, 0) > 1
        )

    def summary(self, waiting: list[str], stranded: Iterable[str] = ()) -> TaskCounts:
        """Return the numbers.

        Args:
            waiting: those that still lie in a queue, or are unacknowledged.
            stranded: of these, those that no worker which answered knows.
        """
        unfinished = set(self.open())
        return {
            "accepted": len(self.accepted),
            "refused": self.refused,
            "finished": len(self.accepted) - len(unfinished),
            "failed": len(self.failed),
            "waiting": len(unfinished & set(waiting)),
            "stranded": len(unfinished & set(waiting) & set(stranded)),
            "lost": len(unfinished - set(waiting)),
            "twice": len(self.twice()),
        }


class Requests:
    """Requests through the entry point, by what came of them; several threads may tell."""

    def __init__(self, expected: Iterable[int] = ()) -> None:
        """Begin with the statuses that the health check of the application demands."""
        self.expected = set(expected)
        self.first: list[int] = []
        self.begun = 0
        self.statuses: dict[int, int] = {}
        self.errors: dict[str, int] = {}
        self.lock = threading.Lock()

    def sent(self) -> None:
        """Count a request that is on its way."""
        with self.lock:
            self.begun += 1

    def saw(self, status: int, error: str = "") -> None:
        """Count what came of one: a status, or else the kind of error."""
        with self.lock:
            if error:
                self.errors[error] = self.errors.get(error, 0) + 1
                return
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if len(self.first) < BASELINE:
                self.first.append(status)

    def normal(self) -> list[int]:
        """Return the statuses that are no failure.

        Those are what the path answered before the deploy changed anything, and what its health
        check demands. Errors of a server never are, be they as old as the deploy.
        """
        return sorted(self.expected | {status for status in self.first if status < 500})

    def summary(self) -> RequestCounts:
        """Return the numbers; a request that is still on its way is one without an answer."""
        with self.lock:
            normal = self.normal()
            errors = dict(self.errors)
            for status, number in self.statuses.items():
                if status not in normal:
                    errors["HTTP " + str(status)] = number
            ended = sum(self.statuses.values()) + sum(self.errors.values())
            if self.begun > ended:
                errors[TIMED_OUT] = errors.get(TIMED_OUT, 0) + self.begun - ended
            return {
                "probed": self.begun,
                "failed": sum(errors.values()),
                "errors": dict(sorted(errors.items())),
                "normal": normal,
            }
