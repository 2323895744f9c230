"""Judge why a canary is not back: is the pool that would run it busy, or is something broken?

Sent to a container together with ``probes.canary``: standard library only, Python 3.8+. No
I/O and no clock in here.

Evidence of a look, from every worker's answers to ``inspect``: which queues it consumes, how many
processes it has, what they run and for how long, how many tasks it has begun since its start.
Remote control is answered by the consumer's own event loop, so that an answer is also the
consumer's heartbeat. A worker with pool ``solo`` answers nothing while a task runs: it is silent,
never proved.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .stale import split, started, word

# Seconds for which every process has run the same task, after which nothing more is waited for:
# where nothing ends, waiting proves nothing more, and a deploy waits with it.
STILL = 3.0
# Seconds past its hard time limit after which a task shows that the pool is stuck: the worker ends
# it at the limit, or as soon as its event loop comes to it. Clocks of hosts differ as well.
MARGIN = 60.0
# Looks at a full pool that show it full: one may fall between two tasks.
LOOKS = 2
METHODS = ("active", "reserved", "stats", "active_queues")
# Tasks since a start: no worker has run more, and a sum of finite numbers may have no end.
MOST_BEGUN = 1e15
# Names in one sentence.
MOST_NAMES = 10

BUSY = "BUSY"  # the state of a canary that a busy pool has not taken
UNCONSUMED = "unconsumed"
SILENT = "silent"
RUNNING = "running"
OVERDUE = "overdue"
FREE = "free"


@dataclass
class Pool:
    """Tasks that one worker runs at one look."""

    at: float  # seconds of a clock that only goes forward
    queues: list[str]
    processes: int
    running: dict[
        str, dict[str, Any]
    ]  # task id -> {name, seconds, limit}; limit: the task's own hard one, 0 without
    reserved: set[str]  # ids
    begun: int  # tasks since its start
    limit: float  # hard time limit in seconds; 0 without one, or where the pool enforces none

    @property
    def full(self) -> bool:
        """Return whether no process is free."""
        return len(self.running) >= self.processes


@dataclass
class Verdict:
    """Reason why one queue's canary is not back; `kind` is one of this file's words."""

    kind: str
    nodes: list[str] = field(default_factory=list)
    processes: int = 0
    active: int = 0
    tasks: list[str] = field(default_factory=list)  # names of what runs, sorted
    oldest: float = 0.0  # seconds
    limit: float = 0.0  # of the task in question; 0 without one
    ended: bool = False  # whether a task ended between the looks
    still: float = 0.0  # seconds for which all processes were busy and nothing ended
    taken: bool = False  # whether a busy worker holds the canary already
    task_id: str = ""  # of the task that is overdue

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "kind": self.kind,
            "nodes": self.nodes,
            "processes": self.processes,
            "active": self.active,
            "tasks": self.tasks,
            "oldest_seconds": round(self.oldest, 1),
            "limit": self.limit,
            "ended": self.ended,
            "taken": self.taken,
            "task_id": self.task_id,
        }


def pool_of(
    replies: Mapping[str, Any], at: float, now: float, limits: Mapping[str, float]
) -> Pool | None:
    """Return what a worker runs; None for an answer that does not tell it.

    Args:
        replies: the worker's, by method of METHODS.
        at: seconds of a clock that only goes forward.
        now: the time of day, in which ``time_start`` is told.
        limits: hard time limits of tasks that have one of their own, by name, in seconds.
    """
    stats, active, queues = (replies.get(key) for key in ("stats", "active", "active_queues"))
    if not isinstance(stats, dict) or not isinstance(active, list) or not isinstance(queues, list):
        return None
    facts = stats.get("pool")
    if not isinstance(facts, dict):
        return None
    timeouts = facts.get("timeouts")
    enforced = timeouts if isinstance(timeouts, (list, tuple)) and len(timeouts) == 2 else None
    # Pools that tell no limits (threads, solo) enforce none, the task's own neither.
    running = _running(active, stats, now, limits if enforced else {})
    workers = facts.get("processes")
    autoscaled = len(workers) if isinstance(workers, list) else 0
    reserved = replies.get("reserved")
    reserved = reserved if isinstance(reserved, list) else []
    total = stats.get("total")
    return Pool(
        at=at,
        queues=[word(queue.get("name")) for queue in queues if isinstance(queue, dict)],
        processes=max(1, _whole(_number(facts.get("max-concurrency"))), autoscaled),
        running=running,
        reserved={word(r.get("id")) for r in reserved if isinstance(r, dict)},
        begun=_whole(sum(map(_number, total.values()))) if isinstance(total, dict) else 0,
        limit=_number(enforced[1]) if enforced else 0.0,
    )


def _running(
    active: list[Any], stats: Mapping[str, Any], now: float, limits: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Return what occupies processes: task id -> ``{name, seconds, limit}``."""
    running = {}
    # METHODS has `stats` behind `active`: what has ended occupies no process.
    for request in split(active, stats)[0]:
        name, start = word(request.get("name")), started(request)
        seconds = max(0.0, now - start) if start else 0.0
        task = {"name": name, "seconds": seconds, "limit": _number(limits.get(name))}
        running[word(request.get("id"))] = task
    return running


