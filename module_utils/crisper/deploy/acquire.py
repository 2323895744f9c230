"""The right of a run to begin: the lock of the stack, and what stands against it.

Every refusal says that the run has changed nothing: none of this comes after a change.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..backup.restore_mark import read_mark, refusal
from ..journal import BUSY, Journal, held_by_other
from ..lock import LockedError, holders

# Purposes of runs that need data of one moment. A backup refuses by itself; its drill may go on,
# and so may a restore and taking the stack down.
WHOLE_DATA = ("deploy", "rollback")


class RefusedError(RuntimeError):
    """A run that may not begin: the reason, and what to do."""


def check_link(root: Path, releases: Collection[str]) -> None:
    """Refuse a deploy while proved releases run that the symlink ``current`` does not name.

    It would take itself for the first one: no dump before its migration, and whatever fails takes
    down what serves.

    Args:
        root: folder of the stack.
        releases: proved ones that run, sorted.

    Raises:
        RefusedError: there are any.
    """
    if not releases:
        return
    names = list(releases)
    raise RefusedError(
        f"Containers of release {', '.join(names)} run, but {root / 'current'} names no release"
        " whose manifest.json can be read: this deploy would take itself for the first one. Put the"
        f" symlink back (ln -sfn {root}/releases/{names[-1]} {root}/current), or take the stack"
        " down first (playbooks/down.yml). This run has changed nothing."
    )


def check_data(root: Path, purpose: str) -> None:
    """Refuse to go on with data that a restore has replaced in part.

    Raises:
        RefusedError: a restore did not get to its end.
    """
    if purpose not in WHOLE_DATA:
        return
    if problem := refusal(root, read_mark(root)):
        raise RefusedError(f"{problem} This run has changed nothing.")


def acquire_lock(
    journal: Journal, owner: Mapping[str, Any], dead: str, interrupted: bool, patience: float
) -> dict[str, Any]:
    """Take the lock of the stack; return the lock of another run that has it, else nothing.

    Args:
        journal: of the stack, for the run that asks.
        owner: ``{id, who, controller, process, purpose}``.
        dead: run whose owner is known to be dead.
        interrupted: whether an earlier run did not get to its end.
        patience: seconds to wait for what that run still does.

    Raises:
        RefusedError: the lock cannot be taken, or a process of another run still acts.
    """
    root = journal.root
    try:
        lock = journal.lock()
        free = not held_by_other(lock, journal.run, time.time(), dead)
        if (lock or interrupted) and free and lock.get("run") != journal.run:
            # What is left of another deploy; only then is anybody waited for.
            journal.quiet(patience)
        holder = journal.acquire({k: v for k, v in owner.items() if k != "id"}, dead)
    except LockedError as error:
        raise RefusedError(f"{error}. This run has changed nothing.") from error
    except OSError as error:
        raise RefusedError(
            f"The lock of the stack in {root} cannot be written: {error}. Make the"
            f" folder writable (findmnt --target {root}, df {root}), or choose"
            " another with stack_root. This run has changed nothing."
        ) from error
    if holder.get("busy"):
        raise RefusedError(busy_message(holder, list(map(str, holders(root / BUSY))), patience))
    return holder


def busy_message(lock: Mapping[str, Any], processes: Collection[str], patience: float) -> str:
    """Return that a process of another run, whose own word no longer counts, still acts."""
    whose = (
        f"The {lock.get('purpose', 'deploy')} {lock['run']} of {lock.get('who', 'somebody')}"
        f" (step {lock.get('step', 'unknown')}) is over or past its time"
        if lock.get("run")
        else "No deploy has the lock"
    )
    names = ", ".join(list(processes)[:3])
    return (
        f"{whose}, but a process of it still acts on the server after"
        f" {patience} s: {names or 'find it (ps -ef)'}; let it end or end it,"
        " and run again. This run has changed nothing."
    )
