"""Poison: a task that kills the worker or the process that runs it, time after time.

After `limit` deliveries that ended in a death its message is set aside: the task has failed, and
`crisper_worker.aside` lists it, puts it back or drops it.
"""

from __future__ import annotations

import time

from crisper_worker.dead_letters import DeadLetter
from crisper_worker.messages import Delivery
from crisper_worker.text import shorten


class SetAsideError(Exception):
    """The result of a task that was set aside."""


def judged(delivery: Delivery, deaths: int, limit: int, cause: str) -> DeadLetter | None:
    """Return what is set aside after the `deaths`-th death; None if the task gets another try."""
    if not limit or deaths < limit:
        return None
    return DeadLetter(
        task_id=delivery.task_id,
        task=delivery.task,
        reason=f"died {deaths} times while it ran, the last time: {cause}",
        deliveries=deaths,
        at=time.time(),
        source=delivery.source,
        message=delivery.message,
    )


def failure(entry: DeadLetter) -> SetAsideError:
    """Return the error that stands as the task's result."""
    label = f"{shorten(entry.task)}[{shorten(entry.task_id)}]"
    return SetAsideError(
        f"{label} was set aside: it {entry.reason}. It waits for"
        " `playbooks/status.yml --tags requeue` or `--tags drop`."
    )
