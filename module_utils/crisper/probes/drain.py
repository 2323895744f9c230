"""What drains workers from inside a container: one process, one connection, the whole loop.

Fed to ``python -`` together with ``probes.inspect``, ``celery.stale``, ``celery.drain``,
``celery.stranded`` and ``probes.stranded``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import uuid

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


class Room:
    """Questions to workers and their answers, matched by ticket.

    Kombu's own collector counts every message as an expected reply; a late one would cost
    another worker its answer. Here a late reply is simply heard late.

    A Redis that stands still (its host is short of memory, its disk hangs) raises no error: it is
    a command that takes long, and replies that do not come. `broker_away` tells that from a worker
    that is silent.
    """

    def __init__(self, app, timeout):
        from kombu import Consumer

        from .inspect import connected, ignored
        from .leftovers import Replies

        self.connection = connected(app, timeout)
        self.channel = self.connection.default_channel
        self.replies = Replies(app, self.connection)
        self.mailbox = self.replies.mailbox
        self.timeout = timeout
        self.tickets = {}
        self.parts = {}
        self.reports = []
        self.broker_away = False  # whether it stood still since the last `ask`
        self.client = redis_client(self.connection)
        self.consumer = Consumer(
            self.channel, [self.mailbox.reply_queue], no_ack=True, on_message=self._on_message
        )
        self.consumer.on_decode_error = ignored
        self.consumer.consume()

    def send(self, method, arguments, nodes, ticket=None):
        """One command to the named nodes."""
        self.mailbox._publish(
            method,
            arguments,
            destination=list(nodes),
            reply_ticket=ticket,
            channel=self.channel,
            timeout=self.timeout,
        )

    def ask(self, methods, nodes):
        """Send the poll's questions."""
        poll, begun = uuid.uuid4().hex, time.monotonic()
        for method in methods:
            ticket = uuid.uuid4().hex
            self.tickets[ticket] = (poll, method, len(methods))
            self.send(method, {}, nodes, ticket)
        self.broker_away = time.monotonic() - begun >= AWAY

    def _on_message(self, message):
        from ..celery.drain import POOL
        from .inspect import read_reply

        ticket, body = read_reply(message, self.mailbox.accept)
        poll, method, wanted = self.tickets.get(ticket, ("", "", 0))
        for node, value in body.items() if isinstance(body, dict) else ():
            listed = isinstance(value, list) and all(isinstance(one, dict) for one in value)
            if not (listed if method != POOL else isinstance(value, dict)):
                continue  # {"error": ...}: the worker is about to stop, or has no consumer yet
            part = self.parts.setdefault((poll, node), {})
            part[method] = value
            if len(part) == wanted:
                self.reports.append((node, self.parts.pop((poll, node))))

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
        from .inspect import UNREADABLE

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
                self.connection.drain_events(timeout=min(left, LOOK_EVERY))
                read_at = time.monotonic()
            except socket.timeout:
                self.look_at_broker()
            except UNREADABLE:
                continue  # no message of Celery's: somebody else has put it there
        reports, self.reports = self.reports, []
        return reports

    def close(self):
        """Forget the reply queue and leave."""
        try:
            self.consumer.cancel()
        finally:
            self.replies.close()


