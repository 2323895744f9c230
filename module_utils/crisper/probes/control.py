"""The Celery application, its broker, and questions to its workers: what probes share.

Sent to containers with every probe: standard library, Python 3.8, and what the application itself
has (Celery, kombu, redis), inside functions.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .leftovers import REPLIES, Leftovers, leftovers_of_broker, quiet, remove_replies
from .redis_keys import REMOVAL, mend_bindings, plain_client, task_keys, wrong_type

# A worker of 5,000 tasks answers `registered` with 0.3 MB, one with 50,000 revoked ids with 2 MB.
# What is larger is not read, and neither is more than this of all workers together.
MOST_OF_ONE, MOST_OF_ALL, MOST_REPLIES = 4_000_000, 24_000_000, 20_000
# Queues of which the types of their keys are asked for, where that is a help only.
MOST_QUEUES = 100
# What kombu raises at a message that is none of Celery's. No reason to end: whoever may write into
# Redis would end every deploy with it. Of compression errors the consumer tells `ignored`.
UNREADABLE = (LookupError, ValueError, TypeError, AttributeError, RecursionError)


class Failure(Exception):
    """The probe cannot go on; `problem` is the kind of trouble."""

    def __init__(self, problem: str, error: str) -> None:
        super().__init__(error)
        self.problem = problem


def load_app(name: str, settings: Sequence[str] = ()) -> Any:
    """Return the Celery application, found as ``celery -A`` finds it.

    `settings` are such as ``celery worker`` takes behind ``--``.
    """
    sys.path.insert(0, os.getcwd())
    try:
        from celery.app.utils import find_app

        app = find_app(name)
        if settings:
            app.conf.update(app.loader.cmdline_config_parser(settings, "worker"))
        app.finalize()
    except BaseException as error:  # an import may raise anything, SystemExit included
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise Failure(
            "app_not_importable",
            f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})",
        ) from error
    return app


def connected(app: Any, timeout: float) -> Any:
    """Return a connection to the broker that has answered."""
    options = {**(app.conf.broker_transport_options or {}), "socket_connect_timeout": timeout}
    connection = app.connection_for_write(connect_timeout=timeout, transport_options=options)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        # Redis connects lazily: only a channel has shown that the password is right.
        connection.default_channel  # noqa: B018
    except Exception as error:
        cause = error.__cause__ or error
        raise Failure("broker_unreachable", f"{type(cause).__name__}: {cause}") from error
    if connection.transport.driver_type == "redis":
        with quiet():
            mend_bindings(app, connection.default_channel)
    return connection


def check_types(connection: Any, queues: Iterable[str] = ()) -> None:
    """Fail if a key that holds tasks has another type than Celery's: workers take none then.

    Raises:
        Failure: names the key, its type, and how to remove it.
    """
    channel = connection.default_channel
    if wrong := wrong_type(plain_client(channel), task_keys(channel, queues)):
        raise Failure("unreadable_data", wrong)


def unreadable_key(connection: Any, queues: Iterable[str] = ()) -> list[str]:
    """Return which key that holds tasks has another type than Celery's, and how to remove it.

    Two texts, so that none is cut on its way; empty without such a key, or where Redis does not
    tell. Workers answer then and take no task.
    """
    if connection.transport.driver_type != "redis":
        return []
    channel, names = connection.default_channel, list(dict.fromkeys(queues))[:MOST_QUEUES]
    try:
        wrong = wrong_type(plain_client(channel), task_keys(channel, names))
    except Exception:
        return []
    return list(wrong.partition(REMOVAL)[::2]) if wrong else []


def count_held(connection: Any) -> int | None:
    """Return how many messages all workers hold; None where the broker cannot tell."""
    if connection.transport.driver_type != "redis":
        return None
    import redis

    channel = connection.default_channel
    # Kombu's own client adds its prefix to some commands only.
    client: Any = redis.Redis(connection_pool=channel.pool)
    key = (getattr(channel, "global_keyprefix", "") or "") + channel.unacked_key
    try:
        return int(client.hlen(key))
    except redis.ResponseError:  # no hash, or a user without the right to read it
        return None


def restarted(connection: Any) -> float | None:
    """Return when the broker was started, in Unix seconds; None where it does not tell."""
    if connection.transport.driver_type != "redis":
        return None
    import redis

    client: Any = redis.Redis(connection_pool=connection.default_channel.pool)
    try:
        return time.time() - float(client.info("server")["uptime_in_seconds"])
    except Exception:  # a user without the right to ask; it is a help only
        return None


def read_reply(message: Any, accept: Iterable[str] | None = None) -> tuple[str | None, Any]:
    """Return the ticket and the body of a reply; the body is a text where it is not read.

    It is JSON, unless the application's workers serialize otherwise and `accept` has the kinds.
    """
    headers = message.headers if isinstance(message.headers, dict) else {}
    ticket = headers.get("ticket")
    ticket = ticket if isinstance(ticket, str) else None
    size = len(message.body or "")
    if size > MOST_OF_ONE:
        return ticket, "(a reply of " + str(size) + " bytes)"
    try:
        if accept and str(message.content_type) != "application/json":
            from kombu.serialization import prepare_accept_content

            message.accept = prepare_accept_content(accept)
            return ticket, message.decode()
        return ticket, json.loads(message.body)
    except Exception as error:  # whatever a serializer raises
        return ticket, "(a reply that cannot be read: " + type(error).__name__ + ")"


def ignored(*_: Any) -> None:
    """Take a message that cannot be decoded: it answers nothing."""


class Replies:
    """A mailbox of Celery's remote control with a reply queue that is known to be ours."""

    def __init__(self, app: Any, connection: Any) -> None:
        """Declare nothing yet; `connection` has answered."""
        self.connection = connection
        self.channel = connection.default_channel
        self.mailbox = app.control.mailbox(connection)
        self.leftovers: Leftovers | None = None
        if connection.transport.driver_type != "redis":
            return  # the broker lets the queue expire (``x-expires``)
        oid = "crisper-probe-" + uuid.uuid4().hex
        # Kombu takes it from the process and its thread, by a property whose place differs.
        kind = type(self.mailbox)
        self.mailbox.__class__ = type(kind.__name__, (kind,), {"oid": oid})
        self.mailbox.__dict__.pop("reply_queue", None)
        self.queue = self.mailbox.reply_queue.name
        if not self.queue.startswith(oid):
            return  # a kombu that names them otherwise
        self.leftovers = leftovers_of_broker(self.channel)
        self.leftovers.note([REPLIES + self.queue])
        self.leftovers.sweep(self.channel)

    def close(self) -> None:
        """Remove the reply queue, its binding and what came too late, and leave the broker."""
        with quiet():
            self.channel.after_reply_message_received(self.mailbox.reply_queue.name)
        with quiet():
            # It may still read from the queue: what is put there after this, kombu would parse.
            self.connection.release()
        if self.leftovers is not None:
            client = self.leftovers.client
            with quiet():
                remove_replies(client, self.channel, self.leftovers.prefix, self.queue)
                self.leftovers.forget([REPLIES + self.queue])
            with quiet():
                client.connection_pool.disconnect()


