"""Tell which entries of a worker's `active` list are of tasks that have ended.

Standard library only and Python 3.8: this file also runs inside a container. No I/O and no clock.

Measured with Redis 8.0, prefork, late acknowledgement and tasks that ran when Redis was recreated:
Celery 5.5.3 (kombu 5.5.4, redis-py 5.2.1) never acknowledged them and listed them in `active` for
ever, with `acknowledged` false and the `time_start` and `worker_pid` of their run, beside newer
tasks of the same process. Celery 5.6.3 and 5.7.0 acknowledged them at their end. Nothing in the
entry itself tells; what tells is

* that the process which ran the task runs a newer one: a child of pool `prefork` runs one at a
  time, and its results and its next start reach the worker in their order;
* that the process is not in the pool any more;
* that the result of the task was stored since its start, while the delivery of before its start
  still lies in Redis: whatever was acknowledged or delivered again is not there, or is younger. So
  the result is of this very run.

Other pools have no process for each task: only results tell of theirs. What nothing tells of counts
as running.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..text import printable

PREFORK = "celery.concurrency.prefork:TaskPool"
# Seconds between a result and its acknowledgement, which comes at once unless it has failed.
SETTLED = 2.0
# Seconds for which Celery waits for the result of a process that has gone (10), and some.
LOST = 11.0
# Results of a task that has ended. An application may store another one by itself while it runs.
ENDED = ("SUCCESS", "FAILURE")
# Unix seconds (the year 5138) from which a number is no time, and process ids from which one is no
# process: JSON holds whole numbers that no float does.
END_OF_TIME, LARGEST_PID = 1e11, 2**31


def word(value: Any) -> str:
    """Return a text as it is, and for all else a short one: text of deep lists ends the process."""
    return value if isinstance(value, str) else printable(value)


def entry_key(entry: Mapping[str, Any]) -> tuple[str, float | None, int | None]:
    """Return what tells an entry from all others of its worker.

    A task that is delivered again to the same worker has its id twice.
    """
    return (word(entry.get("id")), started(entry), _pid(entry))


def started(entry: Mapping[str, Any]) -> float | None:
    """Return the time of its start in Unix seconds; None where it is not told."""
    since = entry.get("time_start")
    if not isinstance(since, (int, float)) or isinstance(since, bool):
        return None
    return float(since) if 0 <= since < END_OF_TIME else None  # no comparison is true of nan


def split(active: Iterable[Any], stats: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Return the entries of one answer that may run, those that ended, those whose process is gone.

    Args:
        active: of one worker.
        stats: of the same worker, asked for after `active`: a process that started between the two
            would be missing otherwise.
    """
    entries = [entry for entry in active if isinstance(entry, Mapping)]
    processes = pool_processes(stats)
    if processes is None:
        return entries, [], []
    newest: dict[int, float] = {}
    for entry in entries:
        pid, since = _pid(entry), started(entry)
        if pid is not None and since is not None:
            newest[pid] = max(since, newest.get(pid, since))
    running: list[Any] = []
    ended: list[Any] = []
    vanished: list[Any] = []  # their process is gone
    for entry in entries:
        pid, since = _pid(entry), started(entry)
        if pid is None or since is None:
            running.append(entry)
        elif since < newest[pid]:
            ended.append(entry)
        elif pid not in processes:
            vanished.append(entry)
        else:
            running.append(entry)
    return running, ended, vanished


def pool_processes(stats: Any) -> set[int] | None:
    """Return the process ids of a pool `prefork`; None for every other pool or answer."""
    pool = stats.get("pool") if isinstance(stats, Mapping) else None
    if not isinstance(pool, Mapping) or pool.get("implementation") != PREFORK:
        return None
    processes = pool.get("processes")
    if not isinstance(processes, (list, tuple)) or not processes:
        return None
    if not all(isinstance(pid, int) and not isinstance(pid, bool) for pid in processes):
        return None
    return set(processes)


def outcome(entry: Any, node: str, meta: Any, delivered: float, parse: Any) -> str:
    """Return how the run of this entry ended, by its stored result; empty where it may go on.

    Args:
        entry: of the worker's `active` list.
        node: name of the worker.
        meta: what the backend stored: ``{status, date_done, traceback, worker}``.
        delivered: when the only unacknowledged message of that task was delivered, Unix seconds.
        parse: makes Unix seconds of the text ``date_done``.
    """
    if not isinstance(entry, Mapping) or not isinstance(meta, Mapping):
        return ""
    since = started(entry)
    # One of after its start is of another worker, which the broker gave the task to as well.
    if entry.get("acknowledged") is not False or since is None or not delivered <= since:
        return ""
    status = meta.get("status")
    if status not in ENDED or (status == "FAILURE" and not meta.get("traceback")):
        return ""
    worker = meta.get("worker")  # only with result_extended
    if isinstance(worker, str) and worker and worker != node:
        return ""
    try:
        return str(status) if parse(meta["date_done"]) >= since else ""
    except Exception:  # whatever the text of a time makes it raise
        return ""


def _pid(entry: Mapping[str, Any]) -> int | None:
    pid = entry.get("worker_pid")
    if not isinstance(pid, int) or isinstance(pid, bool):
        return None
    return pid if 0 <= pid < LARGEST_PID else None
