"""Code that touches the insides of kombu and Celery 5.7.0: read it at each upgrade.

What is relied on, and by what it is replaced:

kombu.transport.redis
- ``Channel._brpop_start`` sends, ``_brpop_read`` reads; between them ``_in_poll`` is the
  connection and ``_brpop_sent_at`` the time (the health check of the connection looks at it).
  BRPOP takes a message out of Redis before the worker has it: a worker, Redis or network that
  goes away in between loses it. Here a script takes and registers in one step, and the waiting
  is a BLMOVE from a list's end to the same end, which changes nothing.
- ``Channel._receive_one`` reads a broadcast (``_handle_message``, ``_in_listen``), and
  ``_do_restore_message`` puts a message back within a transaction: kombu's own ends the worker by
  what it cannot read, and drops what it cannot restore. What ``Transport._deliver`` raises ends the
  worker, too. A ``Consumer``'s callback is a method of it, so that ``accept`` is known.
- ``QoS.append`` registers a delivery (``unacked``, ``unacked_index``), ``ack``, ``reject``,
  ``restore_unacked`` (a channel that closes) and ``restore_visible`` (kombu's own sweep) end it.
- ``Channel.do_restore``: False lets a closing channel keep its messages.
- ``Channel._get_pool()`` makes a connection pool from the broker's URL and options, for Sentinel
  too; ``global_keyprefix``, ``unacked_key``, ``unacked_index_key``, ``_q_for_pri``,
  ``_queue_cycle``.
- ``kombu.transport.TRANSPORT_ALIASES`` and ``_transport_cache``: what ``redis://`` means.
- ``Channel._get_client()`` makes what makes clients, the script ``REFRESH_BINDING`` binds the queue
  of the remote control's answers (``_refresh_binding``), ``Channel._put`` queues a message (a
  task's has the header ``task``, and ``retries`` when it tries again; an answer has neither).

celery.worker
- ``Consumer.on_connection_error_after_connected`` collects and closes the lost connection,
  ``on_close`` then forgets every request that no process of the pool has accepted (and drops it
  from the pool): ``state.active_requests`` is what still runs.
- ``Consumer.call_soon_ack`` puts an acknowledgement off to the event loop's next round.
- ``Consumer.on_unknown_message``, ``on_invalid_task`` and ``on_decode_error`` drop a message; an
  `InvalidTaskError` of the request's constructor leads there. Behind it a request takes a place in
  the pool, which an exception does not give back.
- ``Consumer.update_strategies`` reads each task's ``Request`` class; ``Request.on_failure`` gets
  the `WorkerLostError` of a lost process (or the `SystemExit` it left by).
- a ``Reject`` with ``requeue=False`` and the reason is what `Task.retry` makes of a retry that it
  could not queue.
- ``state.should_stop`` and the ``worker_shutting_down`` signal are all that SIGTERM does.
- ``loader.override_backends``: what ``redis://`` means as a result backend;
  ``RedisBackend._get_client()`` and ``exception_safe_to_retry``.
- the ``worker_consumer`` setting and the ``celeryd_init`` signal, which comes before it is read.
- ``amqp.queues.consume_from`` is what a worker should consume (the remote control's
  ``cancel_consumer`` takes a queue out of it), ``task_consumer._active_tags`` what it asked for,
  a virtual channel's ``_consumers`` what is asked for in truth.
- ``Request.message.delivery_tag``; ``request.properties["delivery_tag"]`` in the process.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import time
from collections.abc import Iterator
from queue import Empty
from typing import TYPE_CHECKING, Any

import kombu.exceptions
import kombu.transport
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery import Celery, signals
from celery.app.task import Context
from celery.backends import redis as celery_redis
from celery.exceptions import InvalidTaskError, Reject, WorkerLostError
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.imports import symbol_by_name
from kombu.utils.json import dumps, loads
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from crisper_worker import garbage
from crisper_worker.garbage import DATA_ERRORS, check_control, read_message
from crisper_worker.lease_keeper import LeaseKeeper
from crisper_worker.lease_store import (
    Delivery,
    LeaseStore,
    UnreadableError,
    described_error,
    text_of,
    unreadable_entry,
)
from crisper_worker.past_limit import (
    INCOMING,
    OPEN,
    PastLimitPipeline,
    PastLimitRedis,
    is_refusal,
    past_limit,
)
from crisper_worker.poison import failure, judged
from crisper_worker.text import shorten

# What the mixins are mixed into; at run time the class beside them brings it.
if TYPE_CHECKING:
    from celery.worker.request import Request as RequestBase
    from kombu.transport.redis import Channel as ChannelBase
else:
    ChannelBase = RequestBase = object

log = logging.getLogger(__name__)
WAIT = 0.25  # seconds; messages in other lists than the one waited on are seen after that
SILENCE = 10.0  # seconds without asking for a message; it asks four times a second
SOCKET_TIMEOUT = 5.0  # seconds, where the transport options have none
MINE = {"redis": "Transport", "rediss": "Transport", "sentinel": "SentinelTransport"}
RESULTS = {"redis": "Results", "rediss": "Results", "sentinel": "SentinelResults"}
STUCK = 70  # exit code of a worker that ended itself because it no longer consumed
PIDBOX = ".pidbox"  # ends the names of the remote control's queues, of answers too
TRIES = 5  # of a message that no worker can take, where nothing is ever set aside for its deaths
# Lists and mappings within each other in a task's headers and arguments. A few hundred more, and
# reading them works and handing them to a process does not.
MOST_DEPTH = 500


class Lease:
    """The settings of this process and, in a worker, its keeper."""

    seconds = 0.0
    max_deliveries = 0
    keeper: LeaseKeeper | None = None


def arm_lease(app: Celery, seconds: float, max_deliveries: int) -> None:
    """Give the workers of `app` leases of `seconds`; nothing else is touched."""

    @signals.celeryd_init.connect(weak=False)
    def _starting(instance: Any = None, **_kwargs: Any) -> None:
        if instance is None or instance.app is not app:
            return
        broker = str(app.connection_for_read().transport_cls)
        if broker not in MINE:
            log.warning("the lease needs Redis as broker and is off: the broker is %s", broker)
            return
        if app.conf.worker_consumer != "celery.worker.consumer:Consumer":
            log.warning("worker_consumer is %s: the lease is off", app.conf.worker_consumer)
            return
        Lease.seconds, Lease.max_deliveries = seconds, max_deliveries
        for name, transport in MINE.items():
            kombu.transport.TRANSPORT_ALIASES[name] = f"{__name__}:{transport}"
            kombu.transport._transport_cache.pop(name, None)
        own = {name: f"{__name__}:{results}" for name, results in RESULTS.items()}
        app.loader.override_backends = {**own, **app.loader.override_backends}
        app.conf.worker_consumer = f"{__name__}:LeaseConsumer"
        signals.task_prerun.connect(_started)


def open_store(channel: Any, holder: str) -> LeaseStore:
    """Return a store with connections of its own, which outlive the channel's."""
    pool = channel._get_pool()
    for timeout in ("socket_timeout", "socket_connect_timeout"):
        if pool.connection_kwargs.get(timeout, SOCKET_TIMEOUT) is None:
            pool.connection_kwargs[timeout] = SOCKET_TIMEOUT
    names = (channel.global_keyprefix, channel.unacked_key, channel.unacked_index_key)
    return LeaseStore(PastLimitRedis(connection_pool=pool), *names, holder=holder)


