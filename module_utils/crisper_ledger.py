"""What a deploy did to traffic and tasks, counted while it ran.

Standard library only and Python 3.8: this file also runs inside a container, together with
``crisper_ledger_probe``. No I/O and no clock in here.
"""

from __future__ import annotations

from typing import Any

# A sentinel's result is deleted when it is seen, so that a second run would be told too.
FINAL = ("SUCCESS", "FAILURE", "REVOKED")


class Ledger:
    """Sentinel tasks by id, from being accepted by the broker to their end."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.refused = 0
        self.starts: dict[str, int] = {}
        self.ends: dict[str, int] = {}
        self.failed: list[str] = []

    def sent(self, task_id: str) -> None:
        """The broker has taken it."""
        self.accepted.append(task_id)

    def hear(self, task_id: str, state: str) -> bool:
        """A state was stored for the task; whether it is final."""
        if state == "STARTED":
            self.starts[task_id] = self.starts.get(task_id, 0) + 1
        elif state in FINAL:
            self.ends[task_id] = self.ends.get(task_id, 0) + 1
            if state != "SUCCESS":
                self.failed.append(task_id)
            return True
        return False

    def open(self) -> list[str]:
        """Accepted and not yet finished."""
        return [task_id for task_id in self.accepted if task_id not in self.ends]

    def twice(self) -> list[str]:
        """Those that ran more than once."""
        return sorted(
            task_id
            for task_id in self.accepted
            if self.starts.get(task_id, 0) > 1 or self.ends.get(task_id, 0) > 1
        )

    def summary(self, waiting: list[str]) -> dict[str, Any]:
        """The numbers; `waiting` are those that still lie in a queue or with a worker."""
        unfinished = set(self.open())
        return {
            "accepted": len(self.accepted),
            "refused": self.refused,
            "finished": len(self.accepted) - len(unfinished),
            "failed": len(self.failed),
            "waiting": len(unfinished & set(waiting)),
            "lost": len(unfinished - set(waiting)),
            "twice": len(self.twice()),
        }


class Requests:
    """Requests through the front door."""

    def __init__(self) -> None:
        self.probed = 0
        self.errors: dict[str, int] = {}

    def saw(self, error: str) -> None:
        """One request was answered (no error), or not."""
        self.probed += 1
        if error:
            self.errors[error] = self.errors.get(error, 0) + 1

    def summary(self) -> dict[str, Any]:
        """The numbers."""
        return {
            "probed": self.probed,
            "failed": sum(self.errors.values()),
            "errors": dict(sorted(self.errors.items())),
        }
