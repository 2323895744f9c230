"""Drain workers from inside a container: one process, one connection, the whole loop."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from ..celery.drain import (
    FIRST_PAUSE,
    METHODS,
    MOST_HELD,
    ONCE,
    POOL,
    RESULTS_EVERY,
    Drain,
    DrainTracker,
    Resume,
    next_pause,
)
from ..celery.stale import word
from .control import ControlClient, Failure, count_held
from .results import read_results, unix
from .serve import Probe
from .unacked import Unacked

ORDERS = {
    "cancel_consumers": "cancel_consumer",
    "drain": "cancel_consumer",
    "resume": "add_consumer",
}

# Seconds after which a command of Redis was not merely slow, and seconds without a reply after
# which Redis itself is asked whether it answers.
AWAY, LOOK_EVERY = 0.5, 1.0
# Seconds for what lies in the reply queue already. A worker that has missed one poll was never read
# again, and told to be silent, where there was no other to wait for.
GLANCE = 0.05


def redis_client(connection: Any) -> Any:
    """Return a client of the broker without kombu's prefix; None where it is not Redis."""
    if connection.transport.driver_type != "redis":
        return None
    import redis

    return redis.Redis(connection_pool=connection.default_channel.pool)


class PollClient(ControlClient):
    """Polls workers, again and again: a late reply is simply heard late.

    A Redis that stands still (its host is short of memory, its disk hangs) raises no error: it is
    a command that takes long, and replies that do not come. `broker_away` tells that from a worker
    that is silent.
    """

    def __init__(self, app: Any, timeout: float) -> None:
        """Connect; the first poll is asked later."""
        super().__init__(app, timeout)
        self.client = redis_client(self.connection)
        self.parts: dict[tuple[object, str], dict[str, Any]] = {}
        self.reports: list[tuple[str, dict[str, Any]]] = []
        self.broker_away = False  # whether it stood still since the last `ask`

    def ask(self, methods: Sequence[str], nodes: Collection[str]) -> None:
        """Send the poll's questions."""
        poll, begun = object(), time.monotonic()
        for method in methods:
            self.send(method, {}, nodes, self._reader(poll, method, len(methods)))
        self.broker_away = time.monotonic() - begun >= AWAY

    def _reader(self, poll: object, method: str, wanted: int) -> Callable[[Any], None]:
        def read(body: Any) -> None:
            for node, value in body.items() if isinstance(body, dict) else ():
                listed = isinstance(value, list) and all(isinstance(one, dict) for one in value)
                if not (listed if method != POOL else isinstance(value, dict)):
                    continue  # {"error": ...}: the worker is about to stop, or has no consumer yet
                part = self.parts.setdefault((poll, node), {})
                part[method] = value
                if len(part) == wanted:
                    self.reports.append((node, self.parts.pop((poll, node))))

        return read

    def look_at_broker(self) -> None:
        """Note whether the broker answers at once; waits until it answers."""
        if self.client is not None:
            begun = time.monotonic()
            self.client.ping()
            self.broker_away = self.broker_away or time.monotonic() - begun >= AWAY

    def collect(
        self, nodes: Iterable[str], others: Iterable[str], seconds: float
    ) -> list[tuple[str, dict[str, Any]]]:
        """Return reports that came in, waiting until every one of `nodes` has sent one.

        Those of `others` are not waited for; what they have sent is read all the same.
        """
        nodes, others = set(nodes), set(others)
        deadline = time.monotonic() + seconds
        read_at = time.monotonic()
        while True:
            senders = {node for node, _ in self.reports}
            if senders.issuperset(nodes) and senders.issuperset(others):
                break
            until = min(deadline, read_at + GLANCE) if senders.issuperset(nodes) else deadline
            remaining = until - time.monotonic()
            if remaining <= 0:
                break
            try:
                if self.receive(min(remaining, LOOK_EVERY)):
                    read_at = time.monotonic()
            except socket.timeout:
                self.look_at_broker()
        reports, self.reports = self.reports, []
        return reports