def open_app_store(app: Celery) -> LeaseStore:
    """Return the store of an application's broker, for a process that holds nothing.

    Raises:
        RedisError: Redis is away.
    """
    with app.connection_for_read() as connection:
        connection.connect()  # `default_channel` would try for ever
        return open_store(connection.channel(), holder="")


class QoS(kombu_redis.QoS):
    """Deliveries under a lease; what came in kombu's own way also ends in it."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Hold a delivery that the take script has registered."""
        if delivery_tag == self.channel.registered:
            self.channel.registered = None
            virtual.QoS.append(self, message, delivery_tag)
            self.channel.keeper.hold(delivery_tag)
            self.leased.add(delivery_tag)
        else:
            super().append(message, delivery_tag)

    @functools.cached_property
    def leased(self) -> set[str]:
        """The tags that are ended through the keeper."""
        return set()

    def ack(self, delivery_tag: str) -> None:
        """End a delivery, whatever has become of the connection that it came by."""
        if delivery_tag not in self.leased:
            super().ack(delivery_tag)
            return
        self.leased.discard(delivery_tag)
        self.channel.keeper.ack(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """End a delivery, or put it to the end of its queue."""
        if delivery_tag not in self.leased:
            super().reject(delivery_tag, requeue=requeue)
            return
        if not requeue:
            self.ack(delivery_tag)
            return
        self.leased.discard(delivery_tag)
        self.channel.keeper.give_back([delivery_tag], last=True)
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        """Give back what is left when the channel is closed in good order: others may run it."""
        pending = [tag for tag in self._delivered if tag in self.leased]
        for tag in pending:
            del self._delivered[tag]
        self.leased.clear()
        if pending:
            self.channel.keeper.give_back(pending)
        super().restore_unacked(client)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put a message without a lease back; set aside what kombu cannot read."""
        keeper = getattr(self.channel, "keeper", None)
        if keeper is not None and keeper.store is not None:
            name = text_of(tag) if isinstance(tag, bytes) else str(tag)
            why = "kombu cannot restore it"
            if not keeper.store.is_kombus(name) and keeper.store.shelve_unleased(name, why):
                garbage.set_aside.add(f"{name!a} in unacked")
        super().restore_by_tag(tag, client, leftmost)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Run kombu's sweep, for messages without a lease; not while others may be late."""
        keeper = getattr(self.channel, "keeper", None)
        if keeper is None or keeper.is_calm():
            super().restore_visible(*args, **kwargs)


class PrefixedPipeline(kombu_redis.PrefixedRedisPipeline, PastLimitPipeline):
    """A pipeline with kombu's prefix that goes past the memory limit."""


class PrefixedClient(kombu_redis.PrefixedStrictRedis, PastLimitRedis):
    """A client with kombu's prefix that goes past the memory limit."""

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> PrefixedPipeline:
        """Return commands that travel together."""
        return PrefixedPipeline(
            self.connection_pool,
            self.response_callbacks,
            transaction,
            shard_hint,
            global_keyprefix=self.global_keyprefix,
        )


class Results(celery_redis.RedisBackend):
    """Results that are stored at Redis's memory limit too, and later if it takes no writes."""

    def _get_client(self) -> type[PastLimitRedis]:
        return PastLimitRedis

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Return whether to wait and store it again, with ``result_backend_always_retry``."""
        return is_refusal(exc) or super().exception_safe_to_retry(exc)


class SentinelResults(Results, celery_redis.SentinelBackend):
    """The same behind Sentinel."""


class LeaseMixin(ChannelBase):
    """A channel that takes messages under a lease if all its consumers acknowledge."""

    QoS = QoS
    # kombu sets both to None first.
    _brpop_sent_at: Any
    _in_poll: Any
    _in_listen: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.keeper: LeaseKeeper | None = None
        self.registered: str | None = None  # the tag that the take script registered last
        self._waits = False  # for a message, else for the take script
        self._asked_kombus_way = False  # the command under way is a BRPOP
        self._lists: list[str] = []  # that the last command looks at
        self._refused = False  # Redis takes no writes: the waiting changes nothing, and is longer
        super().__init__(*args, **kwargs)

    def _get_client(self) -> Any:
        if self.global_keyprefix:
            return functools.partial(PrefixedClient, global_keyprefix=self.global_keyprefix)
        return PastLimitRedis

    @functools.cached_property
    def _refresh_binding(self) -> Any:
        return self._create_client().register_script(OPEN + kombu_redis.REFRESH_BINDING)

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """Queue a message; at the memory limit what belongs to a task that was accepted."""
        try:
            super()._put(queue, message, **kwargs)
        except OutOfMemoryError:
            headers = message.get("headers") or {}
            if "task" in headers and not headers.get("retries"):
                raise
            priority = self._get_message_priority(message, reverse=False)
            key = self.global_keyprefix + self._q_for_pri(queue, priority)
            with self.conn_or_acquire() as client:
                past_limit(client, [(INCOMING, key, dumps(message))])

    def basic_consume(
        self, queue: str, no_ack: bool, callback: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Consume from `queue`; without acknowledgements in kombu's own way."""
        if not no_ack and self.ack_emulation and Lease.keeper is not None:
            self.keeper = Lease.keeper
            if self.keeper.store is None:
                self.keeper.start(open_store(self, holder_name()))
        if queue.endswith(PIDBOX):
            callback = callback_of_control(callback)
        return super().basic_consume(queue, no_ack, callback, *args, **kwargs)

    def _brpop_start(self, timeout: float | None = None) -> None:
        self._asked_kombus_way = self.keeper is None
        if self.keeper is None:
            super()._brpop_start(timeout)
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        self._lists = lists = [
            self.global_keyprefix + self._q_for_pri(queue, priority)
            for priority in self.priority_steps
            for queue in queues
        ]
        if self._waits and self._refused:
            command: list[Any] = [
                "XREAD",
                "BLOCK",
                int(WAIT * 1000),
                "STREAMS",
                "unacked_nothing",
                "$",
            ]
        elif self._waits:
            command = ["BLMOVE", lists[0], lists[0], "RIGHT", "RIGHT", WAIT]
        else:
            command = self.keeper.opened_store().take_command(lists)
        self._in_poll = self.client.connection
        self._brpop_sent_at = time.monotonic()
        self.client.connection.send_command(*command)

    def _brpop_read(self, **options: Any) -> bool:
        # Mingle waits for answers on this channel before it has a keeper. One that comes after
        # Mingle's time answers its BRPOP: read as the script's, it ended the worker.
        if self.keeper is None or self._asked_kombus_way:
            with garbage_dropped("a queue of the remote control"):
                return bool(super()._brpop_read(**options))
        try:
            answer = self._read_answer(self.keeper, **options)
            waited, self._waits = self._waits, not self._waits and not answer
            if waited or not answer:
                raise Empty
            source, raw, readable, tag = answer
            self._take(self.keeper, bytes_to_str(source), raw, bool(readable), text_of(tag))
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()

    def _read_answer(self, keeper: LeaseKeeper, **options: Any) -> Any:
        """Return what Redis answers to the take script or the waiting; None if it refuses it.

        Raises:
            ResponseError: neither refusal nor a key of another type.
        """
        try:
            answer = self.client.parse_response(self.client.connection, "EVAL", **options)
        except ResponseError as error:
            if wrong := keeper.opened_store().wrong_types(error, self._lists):
                garbage.blocked.add(wrong)
            elif not is_refusal(error):
                raise
            # Where the script itself is refused a list may be full, and nothing to wait for.
            self._refused = self._waits or bool(wrong)
            return None
        except self.connection_errors:
            self._waits = False
            self.client.connection.disconnect()
            raise
        self._refused = self._refused and not self._waits
        return answer

    def _take(self, keeper: LeaseKeeper, key: str, raw: bytes, readable: bool, tag: str) -> None:
        """Hand over a message that the script has registered, or set it aside.

        Raises:
            Empty: nothing was delivered.
        """
        try:
            message = read_message(raw)
            if not readable or message["properties"]["delivery_tag"] != tag:
                raise UnreadableError("Redis reads it otherwise than kombu")
        except UnreadableError as error:
            if keeper.opened_store().shelve(tag, str(error)):
                garbage.set_aside.add(f"{key!a}: {error}")
            raise Empty from None
        queue = key[len(self.global_keyprefix) :].rsplit(self.sep, 1)[0]
        late = time.monotonic() - self._brpop_sent_at > keeper.seconds / 2
        # Kombu leaves an answer unread while the worker is full.
        if late and not keeper.holds(tag):
            raise Empty
        self.registered = tag
        self._queue_cycle.rotate(queue)
        try:
            self.connection._deliver(message, queue)
        except DATA_ERRORS as error:
            if not decline(self.qos, tag, error):
                raise

    def _receive_one(self, c: Any) -> Any:
        """Read one broadcast: remote control, gossip, events. Drop garbage.

        Raises:
            Empty: it was garbage.
        """
        try:
            response = c.parse_response()
        except self.connection_errors:
            self._in_listen = None
            raise
        if not isinstance(response, list | tuple):
            return None
        payload = self._handle_message(c, response)
        if not bytes_to_str(payload["type"]).endswith("message") or not payload["data"]:
            return None
        channel = bytes_to_str(payload["channel"])
        if channel.startswith("/"):
            channel = channel.partition(".")[2]
        with garbage_dropped(f"the broadcast {channel}"):
            message = loads(bytes_to_str(payload["data"]))
            return self._deliver_fanout_message(message, channel.split("/", 1)[0])

    def _do_restore_message(
        self, payload: Any, exchange: Any, routing_key: Any, pipe: Any, leftmost: bool = False
    ) -> None:
        """Put a message back into its queues within a transaction; set aside what cannot go there.

        Kombu drops it: its transaction has taken the message out of ``unacked``.
        """
        try:
            payload["headers"] = payload.get("headers") or {}
            payload["headers"]["redelivered"] = True
            payload["properties"]["delivery_info"]["redelivered"] = True
            queues = [queue for queue in self._lookup(exchange, routing_key) if queue]
            if not queues:
                raise ValueError("it has no queue")
            priority = self._get_message_priority(payload, reverse=False)
            lists, text = [self._q_for_pri(queue, priority) for queue in queues], dumps(payload)
        except self.connection_errors:
            raise
        except Exception as error:  # whatever a lookup makes of an exchange that others have named
            raw = dumps([payload, exchange, routing_key]).encode()
            entry = unreadable_entry("", raw, "", described_error(error))
            pipe.hset(f"{self.unacked_key}_aside", entry.task_id, entry.dump())
            garbage.set_aside.add(f"unacked: {entry.reason}")
            return
        for name in lists:
            (pipe.lpush if leftmost else pipe.rpush)(name, text)


@contextlib.contextmanager
def garbage_dropped(place: str) -> Iterator[None]:
    """Log what cannot be read, and go on as if nothing had come: nothing there is a task.

    Raises:
        Empty: something was dropped.
    """
    try:
        yield
    except DATA_ERRORS as error:
        garbage.dropped.add(f"{place}: {described_error(error)}")
        raise Empty from None


def callback_of_control(callback: Any) -> Any:
    """Return a consumer's callback that raises at what the remote control cannot take."""
    accept = getattr(getattr(callback, "__self__", None), "accept", None)

    @functools.wraps(callback)
    def checked(message: Any) -> Any:
        check_control(message, accept)
        return callback(message)

    return checked


def decline(qos: QoS, tag: str, error: Exception) -> bool:
    """Give a message back that the worker cannot take, or set it aside; return if that was done.

    It counts as a death: unhindered it would end one worker after the other.
    """
    if tag not in qos.leased:
        return False
    store, limit = qos.channel.keeper.opened_store(), Lease.max_deliveries or TRIES
    try:
        delivery = store.find(tag)
    except UnreadableError as problem:
        store.shelve(tag, str(problem))
        delivery = None
    if delivery is None:
        qos.ack(tag)
        return True
    deaths = store.count_death(delivery.task_id)
    entry = judged(delivery, deaths, limit, f"no worker can take it: {described_error(error)}")
    what = "was set aside" if entry else "goes to the end of its queue"
    garbage.declined.add(f"{delivery.label} {what}: {described_error(error)}", error)
    if entry is None:
        qos.reject(tag, requeue=True)
    else:
        store.set_aside(delivery, entry)
        qos.ack(tag)
    return True


class Channel(LeaseMixin, kombu_redis.Channel):
    """A channel to Redis."""


class Transport(kombu_redis.Transport):
    """``redis://`` and ``rediss://``."""

    Channel = Channel


class SentinelChannel(LeaseMixin, kombu_redis.SentinelChannel):
    """A channel to the Redis that Sentinel names."""


class SentinelTransport(kombu_redis.SentinelTransport):
    """``sentinel://``."""

    Channel = SentinelChannel


@functools.cache
def holder_name() -> str:
    """Return this worker's name as a holder; a restarted worker is another holder."""
    return f"{os.uname().nodename}:{os.getpid()}:{secrets.token_hex(4)}"


class LeaseConsumer(Consumer):
    """A consumer that does not take a lost connection for lost tasks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lost = False
        super().__init__(*args, **kwargs)
        Lease.keeper = LeaseKeeper(Lease.seconds, functools.partial(take_over, self.app))

    def call_soon_ack(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge at once: an event loop that is reset would forget it."""
        return p(*args, **kwargs)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Take the loss of the connection; the pool goes on."""
        self._lost = True
        for channel in list(self.connection.transport.channels):
            channel.do_restore = False
        super().on_connection_error_after_connected(exc)

    def on_close(self) -> None:
        """Give back what the worker forgets, keep what a process of the pool runs."""
        super().on_close()
        keeper = Lease.keeper
        if self._lost and keeper is not None and keeper.store is not None:
            self._lost = False
            running = {request.message.delivery_tag for request in tuple(state.active_requests)}
            keeper.give_back(keeper.leased_tags() - running)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Set aside what names no task; without a lease Celery drops it."""
        if not shelve_unfit(message, "it names no task"):
            super().on_unknown_message(body, message)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Set aside what no task can be made of; without a lease Celery drops it."""
        if not shelve_unfit(message, described_error(exc)):
            super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Set aside what cannot be decoded; without a lease Celery drops it."""
        if not shelve_unfit(message, described_error(exc)):
            super().on_decode_error(message, exc)

    def update_strategies(self) -> None:
        """Let every request count the deaths of its processes."""
        for task in self.app.tasks.values():
            task.Request = counted(symbol_by_name(task.Request))
        super().update_strategies()


def own_store() -> LeaseStore:
    """Return the store of this worker.

    Raises:
        RuntimeError: it takes no messages under a lease.
    """
    if Lease.keeper is None:
        raise RuntimeError("this worker has no leases")
    return Lease.keeper.opened_store()


def shelve_unfit(message: Any, why: str) -> bool:
    """Set a message aside of which Celery makes no task; return whether it is under a lease."""
    qos, tag = message.channel.qos, message.delivery_tag
    if tag not in getattr(qos, "leased", ()):
        return False
    if qos.channel.keeper.opened_store().shelve_unfit(tag, why):
        garbage.set_aside.add(why)
    message.ack()
    return True


def nesting(value: Any, most: int) -> int:
    """Return how deep lists and mappings lie within each other; it looks no deeper than `most`."""
    level, depth = [value], 0
    while level and depth < most:
        inner = [
            item
            for one in level
            if isinstance(one, dict | list | tuple)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
        depth += any(isinstance(one, dict | list | tuple) for one in level)
        level = inner
    return depth


def is_limit(value: Any) -> bool:
    """Return whether a value is a time limit in seconds, or none."""
    return value is None or (isinstance(value, int | float) and 0 <= value < 1e9)


class Counted(RequestBase):
    """Part of a request class: a task that kills its processes is set aside."""

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(message, *args, **kwargs)
            limits = self.time_limits
            fine = (
                isinstance(self.id, str)
                and isinstance(limits, list | tuple)
                and len(limits) == 2
                and all(map(is_limit, limits))
                and isinstance(self._request_dict.get("retries") or 0, int)
            )
        except DATA_ERRORS as error:
            raise InvalidTaskError(described_error(error)) from error
        if not fine:
            raise InvalidTaskError("its id, time limits or retries have another type")
        # Where there are fewer brackets than that, nothing is that deep.
        brackets = sum(str(message.body).count(one) for one in "[{")
        parts = [message.headers, message.payload if brackets > MOST_DEPTH else None]
        if nesting(parts, MOST_DEPTH) >= MOST_DEPTH:
            raise InvalidTaskError(f"its parts lie more than {MOST_DEPTH} deep within each other")

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        """Handle the failure of a task, or the death of its process."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, Reject) and is_away(error.reason):
            # It wanted to try again, and could not say so: it does, as soon as Redis answers.
            log.warning("%s starts again, %s", self._label(), error.reason)
            exc_info = raised(Reject(error.reason, requeue=True))
        elif self._killed_its_process(error):
            exc_info = self._set_aside(str(error)) or exc_info
        super().on_failure(exc_info, send_failed_event, return_ok)

    def _label(self) -> str:
        return f"{shorten(str(self.name))}[{shorten(str(self.id))}]"

    def _killed_its_process(self, error: BaseException) -> bool:
        return (
            isinstance(error, WorkerLostError | SystemExit | KeyboardInterrupt)
            and self.task.acks_late
            and self.task.reject_on_worker_lost
            and not (self._already_cancelled or self._already_revoked or state.should_terminate)
            and not self._success_was_stored()
        )

    def _set_aside(self, cause: str) -> ExceptionInfo | None:
        try:
            store = own_store()
            delivery = store.find(self.message.delivery_tag)
            if delivery is None:
                return None
            deaths = store.count_death(self.id)
            limit = Lease.max_deliveries
            if self._celery_gives_up():
                limit = min(limit, deaths)
            entry = judged(delivery, deaths, limit, cause)
            if entry is None or not store.set_aside(delivery, entry):
                return None
        except (RedisError, UnreadableError) as problem:
            log.warning("%s: its death cannot be counted: %s", self._label(), problem)
            return None
        return raised(failure(entry))

    def _celery_gives_up(self) -> bool:
        """Return whether Celery's own tries (``task_retry_on_worker_lost``) are used up."""
        task, retries = self.task, self._context.retries
        return bool(
            task.retry_on_worker_lost
            and task.max_retries is not None
            and retries >= task.max_retries
        )


def is_away(reason: Any) -> bool:
    """Return whether a task was rejected because the broker does not take its retry."""
    if not isinstance(reason, kombu.exceptions.OperationalError | ConnectionError | RedisError):
        return False
    return not isinstance(reason, ResponseError) or is_refusal(reason)


def raised(error: Exception) -> ExceptionInfo:
    """Return an error as the pool hands it over."""
    try:
        raise error
    except Exception:
        return ExceptionInfo()


@functools.cache
def counted(request: type) -> type:
    """Return the request class that also counts deaths."""
    if issubclass(request, Counted):
        return request
    return type(request.__name__, (Counted, request), {})


def why_not_consuming(consumer: Any) -> str:
    """Return why a worker that should consume does not; empty if it does."""
    task_consumer = consumer.task_consumer
    channel = task_consumer.channel
    active = task_consumer._active_tags
    if isinstance(channel, virtual.Channel):
        active = {queue for queue, tag in active.items() if tag in channel._consumers}
    missing = sorted(set(consumer.app.amqp.queues.consume_from) - set(active))
    if missing:
        return f"not consumed: {', '.join(missing)}"
    keeper = getattr(channel, "keeper", None)
    if keeper is not None and active and channel.qos.can_consume():
        request_time = channel._brpop_sent_at
        if request_time is not None and time.monotonic() - request_time > SILENCE:
            return "no message was asked for in a while"
    return ""


def broker_answers(app: Celery) -> bool:
    """Return whether the broker could be consumed from now."""
    keeper = Lease.keeper
    try:
        if keeper is not None and keeper.store is not None:
            return bool(keeper.store.redis.ping())
        with app.connection_for_read() as connection:
            connection.connect()
    except Exception:
        # Each transport has errors of its own, and all of them say no.
        return False
    return True


def shut_down(consumer: Any) -> None:
    """Shut down as SIGTERM does, but for the exit code."""
    signals.worker_shutting_down.send(
        sender=consumer.hostname, sig="STUCK", how="Warm", exitcode=STUCK
    )
    state.should_stop = STUCK


def take_over(app: Celery, store: LeaseStore, delivery: Delivery, before: float) -> None:
    """Put a message back whose worker is gone, or set it aside if that was once too often."""
    entry = None
    if store.was_started(delivery.tag):
        deaths = store.deaths(delivery.task_id) + 1
        cause = f"its worker {shorten(delivery.holder)} is gone"
        entry = judged(delivery, deaths, Lease.max_deliveries, cause)
    if entry is not None:
        error = failure(entry)
        # First the result: a worker that dies between the two does both again.
        app.backend.mark_as_failure(delivery.task_id, error, request=context(delivery))
        if store.set_aside(delivery, entry, before):
            log.error("%s", error)
    elif store.reclaim(delivery, before):
        log.warning(
            "%s goes back to its queue: its worker %s has not renewed its lease for %g s",
            delivery.label,
            shorten(delivery.holder),
            Lease.seconds,
        )


def context(delivery: Delivery) -> Context:
    """Return what the result backend needs of a task: its chord and its errbacks."""
    embed: dict[str, Any] = {}
    try:
        embed = (
            kombu_redis.Channel.Message(delivery.message, channel=garbage.Decoder()).payload[2]
            or {}
        )
    except Exception as error:  # whatever its serializer makes of a message that it cannot read
        log.warning("%s: the message is not readable: %s", delivery.label, described_error(error))
    return Context({**(delivery.message.get("headers") or {}), **embed})


_own_store: list[LeaseStore] = []


def _started(task: Any = None, **_kwargs: Any) -> None:
    """Note, in the process that runs a task, that it starts."""
    tag = (getattr(task.request, "properties", None) or {}).get("delivery_tag")
    if tag is None or Lease.seconds == 0:
        return  # called in place, not delivered
    try:
        if not _own_store:
            _own_store.append(open_app_store(task.app))
        _own_store[0].start(tag)
    except (RedisError, OSError) as error:
        log.warning("the start of %a cannot be noted: %s", task.request.id, error)