def own_limits(registered: Any) -> dict[str, float]:
    """Return the time limits of tasks from ``registered``, asked with their ``time_limit``.

    Each is told as ``name [time_limit=60]``, or as the name alone.
    """
    found = {}
    for entry in registered if isinstance(registered, list) else []:
        name, _, rest = word(entry).partition(" [time_limit=")
        if rest.endswith("]"):
            found[name] = _number(rest[:-1])
    return found


def judge(
    queue: str, task_id: str, looks: Sequence[Mapping[str, Pool]], *, exact: bool = True
) -> Verdict:
    """Return the `Verdict` on a canary that is not back, by the last of the looks.

    Args:
        queue: its name.
        task_id: of the canary.
        looks: oldest first, each ``{node: Pool}`` of those that answered.
        exact: whether the canary is the next message, as with Redis. Where it may lie behind
            others, a pool in which tasks end is at work on those.
    """
    last = looks[-1] if looks else {}
    latest = {node: pool for pools in looks for node, pool in pools.items()}
    holders = sorted(
        node for node, pool in last.items() if task_id in pool.reserved or task_id in pool.running
    )
    for node in holders:
        if task_id in last[node].running:
            task = last[node].running[task_id]
            return Verdict(RUNNING, [node], tasks=[task["name"]], oldest=task["seconds"])
    # One that holds the canary runs it; others may be free as much as they like.
    nodes = holders or sorted(node for node, pool in latest.items() if queue in pool.queues)
    if not nodes:
        return Verdict(UNCONSUMED if last else SILENT)
    return _judge_pools(nodes, looks, taken=bool(holders), exact=exact)


def _judge_pools(
    nodes: Sequence[str], looks: Sequence[Mapping[str, Pool]], *, taken: bool, exact: bool
) -> Verdict:
    """Return the verdict on the pools that would run a canary; `taken`: one of them holds it."""
    last = looks[-1]
    series = {node: full_looks(looks, node) for node in nodes}
    free = [node for node in nodes if any(not p.full for p in answers(looks, node)[-LOOKS:])]
    if not exact:  # at work on what lies before the canary, although a look fell between two tasks
        at_work = [node for node in free if has_ended(answers(looks, node))]
        series.update({node: answers(looks, node) for node in at_work})
        free = [node for node in free if node not in at_work]
    too_few = [node for node in nodes if node not in free and len(series[node]) < LOOKS]
    silent = sorted({*too_few, *(node for node in nodes if node not in last)})
    if silent:
        return Verdict(SILENT, silent)
    if free:
        found = _summed(FREE, free, [not_full(looks, node) for node in free])
        found.taken = taken
        return found
    for node in nodes:
        stuck = overdue(last[node])
        if stuck and not has_ended(series[node]):
            late, task, seconds, limit = stuck
            found = _summed(OVERDUE, [node], [last[node]])
            found.tasks, found.oldest, found.limit, found.task_id = [task], seconds, limit, late
            return found
    found = _summed(BUSY, nodes, [last[node] for node in nodes])
    found.ended = any(has_ended(pools) for pools in series.values())
    found.taken = taken
    if not found.ended:
        found.still = min(pools[-1].at - pools[0].at for pools in series.values())
    return found


