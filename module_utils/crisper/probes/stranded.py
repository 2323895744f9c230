"""Find tasks that no worker knows, and put them back, from inside a container."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..celery.stale import LOST
from ..celery.stranded import (
    BEAT,
    IDS,
    METHODS,
    MOST_SCHEDULED,
    QUESTIONS,
    SHOWN,
    Answers,
    Judgement,
    ended_runs,
    ended_since,
    known_ids,
)
from ..celery.unacked import MOST, Message
from .control import ControlClient, Failure, connected
from .results import RESULTS, read_results, unix
from .serve import Probe
from .unacked import Unacked

# Seconds between the two looks, and between two tries while a worker does not answer.
PAUSE = 1.0
# Shares of the budget: for reading in one look, for reading results, for putting back.
READING, RESULT_SHARE, MOVING = 0.15, 0.1, 0.3
NUMBERS = ("held", "stranded", "ended", "leased", "limited", "later", "listed")
DEEDS = ("unreadable", "put_back", "acknowledged", "homeless")


def ask_everybody(
    app: Any, request: dict[str, Any], questions: Mapping[str, tuple[str, Mapping[str, Any]]]
) -> tuple[dict[str, list[tuple[Any, Any]]], int | None]:
    """Ask everybody at once; return the answers by question, and how many heard the ping.

    `questions` is name -> (method, arguments), and has a ``ping``.
    """
    from kombu.messaging import Producer

    client = ControlClient(app, request["timeout"])
    receivers = count_receivers(client.channel)
    # Celery's pool would publish by another channel, which counts nothing.
    client.producer = Producer(client.channel, auto_declare=False)
    replies: dict[str, list[tuple[Any, Any]]] = {name: [] for name in questions}
    listeners = None

    def collector(name: str) -> Callable[[Any], None]:
        return lambda body: replies[name].extend(body.items() if isinstance(body, dict) else ())

    try:
        for name, (method, arguments) in questions.items():
            del receivers[:]
            client.send(method, arguments, on_reply=collector(name))
            if name == "ping" and receivers:
                listeners = sum(receivers)
        deadline = time.monotonic() + request["timeout"]
        alive = request["nodes"]
        while time.monotonic() < deadline and not has_all(replies, alive, listeners or 0):
            try:
                client.receive(max(0.01, deadline - time.monotonic()))
            except socket.timeout:
                break
    finally:
        client.close()
    return replies, listeners


def has_all(
    replies: Mapping[str, list[tuple[Any, Any]]], nodes: Iterable[str], listeners: int
) -> bool:
    """Return whether those nodes and that many listeners answered the ping, and workers the rest.

    Of the questions beside the ping, each has to have an answer of every worker.
    """
    alive = [str(node) for node, _ in replies["ping"]]
    workers = [node for node in alive if not node.startswith(BEAT)]
    if not set(nodes) <= set(alive) or len(alive) < listeners:
        return False
    return all(len(pairs) >= len(workers) for name, pairs in replies.items() if name != "ping")


def count_receivers(channel: Any) -> list[int]:
    """Have a channel write down how many clients Redis hands each broadcast to.

    A worker that is frozen, or too busy to answer, is among them, whatever its name is.
    """
    from kombu.utils.json import dumps

    receivers: list[int] = []
    original = channel._put_fanout

    def put(exchange: str, message: Any, routing_key: str, **options: Any) -> Any:
        topics = getattr(channel, "_get_publish_topics", None)
        if topics is not None:
            names = topics(exchange, routing_key)
        elif hasattr(channel, "_get_publish_topic"):
            names = [channel._get_publish_topic(exchange, routing_key)]
        else:
            return original(exchange, message, routing_key, **options)
        with channel.conn_or_acquire() as client:
            receivers.extend(client.publish(name, dumps(message)) for name in names)
        return None

    channel._put_fanout = put
    return receivers


@dataclass
class Look:
    """The messages of one look, by what becomes of them, and what the workers answered."""

    judged: Judgement
    answers: Answers
    complete: bool  # whether all messages were read

    def suspects(self, app: Any) -> list[Message]:
        """Return the messages that no worker holds, or whose tasks have ended."""
        return self.judged.unknown + ended_and_listed(app, self.judged, self.answers)


def examine_once(
    app: Any, unacked: Unacked, request: dict[str, Any], tags: Sequence[str], everything: bool
) -> Look:
    """Ask the workers, then judge these messages.

    Reading takes a share of the budget, and asking by id another one.
    """
    exact = tells_by_id()
    answers = ask_lists(app, request, METHODS)
    exact = exact and answers.alive <= set(request["same_image"])
    if not exact and (everything or len(tags) <= MOST_SCHEDULED):
        answers = ask_lists(app, request, (*METHODS, "scheduled"))
    judged, complete = Judgement(), True
    deadline = time.monotonic() + request["budget"] * READING
    for message in unacked.read(tags, deadline):
        if message is None:
            complete = False
        else:
            judged.add(message, answers)
    if exact and judged.pending:
        ids = [one.id for one in judged.pending[: MOST if everything else MOST_SCHEDULED]]
        deadline = time.monotonic() + request["budget"] * READING
        known, blind, number = ask_ids(app, request, ids, answers.alive, deadline)
        answers.blind += [why for why in blind if why not in answers.blind]
        judged.settle(number, known)
    return Look(judged, answers, complete)


def ask_lists(app: Any, request: dict[str, Any], methods: Sequence[str]) -> Answers:
    """Return what all workers tell of what they hold."""
    details = {"registered": {"taskinfoitems": ["rate_limit"]}}
    questions = {method: (method, details.get(method, {})) for method in methods}
    replies, listeners = ask_everybody(app, request, questions)
    return Answers(replies, listeners, request["nodes"], methods)


def ask_ids(
    app: Any,
    request: dict[str, Any],
    ids: Sequence[str],
    nodes: Collection[str],
    deadline: float,
) -> tuple[set[str], list[str], int]:
    """Return those of the ids that workers know, why not all could be asked, and how many were."""
    known: set[str] = set()
    blind: list[str] = []
    number = 0
    while number < len(ids) and time.monotonic() < deadline:
        part = ids[number : number + IDS * QUESTIONS]
        chunks = [part[start : start + IDS] for start in range(0, len(part), IDS)]
        questions = {str(n): ("query_task", {"ids": chunk}) for n, chunk in enumerate(chunks)}
        replies, _ = ask_everybody(app, request, {"ping": ("ping", {}), **questions})
        pairs = [pair for name in questions for pair in replies[name]]
        found, missing = known_ids(pairs, list(nodes) * len(chunks))
        known |= found
        blind += [why for why in missing if why not in blind]
        number += len(part)
    return known, blind, number


def tells_by_id() -> bool:
    """Return whether this Celery tells by ``query_task`` what waits for an ETA (from 5.7 on)."""
    from celery.worker import state

    return hasattr(state, "scheduled_requests")


def ended_and_listed(app: Any, judged: Judgement, answers: Answers) -> list[Message]:
    """Return the messages of tasks that workers list as running, and whose results are there."""
    if not 0 < len(judged.active) <= MOST_SCHEDULED:
        return []
    metas = read_results(app, [message.id for message in judged.active])
    return ended_runs(judged.active, answers.active, metas or {}, unix)


def find_ended(app: Any, messages: Sequence[Message], deadline: float) -> tuple[list[Message], int]:
    """Return those of the messages whose tasks have ended since, and how many were looked at.

    Only Redis is asked for results.
    """
    found: list[Message] = []
    for start in range(0, len(messages), RESULTS):
        if start and time.monotonic() >= deadline:
            return found, start
        batch = messages[start : start + RESULTS]
        metas = read_results(app, [message.id for message in batch])
        if metas is None:
            break
        found += [one for one in batch if ended_since(metas.get(one.id), float(one.score), unix)]
    return found, len(messages)


class Examination:
    """Two looks at what is unacknowledged, and what is done about it.

    Attributes:
        reply: the numbers, which the module returns.
    """

    def __init__(self, app: Any, request: dict[str, Any]) -> None:
        """Connect to the broker.

        Raises:
            Failure: it does not answer, or is not Redis.
        """
        self.app, self.request = app, request
        self.begun = time.monotonic()
        self.moves = bool(request["put_back"])  # whether it puts back and acknowledges
        self.reply: dict[str, Any] = {
            **dict.fromkeys((*NUMBERS, *DEEDS), 0),
            **{"blind": [], "tasks": [], "partial": False, "restarted": True},
        }
        self.connection = connected(app, request["timeout"])
        kind = self.connection.transport.driver_type
        if kind != "redis":
            raise Failure(
                "broker_unsupported", "the broker is " + kind + "; only Redis can be read"
            )
        self.unacked = Unacked(app, self.connection)

    def run(self) -> dict[str, Any]:
        """Look twice, and put back what is asked for; return the reply's numbers."""
        request, reply = self.request, self.reply
        within = request["restarted_within"]
        uptime = self.unacked.client.info("server")["uptime_in_seconds"] if within else 0
        if within and uptime > within:
            return {**reply, "restarted": False}
        if within and uptime < request["grace"]:
            # What was delivered just before the restart would be too young to be judged.
            time.sleep(request["grace"] - uptime)
        reply["held"] = self.unacked.count()
        tags, complete = self.unacked.tags(request["grace"])
        if not tags:
            return reply
        first = self.look_first(tags)
        reply.update(
            leased=first.judged.leased,
            limited=first.judged.limited,
            later=len(first.judged.pending),
            unreadable=first.judged.unreadable,
            partial=not (complete and first.complete),
        )
        suspects = first.suspects(self.app)
        if suspects:
            self.settle(first, suspects)
        if not self.moves:
            reply["held"] = max(self.unacked.count(), reply["stranded"])
        self.connection.release()
        return reply

    def look_first(self, tags: Sequence[str]) -> Look:
        """Look; again, while a worker does not answer and what it may hold is to be put back."""
        while True:
            found = examine_once(self.app, self.unacked, self.request, tags, self.moves)
            waited = time.monotonic() - self.begun
            unclear = self.moves and found.answers.blind and found.judged.unknown
            if not (unclear and waited < self.request["wait"]):
                return found
            time.sleep(PAUSE)  # a worker that connects again answers soon

    def settle(self, first: Look, suspects: Sequence[Message]) -> None:
        """Look again at those messages; put back and acknowledge what that shows, if wanted."""
        # A worker acknowledges by itself what it loses with a process.
        stale = first.answers.stale
        lost = first.answers.lost_process and any(message.id in stale for message in suspects)
        time.sleep(LOST if lost and self.moves else PAUSE)
        scores = {message.tag: message.score for message in suspects}
        second = examine_once(self.app, self.unacked, self.request, list(scores), self.moves)
        answers = second.answers
        # One that was delivered again meanwhile is another delivery.
        strays = [one for one in second.suspects(self.app) if scores[one.tag] == one.score]
        reply = self.reply
        reply["listed"] = sum(one.id in answers.stale or one.id in answers.active for one in strays)
        blind = first.answers.blind
        reply["blind"] = blind + [why for why in answers.blind if why not in blind]
        reply["partial"] = reply["partial"] or not second.complete
        deadline = time.monotonic() + self.request["budget"] * RESULT_SHARE
        done, checked = find_ended(self.app, strays, deadline)
        over, unchecked = {message.tag for message in done}, len(strays) - checked
        strays = [message for message in strays[:checked] if message.tag not in over]
        reply.update(stranded=len(strays) + unchecked, ended=len(done))
        reply["partial"] = reply["partial"] or unchecked > 0
        reply["tasks"] = [{"id": one.id, "task": one.task} for one in strays[:SHOWN]]
        if self.moves and not reply["blind"]:
            self.move(strays, done)

    def move(self, strays: Sequence[Message], done: Iterable[Message]) -> None:
        """Put strays back into their queues, and acknowledge what is done."""
        deadline = time.monotonic() + self.request["budget"] * MOVING
        numbers = self.unacked.put_back(strays[::-1], deadline)
        self.reply["put_back"], self.reply["homeless"], unreadable = numbers
        self.reply["unreadable"] += unreadable
        self.reply["stranded"] -= unreadable  # nothing will put them back
        self.reply["acknowledged"] = self.unacked.acknowledge(done)


class StrandedProbe(Probe):
    """Finds tasks that no worker knows, and puts them back if that is requested."""

    def run(self, app: Any) -> None:
        """Look twice."""
        request = self.request
        waits = request["budget"] + request["wait"] + 3 * request["timeout"]
        self.enter("broker_unreachable", waits + 15)
        self.reply.update(Examination(app, request).run())

    def summary(self, problem: str = "", error: str = "") -> dict[str, Any]:
        """Return the numbers, and the seconds that it took."""
        return {**super().summary(problem, error), "seconds": self.seconds()}

    def late(self) -> str:
        """Return why the alarm went off."""
        imported = self.phase != "app_not_importable"
        return "Redis did not answer in time" if imported else super().late()


main = StrandedProbe.main
