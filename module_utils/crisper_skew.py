"""Which tasks wait in the broker, and which of them a release does not know.

Standard library only and Python 3.8: this file also runs inside a container of the release, fed
to ``python -`` together with ``crisper_skew_probe``. No I/O in here.
"""

from __future__ import annotations

import base64
import json
from collections import Counter

UNACKED = "unacked"
# What kombu itself puts between a queue's name and its priority; and into bindings.
SEPARATOR = "\x06\x16"
BATCH_BYTES = 4_000_000
FIRST_BATCH, LARGEST_BATCH = 16, 2000


def task_name(message: dict) -> str | None:
    """Name of the task that a message asks for; None when it cannot be read."""
    headers = message.get("headers") or {}
    if isinstance(headers.get("task"), str):
        return headers["task"]
    # Protocol 1 (Celery 3) has the name in the body, beside the arguments.
    properties = message.get("properties") or {}
    if "json" not in str(message.get("content-type", "")) or headers.get("compression"):
        return None
    body = message.get("body")
    try:
        if properties.get("body_encoding") == "base64":
            body = base64.b64decode(body)
        name = json.loads(body)["task"]
    except (ValueError, TypeError, KeyError):
        return None
    return name if isinstance(name, str) else None


class Tally:
    """Counts of waiting tasks by queue and name; keeps nothing else of a message."""

    def __init__(self) -> None:
        self.waiting: dict[str, Counter[str]] = {}
        self.unreadable: Counter[str] = Counter()

    def add(self, queue: str, raw: bytes) -> None:
        """Count a message as it stands in a queue, or one of ``unacked``."""
        try:
            message = json.loads(raw)
            if queue == UNACKED:
                message = message[0]  # [message, exchange, routing key]
            name = task_name(message)
        except (ValueError, TypeError, AttributeError, KeyError, IndexError):
            name = None
        if name is None:
            self.unreadable[queue] += 1
        else:
            self.waiting.setdefault(queue, Counter())[name] += 1

    def summary(self, registered: set, consumed: list) -> dict:
        """What waits, what of it is unknown, and what nobody would take."""
        unknown: Counter[str] = Counter()
        for names in self.waiting.values():
            for name, count in names.items():
                if name not in registered:
                    unknown[name] += count
        return {
            "waiting": {
                queue: dict(sorted(n.items())) for queue, n in sorted(self.waiting.items())
            },
            "unknown": dict(sorted(unknown.items())),
            "unreadable": dict(sorted(self.unreadable.items())),
            "orphaned": {
                queue: sum(names.values())
                for queue, names in sorted(self.waiting.items())
                if consumed and queue not in consumed and queue != UNACKED
            },
        }


def bound_queue(member: bytes) -> str:
    """The queue in a member of kombu's set of bindings; empty when it holds no tasks."""
    queue = member.decode(errors="replace").rpartition(SEPARATOR)[2]
    # Remote control and events have queues too.
    if queue.endswith(".pidbox") or queue.startswith("celeryev"):
        return ""
    return queue


def next_batch(size: int, length: int) -> int:
    """How many messages to read next, after `size` messages were `length` bytes."""
    if not size:
        return FIRST_BATCH
    fitting = BATCH_BYTES * size // max(length, 1)
    # At most four times as many: what comes next may be larger.
    return max(1, min(fitting, size * 4, LARGEST_BATCH))
