"""Rows of a stack's status: pure functions of the engine's and the journal's records."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from ..celery.stale import split
from ..journal import BEGIN, END
from ..shapes import EACH, like
from ..text import ROWS, clean, listed, printable, quote

# Task names that are listed of one queue.
MOST_NAMES = 20
# A task that a worker lists as running although it has ended.
STALE: dict[str, Any] = {"id": "", "name": "", "node": ""}
# A dead letter (a task that killed its worker each time), as crisper-worker lists it.
DEAD_LETTER: dict[str, Any] = {"task_id": "", "task": "", "source": "", "reason": "", "at": 0.0}
# An id that stands in a row without quotes: nothing in it reads as a sentence.
PLAIN_ID = re.compile(r"[\w.:@-]+")
# Seconds that the clock of a worker may be ahead of this one.
CLOCK_SECONDS = 86400.0
# Bytes of that list which are read.
MOST_BYTES = 8_000_000


class ContainerStatus(TypedDict):
    """A container of a stack; `since` is the time of its start or end (RFC 3339)."""

    name: str
    service: str
    release: str
    state: str
    health: str
    since: str
    restarts: int
    exit_code: int | None


class LastRun(TypedDict, total=False):
    """The newest run of the journal that ended; empty without one."""

    run: str
    purpose: str
    who: str
    at: str
    result: str


def containers_of(records: Iterable[Mapping[str, Any]]) -> list[ContainerStatus]:
    """Return containers of ``docker inspect``'s JSON, by service and name; ``compose run``'s too.

    Their texts are printable: an image brings labels of its own.
    """
    found: list[ContainerStatus] = []
    for record in records:
        labels = (record.get("Config") or {}).get("Labels") or {}
        state = record.get("State") or {}
        runs = bool(state.get("Running"))
        found.append(
            {
                "name": str(record.get("Name", "")).lstrip("/"),
                "service": str(labels.get("com.docker.compose.service", "")),
                "release": str(labels.get("crisper.release", "")),
                "state": str(state.get("Status", "")),
                "health": str((state.get("Health") or {}).get("Status", "none")),
                "since": str(state.get("StartedAt" if runs else "FinishedAt", ""))[:19],
                "restarts": int(record.get("RestartCount") or 0),
                "exit_code": None if runs else int(state.get("ExitCode") or 0),
            }
        )
    found = [clean(container) for container in found]
    return sorted(found, key=lambda container: (container["service"], container["name"]))


def worker_rows(nodes: Any) -> list[str]:
    """Return the summary's rows about workers: what each runs, holds and consumes.

    Args:
        nodes: of M(celery_inspect), or whatever its failure left.
    """
    found = like(nodes, {EACH: {}})
    rows = []
    for node in sorted(node for node in found if node in nodes)[:ROWS]:
        replies = nodes[node]
        active, ended = _running(replies.get("active"), replies.get("stats"))
        reserved = _count(replies.get("reserved"), "0")
        scheduled = _count(replies.get("scheduled"), "an unknown number of")
        queues = [queue["name"] for queue in like(replies.get("active_queues"), [{"name": ""}])]
        consumed = listed(queues, MOST_NAMES) or "none"
        text = (
            f"{active} active{ended}, {reserved} reserved, {scheduled} scheduled; queues {consumed}"
        )
        rows.append(f"{printable(node)}  {text}")
    return rows + _more(len(found), "workers")


def _running(active: Any, stats: Any) -> tuple[int, str]:
    """Return how many tasks a worker runs, and words for those it lists although they ended."""
    running, *ended = split(active if isinstance(active, list) else [], stats)
    number = sum(map(len, ended))
    return len(running), f" and {number} listed that ended" if number else ""


def stale_tasks(tasks: Any) -> str:
    """Return what is told of tasks that old workers listed although they had ended.

    Args:
        tasks: ``{id, name, node}`` of M(celery_drain) or M(compose_rollout), some of them twice.
    """
    found = {(task["id"], task["node"]): task for task in like(tasks, [STALE])}
    if not found:
        return ""
    names = listed((f"{task['name']} {task['id']}" for task in found.values()), 3)
    what, were = ("1 task", "was") if len(found) == 1 else (f"{len(found)} tasks", "were")
    return f"{what} that old workers listed as running had ended and {were} not waited for: {names}"


def queue_rows(result: Any, queues: Sequence[str]) -> list[str]:
    """Return the summary's rows about queues, each with its label.

    Args:
        result: of M(celery_skew), or whatever its failure left.
        queues: of the stack; empty ones are rows too, where the queues were read.
    """
    counts, parts = {EACH: {EACH: 0}}, {EACH: {"read": 0, "of": 0}}
    shape = {"waiting": counts, "partial": parts, "orphaned": {EACH: 0}, "problem": "broken"}
    found = like(result, shape)
    waiting, rows = found["waiting"], []
    own = [queue for queue in waiting if queue in queues or queue == "unacked"]
    others = [queue for queue in waiting if queue not in own]
    for queue in [*own, *others[:ROWS]]:
        names = waiting[queue]
        total, part = sum(names.values()), found["partial"].get(queue)
        of = f" read of {total + part['of'] - part['read']}" if part and part["of"] else ""
        tasks = listed((f"{name} {n}" for name, n in names.items()), MOST_NAMES, "more names")
        orphaned = "; NO WORKER CONSUMES IT" if queue in found["orphaned"] else ""
        number = f"{total}{of} ({tasks})"
        if queue == "unacked":  # whether a worker has them still cannot be told from Redis
            rows.append(f"Unacked   {number}, delivered and not acknowledged")
        else:
            rows.append(f"Queue     {printable(queue)}  {number}{orphaned}")
    rows += [f"Queue     {row}" for row in _more(len(others), "queues")]
    if not found["problem"]:
        rows += [f"Queue     {queue}  0" for queue in queues if queue not in waiting]
    return rows


def dead_letter_rows(stdout: Any) -> list[str]:
    """Return the summary's rows about dead letters.

    Args:
        stdout: what crisper-worker printed; its last line is the list. An application may print
            while it is imported.
    """
    lines = stdout.strip().split("\n") if isinstance(stdout, str) else []
    if not lines or not lines[-1]:
        return []
    entries: Any = None
    if len(lines[-1]) <= MOST_BYTES:
        try:
            entries = json.loads(lines[-1])
        except (ValueError, RecursionError):
            entries = None
    if not isinstance(entries, list):
        return [f"(an answer that is no list: {quote(lines[-1], 80)})"]
    found = sorted(like(entries, [DEAD_LETTER]), key=_set_aside_at, reverse=True)[:ROWS]
    return [_dead_letter(clean(entry)) for entry in found] + _more(len(entries), "older tasks")


def _set_aside_at(entry: Mapping[str, Any]) -> float:
    """Return when a dead letter was set aside (Unix seconds); 0 for a time that cannot be true.

    Whoever writes into Redis makes entries with any time: none of before 1970 or of years to come
    may push the real ones out of the list.
    """
    at = entry["at"]
    return at if isinstance(at, float) and 0 <= at <= time.time() + CLOCK_SECONDS else 0.0


def _dead_letter(entry: Mapping[str, Any]) -> str:
    """Return the row of a dead letter; whoever sends a task chooses all of its words."""
    name = entry["task_id"]
    name = name if PLAIN_ID.fullmatch(name) else quote(name)
    task, source, reason = (quote(entry[key]) or "unknown" for key in ("task", "source", "reason"))
    return f"{name}  task {task}, queue {source}: {reason}"


def _count(reply: Any, otherwise: str) -> str:
    return str(len(reply)) if isinstance(reply, list) else otherwise


def _more(count: int, what: str) -> list[str]:
    return [f"and {count - ROWS} more {what}"] if count > ROWS else []


def last_run(entries: Iterable[Mapping[str, Any]]) -> LastRun:
    """Return the newest run that ended: ``{run, purpose, who, at, result}``; empty without one."""
    entries = list(entries)
    ends = [entry for entry in entries if entry["step"] == END]
    if not ends:
        return {}
    end = ends[-1]
    begins = [e for e in entries if e["run"] == end["run"] and e["step"] == BEGIN]
    begin = begins[-1] if begins else {}
    return {
        "run": str(end["run"]),
        "purpose": str(begin.get("purpose", "")),
        "who": str(begin.get("who", "")),
        "at": str(end.get("at", "")),
        "result": str(end.get("result", "")),
    }