class ControlClient:
    """Commands to workers and their replies, over a connection and a reply queue of its own.

    Replies are matched by ticket. Kombu's own collector takes one call at a time and counts any
    message as one of the expected replies: a late one, or the second answer of a duplicate node
    name, would cost another worker its answer.
    """

    def __init__(
        self,
        app: Any,
        timeout: float,
        connect_timeout: float | None = None,
        json_only: bool = False,
    ) -> None:
        """Connect and listen.

        Args:
            app: the Celery application.
            timeout: seconds after which a worker does not carry a command out any more.
            connect_timeout: seconds to connect; `timeout` when absent.
            json_only: whether replies in another of the application's serializers stay unread.
        """
        from kombu.messaging import Consumer

        self.connection = connected(app, timeout if connect_timeout is None else connect_timeout)
        self.channel = self.connection.default_channel
        if self.connection.transport.driver_type == "redis":
            # Closing waits for the read that is under way, by default a second.
            self.channel.brpop_timeout = 0.1
        self.replies = Replies(app, self.connection)
        self.mailbox = self.replies.mailbox
        self.accept = None if json_only else self.mailbox.accept
        self.timeout = timeout
        # Celery's pool has one, on a connection of its own, which survives a restart of Redis.
        self.producer: Any = None
        self.handlers: dict[
            str, Callable[[Any], None]
        ] = {}  # ticket -> what is called with a reply's body
        self.bytes = self.messages = 0
        self.consumer = Consumer(
            *(self.channel, [self.mailbox.reply_queue]),
            **{"no_ack": True, "on_message": self._on_message, "on_decode_error": ignored},
        )
        self.consumer.consume()

    def send(
        self,
        method: str,
        arguments: Mapping[str, Any],
        nodes: Iterable[str] | None = None,
        on_reply: Callable[[Any], None] | None = None,
    ) -> None:
        """Send a command to the named nodes, to all without; `on_reply` is called with each body.

        A body that cannot be read is a text.
        """
        ticket = None
        if on_reply is not None:
            ticket = uuid.uuid4().hex
            self.handlers[ticket] = on_reply
        self.mailbox._publish(
            method,
            arguments,
            destination=None if nodes is None else list(nodes),
            reply_ticket=ticket,
            channel=self.channel,
            timeout=self.timeout,
            producer=self.producer,
        )

    def receive(self, timeout: float) -> bool:
        """Take in what comes first; return whether it was a message of Celery's.

        Raises:
            socket.timeout: nothing came within so many seconds.
        """
        try:
            self.connection.drain_events(timeout=timeout)
        except UNREADABLE:
            self.messages += 1  # somebody else has put it there
            return False
        return True

    @property
    def flooded(self) -> bool:
        """Return whether more came than workers have to say."""
        return self.bytes > MOST_OF_ALL or self.messages > MOST_REPLIES

    def close(self) -> None:
        """Remove the reply queue and leave the broker."""
        try:
            self.consumer.cancel()
        finally:
            self.replies.close()

    def _on_message(self, message: Any) -> None:
        ticket, body = read_reply(message, self.accept)
        self.bytes += min(len(message.body or ""), MOST_OF_ONE)
        self.messages += 1
        handler = self.handlers.get(ticket or "")
        if handler is not None:
            handler(body)
