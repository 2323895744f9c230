"""Drain workers from inside a container: one process, one connection, the whole loop."""

from __future__ import annotations

import socket
import time

from ..celery.drain import (
    FIRST_PAUSE,
    METHODS,
    MOST_HELD,
    ONCE,
    POOL,
    RESULTS_EVERY,
    Drain,
    Resume,
    next_pause,
)
from ..celery.stale import word
from .control import ControlClient, Failure, count_held
from .serve import Probe
from .stranded import Unacked, results, unix

ORDERS = {"leave": "cancel_consumer", "drain": "cancel_consumer", "resume": "add_consumer"}

# Seconds after which a command of Redis was not merely slow, and seconds without a reply after
# which Redis itself is asked whether it answers.
AWAY, LOOK_EVERY = 0.5, 1.0
# Seconds for what lies in the reply queue already. A worker that has missed one poll was never read
# again, and told to be silent, where there was no other to wait for.
GLANCE = 0.05


def redis_client(connection):
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

    def __init__(self, app, timeout):
        """Connect; the first poll is asked later."""
        super().__init__(app, timeout)
        self.client = redis_client(self.connection)
        self.parts = {}
        self.reports = []
        self.broker_away = False  # whether it stood still since the last `ask`

    def ask(self, methods, nodes):
        """Send the poll's questions."""
        poll, begun = object(), time.monotonic()
        for method in methods:
            self.send(method, {}, nodes, self._reader(poll, method, len(methods)))
        self.broker_away = time.monotonic() - begun >= AWAY

    def _reader(self, poll, method, wanted):
        def read(body):
            for node, value in body.items() if isinstance(body, dict) else ():
                listed = isinstance(value, list) and all(isinstance(one, dict) for one in value)
                if not (listed if method != POOL else isinstance(value, dict)):
                    continue  # {"error": ...}: the worker is about to stop, or has no consumer yet
                part = self.parts.setdefault((poll, node), {})
                part[method] = value
                if len(part) == wanted:
                    self.reports.append((node, self.parts.pop((poll, node))))

        return read

    def look_at_broker(self):
        """Note whether the broker answers at once; waits until it answers."""
        if self.client is not None:
            begun = time.monotonic()
            self.client.ping()
            self.broker_away = self.broker_away or time.monotonic() - begun >= AWAY

    def collect(self, nodes, others, seconds):
        """Return reports that came in, waiting until every one of `nodes` has sent one.

        Those of `others` are not waited for; what they have sent is read all the same.
        """
        deadline = time.monotonic() + seconds
        read_at = time.monotonic()
        while True:
            heard = {node for node, _ in self.reports}
            if heard.issuperset(nodes) and heard.issuperset(others):
                break
            until = min(deadline, read_at + GLANCE) if heard.issuperset(nodes) else deadline
            left = until - time.monotonic()
            if left <= 0:
                break
            try:
                if self.receive(min(left, LOOK_EVERY)):
                    read_at = time.monotonic()
            except socket.timeout:
                self.look_at_broker()
        reports, self.reports = self.reports, []
        return reports


def converge(app, request, book):
    """Ask and order until the book is finished or the budget is spent."""
    from kombu.exceptions import OperationalError

    order = ORDERS[request["command"]]
    patience = request["reply_timeout"]
    deadline = time.monotonic() + request["timeout"]
    pause, client, last_error, met = FIRST_PAUSE, None, None, False
    trusted = set(book.asked())
    results_at = time.monotonic()
    while True:
        try:
            client = client or PollClient(app, patience)
            met = True
            if book.held is None:
                book.held = count_held(client.connection)
            methods = (*METHODS, ONCE) if book.wants_scheduled() else METHODS
            # Behind `active`: what is not in the pool any more did not run then.
            methods = (*methods, POOL) if book.wants_pool() else methods
            client.ask(methods, book.asked())
            # A worker that missed its turn is not waited for again until it has spoken.
            left = max(0.05, deadline - time.monotonic())
            awaited = trusted & set(book.awaited())
            reports = client.collect(awaited, book.asked(), min(patience, left))
            now, wall = time.monotonic(), time.time()
            if client.broker_away:
                book.excuse(now)
            orders = {}
            for node, report in reports:
                for queue in book.hear(node, report, now, wall):
                    orders.setdefault(queue, set()).add(node)
            spoken = set(book.asked()) if client.broker_away else {node for node, _ in reports}
            trusted = spoken & set(book.awaited())
            if request["look_only"]:
                break
            for queue, nodes in sorted(orders.items()):
                client.send(order, {"queue": queue}, sorted(nodes))
            last_error = None
            if time.monotonic() >= results_at:
                look_at_results(app, client.connection, book)
                results_at = time.monotonic() + RESULTS_EVERY
        except (Failure, OperationalError, OSError, *app.connection().connection_errors) as error:
            if not met:
                raise  # it never worked: a wrong password is not cured by waiting
            # Redis restarts within seconds; what was told to workers stays told.
            client, last_error, trusted = None, error, set(book.asked())
            book.excuse(time.monotonic())
        book.expire(time.monotonic())
        left = deadline - time.monotonic()
        if book.finished() or left <= 0:
            break
        time.sleep(min(pause, left))
        pause = next_pause(pause, request["interval"])
    if last_error is not None:
        raise Failure("broker_unreachable", f"{type(last_error).__name__}: {last_error}")
    if client is not None:
        client.close()


def look_at_results(app, connection, book):
    """Have the book know whose result is there although its message is not acknowledged.

    Only Redis is looked at. Without an answer the tasks count as running.
    """
    running = {word(entry.get("id")) for _node, _key, entry in book.unacknowledged()}
    if not running or connection.transport.driver_type != "redis":
        return
    try:
        if (count_held(connection) or 0) > MOST_HELD:
            return
        delivered = Unacked(app, connection).delivered(running)
        metas = results(app, list(delivered)) if delivered else None
    except Exception:  # a user without the right to read; a broker that is away is met by the poll
        return
    book.take_results(metas or {}, delivered, unix, time.monotonic())


class DrainProbe(Probe):
    """Has named workers leave their queues and end what they run, or take the queues up again."""

    book = None
    imported = None

    def run(self, app):
        """Poll until they have, or the budget is spent."""
        request = self.request
        self.imported = time.monotonic()
        # The loop keeps its own time; the alarm is for a broker that hangs in mid-sentence.
        self.enter("broker_unreachable", request["timeout"] + request["reply_timeout"] + 15)
        if request["command"] == "resume":
            self.book = Resume(request["queues"], request["silent_after"], self.imported)
        else:
            self.book = Drain(request["nodes"], request["silent_after"], self.imported)
        converge(app, request, self.book)

    def summary(self, problem="", error=""):
        """Return what is known of each worker, and the seconds of the wait and of the import."""
        since = self.started if self.imported is None else self.imported
        known = self.book.summary(time.time()) if self.book else {}
        return {
            **known,
            **{"problem": problem, "error": error},
            "seconds": round(time.monotonic() - since, 3),
            "import_seconds": round(since - self.started, 3),
        }

    def late(self):
        """Return why the alarm went off."""
        return "no answer in time"


main = DrainProbe.main
