"""Deliveries under a lease: taken, acknowledged, given back.

Of kombu 5.3 to 5.7 this relies on, read it at each upgrade:

- ``QoS.append`` registers a delivery (``unacked``, ``unacked_index``), ``ack``, ``reject``,
  ``restore_unacked`` (a channel that closes) and ``restore_visible`` (kombu's own sweep) end it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from kombu.transport import redis as kombu_redis
from kombu.transport import virtual
from redis.exceptions import ResponseError

from crisper_worker import garbage
from crisper_worker.bindings import free_mutex
from crisper_worker.keys import Keys
from crisper_worker.lease_state import Lease
from crisper_worker.messages import UnreadableError, described_error, text_of
from crisper_worker.poison import judged

TRIES = 5  # of a message that no worker can take, where nothing is ever set aside for its deaths


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
            store = keeper.store
            if not store.is_kombus(name) and store.dead_letters.take_unleased(name, why):
                garbage.set_aside.add(f"{name!a} in unacked")
        super().restore_by_tag(tag, client, leftmost)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Run kombu's sweep, for messages without a lease; not while others may be late."""
        keeper = getattr(self.channel, "keeper", None)
        if keeper is None or keeper.is_calm():
            with wrong_types_named(self.channel):
                free_mutex(self.channel)
                super().restore_visible(*args, **kwargs)


@contextlib.contextmanager
def wrong_types_named(channel: Any) -> Iterator[None]:
    """Log which keys have another type than Celery's, where that is why Redis refuses something.

    Raises:
        ResponseError: it has another reason.
    """
    try:
        yield
    except ResponseError as error:
        if "WRONGTYPE" not in str(error):
            raise
        prefix = channel.global_keyprefix
        keys = Keys(prefix + channel.unacked_key, prefix + channel.unacked_index_key)
        garbage.blocked.add(keys.wrong_types(channel._plain_client(), ()))


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
