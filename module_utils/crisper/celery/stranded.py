"""Decide which unacknowledged tasks no worker knows any more, by what Redis and workers tell.

Standard library only and Python 3.8: this file also runs inside a container, together with
``probes.stranded``. No I/O and no clock in here.

Measured with Celery 5.7 and kombu 5.7: when Redis restarts, a worker without crisper-worker loses
its connection, cannot put its messages back (Redis is away), connects again and has forgotten all
that it had prefetched or holds for an ETA. These stay in ``unacked`` until the visibility timeout.
What it runs it goes on running, and acknowledges later. Celery 5.7 cancels what waits for an ETA,
and `scheduled` goes on listing it: only ``query_task`` tells. Celery 5.5 forgets that as well, and
`scheduled` tells. What it lists as running may have ended long ago (``celery.stale``).

Redis does not say who holds a message. So one counts as known to nobody only where every worker
that listens has answered, twice, and the same delivery was there all the while. What workers do
not tell of is left alone: a task with a rate limit waits in no list that they answer with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .stale import outcome, split, started, word
from .unacked import Message

# Seconds that a message may be on its way between Redis and a worker's books.
GRACE = 5.0
# Above so many candidates workers are not asked for their tasks with an ETA by mere curiosity: one
# that holds 100,000 is busy for seconds with an answer of 35 MB (as in celery.drain).
MOST_SCHEDULED = 1000
# Ids in one question to workers, and such questions at once.
IDS, QUESTIONS = 1000, 5
# Tasks that are told by name.
SHOWN = 20
BEAT = "celerybeat@"
# `stats` behind `active`, of which it tells what has ended; an answer without it counts as well.
METHODS = ("ping", "active", "reserved", "registered", "stats")
LISTS = ("active", "reserved", "scheduled")
LEASED = "crisper_worker."  # begins the consumer of a worker that renews a lease on its messages


class Answers:
    """The workers' answers of one look.

    Args:
        replies: method -> one ``(node, reply)`` for each reply that came.
        receivers: clients that Redis handed the ping to; None where it did not say.
        expected: nodes that must have answered.
        methods: what was asked.
    """

    def __init__(
        self,
        replies: Mapping[str, list[tuple[Any, Any]]],
        receivers: int | None,
        expected: Iterable[str],
        methods: Iterable[str] = METHODS,
    ) -> None:
        lists = [method for method in LISTS if method in methods]
        self.scheduled = "scheduled" in lists
        self.known: set[str] = set()
        # id -> (node, entry) that runs it, where no other list has the id
        self.active: dict[str, tuple[str, dict[str, Any]]] = {}
        self.stale: set[str] = set()  # ids that a worker lists as running although they have ended
        self.lost_process = False  # whether of one of them only the process is gone: stale.LOST
        self.limited: set[str] = set()
        alive = [str(node) for node, _ in replies.get("ping", [])]
        # Why it cannot be told who holds what.
        self.blind: list[str] = [
            *(node + " did not answer" for node in sorted(set(expected) - set(alive))),
            *_unheard(receivers, len(alive)),
        ]
        workers = [node for node in alive if not node.startswith(BEAT)]
        self.alive = set(workers)
        pools = Counter(str(node) for node, _ in replies.get("stats", []))
        stats = {str(node): reply for node, reply in replies.get("stats", [])}
        for method in ("registered", *lists):
            answered: Counter[str] = Counter()
            for node, reply in replies.get(method, []):
                # Of two workers of one name nobody knows whose processes these are.
                pool = stats[str(node)] if pools[str(node)] == 1 else None
                if self._take(method, str(node), reply, pool):
                    answered[str(node)] += 1
            for node, number in sorted(Counter(workers).items()):
                if answered[node] < number:
                    self.blind.append(node + " did not tell its " + method + " tasks")
        self.stale -= self.known

    def _take(self, method: str, node: str, reply: Any, stats: Any) -> bool:
        """Add what a node told; return whether it was an answer."""
        if not isinstance(reply, list):
            return False
        ended: set[int] = set()  # of the same list
        if method == "active" and all(isinstance(entry, dict) for entry in reply):
            _running, over, lost = split(reply, stats)
            ended = {id(entry) for entry in (*over, *lost)}
            self.lost_process = self.lost_process or bool(lost)
        for entry in reply:
            if method == "registered":
                name, _, options = word(entry).partition(" [")
                if "rate_limit=" in options:
                    self.limited.add(name)
                continue
            if method == "scheduled":
                entry = entry.get("request") if isinstance(entry, dict) else None
            if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
                return False
            task_id = entry["id"]
            if id(entry) in ended:
                self.stale.add(task_id)
                continue
            if method == "active" and task_id not in self.known:
                self.active[task_id] = (node, entry)
            else:
                self.active.pop(task_id, None)
            self.known.add(task_id)
        return True


def _unheard(receivers: int | None, alive: int) -> list[str]:
    """Return why not all that listen have answered the ping; nothing where they have."""
    if receivers is None:
        return ["Redis did not say how many workers listen"]
    if not alive:
        return ["no worker answered"]
    if receivers <= alive:
        return []
    more = str(receivers - alive)
    return [more + " more that listened to Celery's questions did not answer"]


class Judgement:
    """The messages of one look, by what becomes of them."""

    def __init__(self) -> None:
        self.unknown: list[Message] = []  # messages that no worker told of
        self.leased = 0  # held under a lease of crisper-worker, which recovers them itself
        self.known = 0
        self.active: list[Message] = []  # those of `known` that a worker lists as running
        self.limited = 0  # of tasks with a rate limit
        self.pending: list[Message] = []  # with an ETA, and nobody was asked for those
        self.unreadable = 0  # no Celery tasks

    def add(self, message: Message, answers: Answers) -> None:
        """Judge one message that lay there before the workers were asked, and still does."""
        if message.leased:
            self.leased += 1
        elif not message.id or not message.task:
            self.unreadable += 1
        elif message.id in answers.known:
            self.known += 1
            if message.id in answers.active:
                self.active.append(message)
        elif message.task in answers.limited:
            self.limited += 1
        elif message.eta and not answers.scheduled:
            self.pending.append(message)
        else:
            self.unknown.append(message)

    def settle(self, number: int, known: set[str]) -> None:
        """Judge the first `number` of `pending` by the ids that workers know of them."""
        judged, self.pending = self.pending[:number], self.pending[number:]
        unknown = [message for message in judged if message.id not in known]
        self.known += len(judged) - len(unknown)
        self.unknown += unknown
        self.unknown.sort(key=lambda message: float(message.score))


def known_ids(
    replies: Iterable[tuple[Any, Any]], nodes: Iterable[str]
) -> tuple[set[str], list[str]]:
    """Return the ids that workers know of those they were asked for, and who did not answer.

    Args:
        replies: ``(node, reply)`` of ``query_task``, one for each question to each node.
        nodes: as many times as each was asked.
    """
    known: set[str] = set()
    missing = Counter(nodes)
    for node, reply in replies:
        if not isinstance(reply, dict) or not all(isinstance(v, list) for v in reply.values()):
            continue
        known.update(str(task_id) for task_id in reply)
        missing[str(node)] -= 1
    silent = sorted(node for node, number in missing.items() if number > 0)
    return known, [node + " did not tell its tasks by id" for node in silent]


def ended_runs(
    messages: Sequence[Message],
    active: Mapping[str, tuple[str, Any]],
    metas: Mapping[str, Any],
    parse: Any,
) -> list[Message]:
    """Return the messages whose run has ended, by its result, although a worker lists it still.

    Args:
        messages: all of `Judgement.active`.
        active: of `Answers`.
        metas: task id -> what the backend stored.
        parse: as `ended_since` takes it.
    """
    found = {message.id: message for message in messages}
    times = Counter(message.id for message in messages)
    over = []
    for task_id, message in found.items():
        node, entry = active[task_id]
        if times[task_id] == 1 and outcome(
            entry, node, metas.get(task_id), float(message.score), parse
        ):
            over.append(message)
    return over


def ended_since(meta: Any, delivered: float, parse: Any) -> bool:
    """Return whether a stored result says that the task succeeded after it was delivered.

    An application may use an id again: a result of before says nothing of this delivery.

    Args:
        meta: what the backend stored: ``{status, date_done}``.
        delivered: Unix seconds.
        parse: makes Unix seconds of the text ``date_done``.
    """
    if not isinstance(meta, dict) or meta.get("status") != "SUCCESS":
        return False
    try:
        return bool(parse(meta["date_done"]) >= delivered)
    except Exception:  # whatever the text of a time makes it raise
        return False


def worth_a_look(unacked: Any, nodes: Any, restarted: float = 0.0) -> bool:
    """Return whether Redis may have unacknowledged messages that no worker holds any more.

    It has more than workers tell of, or they tell of some that ran when Redis was restarted.

    Args:
        unacked: their number; None where the broker does not say.
        nodes: node -> ``{active, reserved, scheduled, stats, conf}``, as M(celery_inspect) returns.
        restarted: when Redis was started, Unix seconds; 0 where nobody knows.
    """
    if not isinstance(unacked, int) or isinstance(unacked, bool) or not isinstance(nodes, Mapping):
        return False
    ids: set[str] = set()  # a task that two workers list has one message
    unnamed = 0
    for replies in nodes.values():
        replies = replies if isinstance(replies, Mapping) else {}
        for method in LISTS:
            reply = replies.get(method)
            entries = reply if isinstance(reply, list) else []
            if method == "active":
                entries = split(entries, replies.get("stats"))[0]
            for entry in entries:
                if method == "active" and _outlived(entry, replies, restarted):
                    return unacked > 0
                # One that was acknowledged before it ran is not among those that Redis has.
                if isinstance(entry, Mapping) and entry.get("acknowledged") is True:
                    continue
                task_id = _id(entry)
                unnamed += not task_id
                ids.add(task_id)
    return unacked > len(ids - {""}) + unnamed


def _id(entry: Any) -> str:
    """Return the id of a task in any list of a worker; empty where it has none."""
    entry = entry if isinstance(entry, Mapping) else {}
    request = entry.get("request")
    task_id = (request if isinstance(request, Mapping) else entry).get("id")
    return task_id if isinstance(task_id, str) else ""


def _outlived(entry: Mapping[str, Any], replies: Mapping[str, Any], restarted: float) -> bool:
    """Return whether a task that is not acknowledged ran when Redis was started.

    A worker with crisper-worker acknowledges it all the same.
    """
    conf = replies.get("conf")
    consumer = str(conf.get("worker_consumer")) if isinstance(conf, Mapping) else ""
    since = started(entry)
    unacknowledged = entry.get("acknowledged") is False and not consumer.startswith(LEASED)
    return unacknowledged and since is not None and since < restarted


def suspected(inspected: Any) -> bool:
    """Return whether what M(celery_inspect) returned is worth a look by M(celery_stranded)."""
    found = inspected if isinstance(inspected, Mapping) else {}
    restarted = found.get("restarted")
    if not isinstance(restarted, (int, float)) or isinstance(restarted, bool):
        restarted = 0.0
    return worth_a_look(found.get("held"), found.get("nodes") or {}, restarted)