def answers(looks: Iterable[Mapping[str, Pool]], node: str) -> list[Pool]:
    """Return what a worker ran at each look at which it answered."""
    return [pools[node] for pools in looks if node in pools]


def not_full(looks: Iterable[Mapping[str, Pool]], node: str) -> Pool:
    """Return what a worker ran when a process of it was free last."""
    return [pool for pool in answers(looks, node) if not pool.full][-1]


def full_looks(looks: Sequence[Mapping[str, Pool]], node: str) -> list[Pool]:
    """Return the last looks at a worker, without a break, at which its pool was full.

    A look without its answer is a break: an answer is the heartbeat of its consumer.
    """
    found: list[Pool] = []
    for pools in reversed(looks):
        if node not in pools or not pools[node].full:
            break
        found.insert(0, pools[node])
    return found


def has_ended(pools: Sequence[Pool]) -> bool:
    """Return whether a task of the worker ended between two of the looks."""
    return any(
        set(pools[i].running) - set(pools[i + 1].running) or pools[i + 1].begun > pools[i].begun
        for i in range(len(pools) - 1)
    )


def overdue(pool: Pool) -> tuple[str, str, float, float] | None:
    """Return ``(id, name, seconds, limit)`` of a task that should have been ended; else None.

    Its hard limit is the task's own, else the pool's. No worker tells one that was given with the
    call; that of the task or the pool counts then.
    """
    for task_id, task in pool.running.items():
        limit = task["limit"] or pool.limit
        if limit and task["seconds"] > limit + MARGIN:
            return task_id, task["name"], task["seconds"], limit
    return None


def describe_busy(verdict: Mapping[str, Any], waited: float) -> str:
    """Return a sentence on a busy pool; `waited` are the seconds for which its canary was."""
    text = f"busy: {verdict['active']} of {verdict['processes']} processes run"
    text += f" {_listed(verdict['tasks']) or 'a task'}"
    if verdict["active"]:
        text += f", oldest {duration(verdict['oldest_seconds'])}"
    if verdict["taken"]:
        text += f"; {_listed(verdict['nodes'])} has taken the canary and not begun it"
    if verdict["ended"]:
        return text + f"; tasks end, and the canary had no turn within {waited:g} s"
    return text + "; canary not waited for"


def duration(seconds: float) -> str:
    """Return seconds as people say them: ``45 s``, ``14 min``, ``2.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _summed(kind: str, nodes: Sequence[str], pools: Sequence[Pool]) -> Verdict:
    running = [task for pool in pools for task in pool.running.values()]
    return Verdict(
        kind,
        list(nodes),
        processes=sum(pool.processes for pool in pools),
        active=sum(len(pool.running) for pool in pools),
        tasks=sorted({task["name"] for task in running}),
        oldest=max((task["seconds"] for task in running), default=0.0),
    )


def _whole(number: float) -> int:
    """Return a whole number of a size that counts something; 0 for one below it."""
    return int(min(max(number, 0.0), MOST_BEGUN)) if number == number else 0


def _number(value: Any) -> float:
    """Return what is a finite number, or the text of one; 0 for all else."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) else 0.0
    except (ValueError, OverflowError):
        return 0.0
    return number if math.isfinite(number) else 0.0
