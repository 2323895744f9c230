"""Decide when a Celery worker is drained from what it reports, poll after poll.

Standard library only and Python 3.8: this file also runs inside the worker's container, together
with ``probes.drain``. No I/O and no clock in here.

Measured with Celery 5.7 on Redis:

* The reply to ``cancel_consumer`` comes *before* it is carried out, so the reply proves nothing;
  ``active_queues`` does. A BRPOP that was under way may still bring a message: kombu finds no
  consumer for it and puts it back.
* ETA tasks stay with the worker until its process ends, and are put back into their queue then.
  They are not running and are not waited for; one whose time comes meanwhile is run as usual.
* On SIGTERM a worker of Celery 5.5 with Celery's defaults ended the 2 tasks that ran and put the 8
  that it had prefetched back at once; while it was drained it would have run those 8 as well.
* A worker that reconnects stays cancelled, one that was restarted consumes again: whoever
  reports a queue is told again.
* What a worker lists as running may have ended (see ``celery.stale``): that is not waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .stale import SETTLED, entry_key, outcome, split, started, word

# One empty look may fall between a message's arrival and its entry into the books.
CONFIRMATIONS = 2
FIRST_PAUSE = 0.03
GROWTH = 1.6
METHODS = ("active_queues", "active", "reserved")
# Asked behind the others while somebody runs what is not acknowledged, see ``celery.stale``.
POOL = "stats"
# Seconds between two looks at the results of what they run.
RESULTS_EVERY = 1.0
# Asked once, and only while workers hold at most so many messages: a worker with 100,000 tasks that
# have an ETA is busy for seconds with an answer of 35 MB, and counts as silent meanwhile.
ONCE = "scheduled"
MOST_HELD = 1000
# Queues of one worker. One that names thousands is answered by as many orders a poll, which takes
# longer than a poll may.
MOST_QUEUES = 200


@dataclass
class Node:
    """A worker, as far as it is known.

    `listed`, `over` and `stale` are by key of the entry, see :func:`celery.stale.entry_key`.
    """

    name: str
    heard_at: float  # last sign of life; the start when there was none
    answered: bool = False
    empties: int = 0
    done: bool = False
    silent: bool = False
    queues: list[str] = field(default_factory=list)  # queues it consumes, as last reported
    active: list[dict[str, Any]] = field(default_factory=list)  # {id, name, since}
    listed: dict[tuple[Any, ...], Mapping[str, Any]] = field(default_factory=dict)  # runs it
    over: dict[tuple[Any, ...], float] = field(default_factory=dict)  # its result was seen first
    stale: dict[tuple[Any, ...], dict[str, str]] = field(default_factory=dict)  # {id, name}: ended
    reserved: list[dict[str, Any]] = field(default_factory=list)
    scheduled: int | None = None  # unknown while it was not asked
    orders: list[str] = field(default_factory=list)  # queues it was told to leave or to take


class DrainTracker:
    """Workers being asked; a subclass says what is ordered and when one is done."""

    def __init__(self, nodes: Iterable[str], silent_after: float, now: float = 0.0) -> None:
        self.silent_after = silent_after
        self.unacked: int | None = None  # messages that all workers hold, where it is known
        self.longest = 0.0  # seconds that the longest task seen running had run
        self.nodes = {name: Node(name, now) for name in dict.fromkeys(nodes)}

    def polled(self) -> list[str]:
        """Return who is still asked. Include unresponsive workers: they may recover."""
        return [node.name for node in self.nodes.values() if not node.done]

    def awaited(self) -> list[str]:
        """Return the workers whose answer a poll waits for."""
        return [node.name for node in self.nodes.values() if not (node.done or node.silent)]

    def wants_scheduled(self) -> bool:
        """Return whether workers are asked for their tasks with an ETA."""
        few = self.unacked is None or self.unacked <= MOST_HELD
        return few and all(node.scheduled is None for node in self.nodes.values())

    def wants_pool(self) -> bool:
        """Return whether workers are asked for their processes: some run what may be over."""
        return bool(self.unacknowledged())

    def unacknowledged(self) -> list[tuple[str, tuple[Any, ...], Mapping[str, Any]]]:
        """Return ``(node, key, entry)`` of what those who are asked run without acknowledgement."""
        return [
            (node.name, key, entry)
            for node in self.nodes.values()
            if not node.done
            for key, entry in node.listed.items()
            if entry.get("acknowledged") is False
        ]

    def take_results(
        self, metas: Mapping[str, Any], delivered: Mapping[str, float], parse: Any, now: float
    ) -> None:
        """Note whose result is there although the message is not acknowledged.

        An acknowledgement may be on its way: what is listed still after `SETTLED` has ended. Where
        the message is gone, another worker may have run it: then a run of what has ended already
        goes on, and has celery_stop_grace_period.

        Args:
            metas: task id -> what the backend stored.
            delivered: task id -> when its only unacknowledged message was delivered; 0 without one.
            parse: makes Unix seconds of the time in a result.
            now: seconds of a clock that only goes forward.
        """
        for name, key, entry in self.unacknowledged():
            task_id = word(entry.get("id"))
            if task_id in delivered and outcome(
                entry, name, metas.get(task_id), delivered[task_id], parse
            ):
                self.nodes[name].over.setdefault(key, now)

    def scheduled(self) -> int:
        """Return how many tasks with an ETA the workers hold.

        Where they were too many to ask for, that is what all workers hold and these do not run.
        """
        if self.unacked is not None and self.unacked > MOST_HELD:
            running = sum(len(node.active) + len(node.reserved) for node in self.nodes.values())
            return max(0, self.unacked - running)
        return sum(node.scheduled or 0 for node in self.nodes.values())

    def finished(self) -> bool:
        """Return whether there is no worker left to wait for."""
        return not self.awaited()

    def hear(self, name: str, report: Mapping[str, Any], now: float, wall: float) -> list[str]:
        """Take a worker's report; return the queues it is to be told about.

        `wall` is the time of day, which ``time_start`` is told in.
        """
        node = self.nodes.get(name)
        if node is None or node.done:
            return []
        try:
            queues = [word(queue["name"]) for queue in report["active_queues"] if "name" in queue]
            if len(queues) > MOST_QUEUES:
                return []
            running, *ended = split(report["active"], report.get(POOL))
            reserved = [_task(request) for request in report["reserved"]]
            scheduled = len(report[ONCE]) if ONCE in report else node.scheduled
        except Exception:  # an answer that cannot be judged is none: this worker falls silent
            return []
        node.answered, node.silent, node.heard_at = True, False, now
        node.queues, node.reserved, node.scheduled = queues, reserved, scheduled
        self._take_running(node, running, [entry for entries in ended for entry in entries], now)
        begun = [task["since"] for task in node.active if task["since"]]
        self.longest = max(self.longest, *(wall - since for since in begun), 0.0)
        orders = self.judge(node)
        node.orders += [queue for queue in orders if queue not in node.orders]
        return orders

    def _take_running(self, node: Node, running: list[Any], ended: list[Any], now: float) -> None:
        """Note what a worker runs; of these, those whose result is there have ended as well."""
        node.listed = {}
        for request in running:
            key = entry_key(request)
            if key in node.stale or now - node.over.get(key, now) >= SETTLED:
                ended.append(request)
            else:
                node.listed[key] = request
        for request in ended:
            node.stale[entry_key(request)] = {key: word(request.get(key)) for key in ("id", "name")}
        node.active = [_task(request) for request in node.listed.values()]

    def judge(self, node: Node) -> list[str]:
        """Return the queues to tell the node about; set ``done``."""
        raise NotImplementedError

    def recall(self, before: DrainTracker) -> None:
        """Take over what the same workers were told, and what was seen of them, before."""
        self.longest, self.unacked = before.longest, before.unacked
        for name, node in before.nodes.items():
            self.nodes[name].orders = list(node.orders)
            self.nodes[name].scheduled = node.scheduled
            self.nodes[name].over, self.nodes[name].stale = dict(node.over), dict(node.stale)

    def expire(self, now: float) -> None:
        """Wait no more for workers that have not answered for too long."""
        for node in self.nodes.values():
            if not node.done and now - node.heard_at >= self.silent_after:
                node.silent = True

    def excuse(self, now: float) -> None:
        """Count no silence of workers while the broker was away."""
        for node in self.nodes.values():
            if not node.silent:
                node.heard_at = now

    def summary(self, wall: float) -> dict[str, Any]:
        """Return what came of it; `wall` is the time of day, which ``time_start`` is told in."""
        nodes = list(self.nodes.values())
        return {
            "done": [node.name for node in nodes if node.done],
            "silent": [node.name for node in nodes if not node.done and _mute(node)],
            "unfinished": [
                task for node in nodes if not node.done for task in _unfinished(node, wall)
            ],
            "stale": [
                {**task, "node": node.name} for node in nodes for task in node.stale.values()
            ],
            "scheduled": self.scheduled(),
            "longest": round(self.longest, 1),
            "queues": {node.name: list(node.orders) for node in nodes if node.orders},
            "nodes": {
                node.name: {
                    "queues": list(node.queues),
                    "active": len(node.active),
                    "reserved": len(node.reserved),
                    "scheduled": node.scheduled,
                }
                for node in nodes
                if node.answered
            },
        }


class Drain(DrainTracker):
    """Workers that may be stopped when they are done.

    Such a worker consumes nothing, and waiting gains nothing, twice in a row. Waiting gains nothing
    for a worker that holds nothing, nor for one that has taken messages beyond what it runs.
    SIGTERM makes the latter give these back at once and end what runs; while it is waited for, it
    runs all of them, one after the other.
    """

    def judge(self, node: Node) -> list[str]:
        """Return every queue that it still consumes: it is to leave them."""
        idle = not node.queues and (not node.active or bool(node.reserved))
        node.empties = node.empties + 1 if idle else 0
        node.done = node.empties >= CONFIRMATIONS
        return list(node.queues)


class Cancel(DrainTracker):
    """Workers that are done when they consume nothing, whatever they still run."""

    def judge(self, node: Node) -> list[str]:
        """Return every queue that it still consumes: it is to leave them."""
        node.done = not node.queues
        return list(node.queues)


class Resume(DrainTracker):
    """Workers that are done when they consume the queues that they are to consume."""

    def __init__(
        self, queues: Mapping[str, Iterable[str]], silent_after: float, now: float = 0.0
    ) -> None:
        super().__init__(queues, silent_after, now)
        self.wanted = {name: list(dict.fromkeys(wanted)) for name, wanted in queues.items()}

    def judge(self, node: Node) -> list[str]:
        """Return every queue that it does not consume yet: it is to take them up."""
        missing = [queue for queue in self.wanted[node.name] if queue not in node.queues]
        node.done = not missing
        return missing


def next_pause(pause: float, longest: float) -> float:
    """Return the next pause: short at first, for idle workers; long later, for long tasks."""
    return min(pause * GROWTH, longest)


def _mute(node: Node) -> bool:
    return node.silent or not node.answered


def _task(request: Mapping[str, Any]) -> dict[str, Any]:
    # Arguments may hold anything, passwords too: they never leave the container.
    return {
        "id": word(request.get("id")),
        "name": word(request.get("name")),
        "since": started(request),
    }


def _unfinished(node: Node, wall: float) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for state, tasks in (("running", node.active), ("waiting", node.reserved)):
        for task in tasks:
            since = task["since"]
            seconds = round(max(0.0, wall - since), 1) if since else 0.0
            found.append(
                {
                    "id": task["id"],
                    "name": task["name"],
                    "node": node.name,
                    "seconds": seconds,
                    "state": state,
                }
            )
    return found
