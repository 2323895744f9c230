"""Code that touches the insides of kombu and Celery 5.7.0: read it at each upgrade.

What is relied on, and by what it is replaced:

kombu.transport.redis
- ``Channel._brpop_start`` sends, ``_brpop_read`` reads; between them ``_in_poll`` is the
  connection and ``_brpop_sent_at`` the time (the health check of the connection looks at it).
  BRPOP takes a message out of Redis before the worker has it: a worker, Redis or network that
  goes away in between loses it. Here a script takes and registers in one step, and the waiting
  is a BLMOVE from a list's end to the same end, which changes nothing.
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

import functools
import logging
import os
import secrets
import time
from queue import Empty
from typing import TYPE_CHECKING, Any

import kombu.exceptions
import kombu.transport
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery import Celery, signals
from celery.app.task import Context
from celery.backends import redis as celery_redis
from celery.exceptions import Reject, WorkerLostError
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.imports import symbol_by_name
from kombu.utils.json import dumps, loads
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from crisper_worker.lease_keeper import LeaseKeeper
from crisper_worker.lease_store import Delivery, LeaseStore, UnreadableError, text_of
from crisper_worker.past_limit import (
    INCOMING,
    OPEN,
    PastLimitPipeline,
    PastLimitRedis,
    is_refusal,
    past_limit,
)
from crisper_worker.poison import failure, judged

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
                log.error("message %a cannot be read, and was set aside", name)
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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.keeper: LeaseKeeper | None = None
        self.registered: str | None = None  # the tag that the take script registered last
        self._waits = False  # for a message, else for the take script
        self._asked_kombus_way = False  # the command under way is a BRPOP
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

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        """Consume from `queue`; without acknowledgements in kombu's own way."""
        if not no_ack and self.ack_emulation and Lease.keeper is not None:
            self.keeper = Lease.keeper
            if self.keeper.store is None:
                self.keeper.start(open_store(self, holder_name()))
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def _brpop_start(self, timeout: float | None = None) -> None:
        self._asked_kombus_way = self.keeper is None
        if self.keeper is None:
            super()._brpop_start(timeout)
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        lists = [
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
            return bool(super()._brpop_read(**options))
        try:
            answer, refused = None, False
            try:
                answer = self.client.parse_response(self.client.connection, "EVAL", **options)
            except ResponseError as error:
                refused = is_refusal(error)
                if not refused:
                    raise
            except self.connection_errors:
                self._waits = False
                self.client.connection.disconnect()
                raise
            self._refused = self._waits and refused
            waited, self._waits = self._waits, not self._waits and not answer
            if waited or not answer:
                raise Empty
            source, raw, registered = answer[:3]
            queue = bytes_to_str(source)[len(self.global_keyprefix) :].rsplit(self.sep, 1)[0]
            message = loads(bytes_to_str(raw))
            if registered:
                tag = message["properties"]["delivery_tag"]
                late = time.monotonic() - self._brpop_sent_at > self.keeper.seconds / 2
                # Kombu leaves an answer unread while the worker is full.
                if late and not self.keeper.holds(tag):
                    raise Empty
                self.registered = tag
            self._queue_cycle.rotate(queue)
            self.connection._deliver(message, queue)
            return True
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()


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


class Counted(RequestBase):
    """Part of a request class: a task that kills its processes is set aside."""

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        """Handle the failure of a task, or the death of its process."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, Reject) and is_away(error.reason):
            # It wanted to try again, and could not say so: it does, as soon as Redis answers.
            log.warning("%s[%s] starts again, %s", self.name, self.id, error.reason)
            exc_info = raised(Reject(error.reason, requeue=True))
        elif self._killed_its_process(error):
            exc_info = self._set_aside(str(error)) or exc_info
        super().on_failure(exc_info, send_failed_event, return_ok)

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
            log.warning("%s[%s]: its death cannot be counted: %s", self.name, self.id, problem)
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
        cause = f"its worker {delivery.holder} is gone"
        entry = judged(delivery, deaths, Lease.max_deliveries, cause)
    if entry is not None:
        error = failure(entry)
        # First the result: a worker that dies between the two does both again.
        app.backend.mark_as_failure(delivery.task_id, error, request=context(delivery))
        if store.set_aside(delivery, entry, before):
            log.error("%s", error)
    elif store.reclaim(delivery, before):
        log.warning(
            "%s[%s] goes back to its queue: its worker %s has not renewed its lease for %g s",
            delivery.task,
            delivery.task_id,
            delivery.holder,
            Lease.seconds,
        )


def context(delivery: Delivery) -> Context:
    """Return what the result backend needs of a task: its chord and its errbacks."""
    embed: dict[str, Any] = {}
    try:
        embed = kombu_redis.Channel.Message(delivery.message, channel=_Decoder()).payload[2] or {}
    except Exception as error:  # whatever its serializer makes of a message that it cannot read
        log.warning(
            "%s[%s]: the message is not readable: %s", delivery.task, delivery.task_id, error
        )
    return Context({**(delivery.message.get("headers") or {}), **embed})


class _Decoder:
    """The part of a channel that a message needs to decode its body."""

    no_ack_consumers = None
    decode_body = virtual.Channel.decode_body
    codecs = virtual.Channel.codecs


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
        log.warning("the start of %s cannot be noted: %s", task.request.id, error)