def converge(app, request, book):
    """Ask and order until the book is finished or the budget is spent."""
    from kombu.exceptions import OperationalError

    from ..celery.drain import FIRST_PAUSE, METHODS, ONCE, POOL, RESULTS_EVERY, next_pause
    from .inspect import Failure, held

    order = ORDERS[request["command"]]
    patience = request["reply_timeout"]
    deadline = time.monotonic() + request["timeout"]
    pause, room, last_error, met = FIRST_PAUSE, None, None, False
    trusted = set(book.asked())
    results_at = time.monotonic()
    while True:
        try:
            room = room or Room(app, patience)
            met = True
            if book.held is None:
                book.held = held(room.connection)
            methods = (*METHODS, ONCE) if book.wants_scheduled() else METHODS
            # Behind `active`: what is not in the pool any more did not run then.
            methods = (*methods, POOL) if book.wants_pool() else methods
            room.ask(methods, book.asked())
            # A worker that missed its turn is not waited for again until it has spoken.
            left = max(0.05, deadline - time.monotonic())
            awaited = trusted & set(book.awaited())
            reports = room.collect(awaited, book.asked(), min(patience, left))
            now, wall = time.monotonic(), time.time()
            if room.broker_away:
                book.excuse(now)
            orders = {}
            for node, report in reports:
                for queue in book.hear(node, report, now, wall):
                    orders.setdefault(queue, set()).add(node)
            spoken = set(book.asked()) if room.broker_away else {node for node, _ in reports}
            trusted = spoken & set(book.awaited())
            if request["look_only"]:
                break
            for queue, nodes in sorted(orders.items()):
                room.send(order, {"queue": queue}, sorted(nodes))
            last_error = None
            if time.monotonic() >= results_at:
                look_at_results(app, room.connection, book)
                results_at = time.monotonic() + RESULTS_EVERY
        except (Failure, OperationalError, OSError, *app.connection().connection_errors) as error:
            if not met:
                raise  # it never worked: a wrong password is not cured by waiting
            # Redis restarts within seconds; what was told to workers stays told.
            room, last_error, trusted = None, error, set(book.asked())
            book.excuse(time.monotonic())
        book.expire(time.monotonic())
        left = deadline - time.monotonic()
        if book.finished() or left <= 0:
            break
        time.sleep(min(pause, left))
        pause = next_pause(pause, request["interval"])
    if last_error is not None:
        raise Failure("broker_unreachable", f"{type(last_error).__name__}: {last_error}")
    if room is not None:
        room.close()


def look_at_results(app, connection, book):
    """Have the book know whose result is there although its message is not acknowledged.

    Only Redis is looked at. Without an answer the tasks count as running.
    """
    from ..celery.drain import MOST_HELD
    from ..celery.stale import word
    from .inspect import held
    from .stranded import Unacked, results, unix

    running = {word(entry.get("id")) for _node, _key, entry in book.unacknowledged()}
    if not running or connection.transport.driver_type != "redis":
        return
    try:
        if (held(connection) or 0) > MOST_HELD:
            return
        delivered = Unacked(app, connection).delivered(running)
        metas = results(app, list(delivered)) if delivered else None
    except Exception:  # a user without the right to read; a broker that is away is met by the poll
        return
    book.take_results(metas or {}, delivered, unix, time.monotonic())


def main(request, marker):
    """Answer one request and leave without the application's exit handlers."""
    from ..celery.drain import Drain, Resume
    from ..text import clean
    from .inspect import Failure, load_app, redact, secrets_of

    output = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    secrets = secrets_of(os.environ)
    begun = time.monotonic()
    state = {"phase": "app_not_importable", "book": None, "since": begun}

    def answer(problem="", error=""):
        book = state["book"]
        reply = book.summary(time.time()) if book else {}
        reply.update(problem=problem, error=error)
        reply["seconds"] = round(time.monotonic() - state["since"], 3)
        reply["import_seconds"] = round(state["since"] - begun, 3)
        data = ("\n" + marker + json.dumps(clean(redact(reply, secrets))) + "\n").encode()
        while data:
            data = data[os.write(output, data) :]
        sys.stderr.flush()
        os._exit(0)

    def late(*_):
        answer(state["phase"], "no answer in time")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(max(1, int(request["import_timeout"])))
    try:
        app = load_app(request["app"])
        state.update(phase="broker_unreachable", since=time.monotonic())
        # The loop keeps its own time; the alarm is for a broker that hangs in mid-sentence.
        signal.alarm(int(request["timeout"] + request["reply_timeout"]) + 15)
        now, silent_after = time.monotonic(), request["silent_after"]
        if request["command"] == "resume":
            state["book"] = Resume(request["queues"], silent_after, now)
        else:
            state["book"] = Drain(request["nodes"], silent_after, now)
        converge(app, request, state["book"])
        signal.alarm(0)
        answer()
    except Failure as failure:
        answer(failure.problem, str(failure))
    except Exception as error:
        answer(state["phase"], f"{type(error).__name__}: {error}")