class DrainLoop:
    """Polls and orders, again and again, over a connection that may be lost and made anew."""

    def __init__(self, app: Any, request: dict[str, Any], tracker: DrainTracker) -> None:
        """Begin without a connection.

        Args:
            app: the Celery application.
            request: ``{command, timeout, interval, reply_timeout, look_only}``.
            tracker: of the workers; knows at any time who was told what.
        """
        from kombu.exceptions import OperationalError

        self.app, self.request, self.tracker = app, request, tracker
        # What the loss of the broker raises.
        self.losses = (Failure, OperationalError, OSError, *app.connection().connection_errors)
        self.deadline = time.monotonic() + request["timeout"]
        self.client: PollClient | None = None
        self.worked = False  # whether there was a connection
        self.error: BaseException | None = None  # of the last poll
        self.trusted = set(tracker.polled())  # who has answered the last poll
        self.results_at = time.monotonic()

    def run(self) -> None:
        """Ask until the tracker is finished or the budget is spent; once with ``look_only``.

        Raises:
            Failure: the broker does not answer, from the beginning or at the end.
        """
        pause, looks = FIRST_PAUSE, self.request["look_only"]
        while True:
            polled = self.poll()
            if looks and polled:
                break
            self.tracker.expire(time.monotonic())
            remaining = self.deadline - time.monotonic()
            if self.tracker.finished() or remaining <= 0:
                break
            time.sleep(min(pause, remaining))
            pause = next_pause(pause, self.request["interval"])
        if self.error is not None:
            raise Failure("broker_unreachable", f"{type(self.error).__name__}: {self.error}")
        if self.client is not None:
            self.client.close()

    def poll(self) -> bool:
        """Ask once, and order; return whether the broker did not fail meanwhile."""
        try:
            client = self.client = self.client or PollClient(
                self.app, self.request["reply_timeout"]
            )
            self.worked = True
            orders = self.ask(client)
            if not self.request["look_only"]:
                for queue, nodes in sorted(orders.items()):
                    client.send(ORDERS[self.request["command"]], {"queue": queue}, sorted(nodes))
            self.error = None
            if not self.request["look_only"] and time.monotonic() >= self.results_at:
                look_at_results(self.app, client.connection, self.tracker)
                self.results_at = time.monotonic() + RESULTS_EVERY
        except self.losses as error:
            if not self.worked:
                raise  # a wrong password is not cured by waiting
            # Redis restarts within seconds; what was told to workers stays told.
            self.client, self.error = None, error
            self.trusted = set(self.tracker.polled())
            self.tracker.excuse(time.monotonic())
            return False
        return True

    def ask(self, client: PollClient) -> dict[str, set[str]]:
        """Ask the workers, and have the tracker judge; return the nodes to order, by queue."""
        tracker, patience = self.tracker, self.request["reply_timeout"]
        if tracker.unacked is None:
            tracker.unacked = count_held(client.connection)
        methods = (*METHODS, ONCE) if tracker.wants_scheduled() else METHODS
        # Behind `active`: what is not in the pool any more did not run then.
        methods = (*methods, POOL) if tracker.wants_pool() else methods
        client.ask(methods, tracker.polled())
        # A worker that missed its turn is not waited for again until it has spoken.
        remaining = max(0.05, self.deadline - time.monotonic())
        awaited = self.trusted & set(tracker.awaited())
        reports = client.collect(awaited, tracker.polled(), min(patience, remaining))
        now, wall = time.monotonic(), time.time()
        if client.broker_away:
            tracker.excuse(now)
        orders: dict[str, set[str]] = {}
        for node, report in reports:
            for queue in tracker.hear(node, report, now, wall):
                orders.setdefault(queue, set()).add(node)
        spoken = set(tracker.polled()) if client.broker_away else {node for node, _ in reports}
        self.trusted = spoken & set(tracker.awaited())
        return orders


def converge(app: Any, request: dict[str, Any], tracker: DrainTracker) -> None:
    """Ask and order until the tracker is finished or the budget is spent.

    Raises:
        Failure: the broker does not answer.
    """
    DrainLoop(app, request, tracker).run()


def look_at_results(app: Any, connection: Any, tracker: DrainTracker) -> None:
    """Have the tracker know whose result is there although its message is not acknowledged.

    Only Redis is looked at. Without an answer the tasks count as running.
    """
    running = {word(entry.get("id")) for _node, _key, entry in tracker.unacknowledged()}
    if not running or connection.transport.driver_type != "redis":
        return
    try:
        if (count_held(connection) or 0) > MOST_HELD:
            return
        delivered = Unacked(app, connection).delivered(running)
        metas = read_results(app, list(delivered)) if delivered else None
    except Exception:  # a user without the right to read; a broker that is away is met by the poll
        return
    tracker.take_results(metas or {}, delivered, unix, time.monotonic())


class DrainProbe(Probe):
    """Named workers leave their queues and end what they run, or take the queues up again."""

    tracker: DrainTracker | None = None
    imported: float | None = None

    def run(self, app: Any) -> None:
        """Ask until they have, or the budget is spent."""
        request = self.request
        self.imported = time.monotonic()
        # The loop keeps its own time; the alarm is for a broker that hangs in mid-sentence.
        self.enter("broker_unreachable", request["timeout"] + request["reply_timeout"] + 15)
        if request["command"] == "resume":
            self.tracker = Resume(request["queues"], request["silent_after"], self.imported)
        else:
            self.tracker = Drain(request["nodes"], request["silent_after"], self.imported)
        converge(app, request, self.tracker)

    def summary(self, problem: str = "", error: str = "") -> dict[str, Any]:
        """Return what is known of each worker, and the seconds of the wait and of the import."""
        since = self.started if self.imported is None else self.imported
        known = self.tracker.summary(time.time()) if self.tracker else {}
        return {
            **known,
            **{"problem": problem, "error": error},
            "seconds": round(time.monotonic() - since, 3),
            "import_seconds": round(since - self.started, 3),
        }

    def late(self) -> str:
        """Return why the alarm went off."""
        return "no answer in time"


main = DrainProbe.main
