"""A transport that takes messages under a lease.

Of kombu 5.3 to 5.7 this relies on, read it at each upgrade:

- ``Channel._brpop_start`` sends, ``_brpop_read`` reads; between them ``_in_poll`` is the connection
  and, since 5.7, ``_brpop_sent_at`` the time (the health check of the connection looks at it);
  ``_flush_brpop_reauth`` ends both since 5.7.
  BRPOP takes a message out of Redis before the worker has it: a worker, Redis or network that
  goes away in between loses it. Here a script takes and registers in one step, and the waiting
  is a BLMOVE from a list's end to the same end, which changes nothing.
- ``Channel._do_restore_message`` puts a message back within a transaction: kombu's own ends the
  worker by what it cannot read, and drops what it cannot restore. What ``Transport._deliver``
  raises ends the worker, too. A ``Consumer``'s callback is a method of it, so that ``accept`` is
  known.
- ``_q_for_pri``, ``_queue_cycle``.
- ``Channel._get_client()`` makes what makes clients, since 5.7 the script ``REFRESH_BINDING`` binds
  the queue of the remote control's answers (``_refresh_binding``), ``Channel._put`` queues a
  message (a task's has the header ``task``, and ``retries`` when it tries again; an answer has
  neither).
"""

from __future__ import annotations

import functools
import time
from queue import Empty
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps
from redis.exceptions import OutOfMemoryError, ResponseError

from crisper_worker import garbage
from crisper_worker.bindings import BindingsMixin
from crisper_worker.broadcasts import BroadcastMixin, callback_of_control, garbage_dropped
from crisper_worker.dead_letters import unreadable_entry
from crisper_worker.garbage import DATA_ERRORS, read_message
from crisper_worker.lease import holder_name, open_store
from crisper_worker.lease_keeper import LeaseKeeper
from crisper_worker.lease_state import Lease
from crisper_worker.messages import UnreadableError, described_error, text_of
from crisper_worker.oom_bypass import (
    INCOMING,
    OPEN,
    OomBypassPipeline,
    OomBypassRedis,
    is_refusal,
    oom_bypass,
)
from crisper_worker.qos import QoS, decline

WAIT = 0.25  # seconds; messages in other lists than the one waited on are seen after that
PIDBOX = ".pidbox"  # ends the names of the remote control's queues, of answers too


class PrefixedPipeline(kombu_redis.PrefixedRedisPipeline, OomBypassPipeline):
    """A pipeline with kombu's prefix that goes past the memory limit."""


class PrefixedClient(kombu_redis.PrefixedStrictRedis, OomBypassRedis):
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


class LeaseMixin(BroadcastMixin, BindingsMixin):
    """A channel that takes messages under a lease if all its consumers acknowledge."""

    QoS = QoS
    _brpop_sent_at: Any = None
    # kombu sets both to None first.
    _in_poll: Any

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
        return OomBypassRedis

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
                oom_bypass(client, [(INCOMING, key, dumps(message))])

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

    def _brpop_start(self, *timeout: Any) -> None:
        self._asked_kombus_way = self.keeper is None
        if self.keeper is None:
            super()._brpop_start(*timeout)
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
            getattr(self, "_flush_brpop_reauth", bool)()

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
