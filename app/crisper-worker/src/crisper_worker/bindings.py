"""Kombu's tables of bindings in Redis, freed of what others have written there.

Every answer to the remote control is routed by such a table, and every start of a worker writes
into some. A member of another form breaks each look into the table, a key of another type ends
each worker that starts. What is removed here could be of no use to kombu: it writes its own anew.

Of kombu 5.3 to 5.7 this relies on, read it at each upgrade:

- a member is routing key, pattern and queue, joined by ``Channel.sep``; the pattern is empty or
  what ``TopicExchange.key_to_pattern`` makes of the routing key (any other could be no pattern, or
  take for ever).
- ``get_table``, ``_queue_bind`` and ``_delete`` are all that reads and writes the tables, since 5.7
  with ``_refresh_bindings`` and ``sweep_bindings``; ``keyprefix_queue``, ``state.exchanges``, and
  since 5.7 ``keyprefix_binding_permanent`` and ``keyprefix_binding_deadlines``.
- ``restore_visible`` runs under the lock ``unacked_mutex``, which lives ``unacked_mutex_expire``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from kombu.transport.virtual.exchange import TopicExchange
from redis import Redis
from redis.exceptions import ResponseError

from crisper_worker import garbage
from crisper_worker.messages import text_of

# What the mixin is mixed into; at run time the class beside it brings it.
if TYPE_CHECKING:
    from kombu.transport.redis import Channel as ChannelBase
else:
    ChannelBase = object


def is_binding(member: bytes, separator: str) -> bool:
    """Return whether a member of a table is one that kombu writes."""
    try:
        parts = member.decode().split(separator)
        if len(parts) != 3:
            return False
        key, pattern, _ = parts
        return not pattern or pattern == TopicExchange(None).key_to_pattern(key)
    except UnicodeDecodeError:
        return False


class BindingsMixin(ChannelBase):
    """Part of a channel: its tables of bindings outlive garbage."""

    def get_table(self, exchange: str) -> list[tuple[str, ...]]:
        """Return the bindings of an exchange; remove what is none."""
        rows: list[tuple[str, ...]] = self._repaired(lambda: self._read_table(exchange), exchange)
        return rows

    def _queue_bind(self, exchange: str, *args: Any) -> None:
        self._repaired(lambda: super(BindingsMixin, self)._queue_bind(exchange, *args), exchange)

    def _refresh_bindings(self, queues: Any) -> None:
        self._repaired(lambda: super(BindingsMixin, self)._refresh_bindings(queues))

    def sweep_bindings(self, *args: Any, **kwargs: Any) -> Any:
        """Delete tables that nobody uses any more."""
        return self._repaired(lambda: super(BindingsMixin, self).sweep_bindings(*args, **kwargs))

    def _delete(self, queue: str, exchange: str, *args: Any, **kwargs: Any) -> None:
        parent = super()._delete
        self._repaired(lambda: parent(queue, exchange, *args, **kwargs), exchange)

    def _plain_client(self) -> Redis:
        """Return a client that adds no prefix."""
        return Redis(connection_pool=self.pool)

    def _read_table(self, exchange: str) -> list[tuple[str, ...]]:
        key = self.global_keyprefix + self.keyprefix_queue % (exchange,)
        client = self._plain_client()
        members = cast("set[bytes]", client.smembers(key))
        if bad := [member for member in members if not is_binding(member, self.sep)]:
            client.srem(key, *bad)
            garbage.dropped.add(f"{len(bad)} members of {key!a}, {bad[0][:100]!a}")
        return [tuple(each.decode().split(self.sep)) for each in members.difference(bad)]

    def _repaired(self, act: Callable[[], Any], *exchanges: str) -> Any:
        """Do something with tables; remove keys of another type, if these hinder it, and repeat.

        Raises:
            ResponseError: Redis refuses it for another reason.
        """
        try:
            return act()
        except ResponseError as error:
            if "WRONGTYPE" not in str(error) or not self._drop_wrong_types(exchanges):
                raise
        return act()

    def _drop_wrong_types(self, exchanges: Iterable[str]) -> bool:
        # The last two since kombu 5.7.
        deadlines = getattr(self, "keyprefix_binding_deadlines", "")
        permanent = getattr(self, "keyprefix_binding_permanent", "")
        kinds = {deadlines: "zset"} if deadlines else {}
        for exchange in {*exchanges, *self.state.exchanges}:
            for pattern in filter(None, (self.keyprefix_queue, permanent)):
                kinds[pattern % (exchange,)] = "set"
        client, wrong = self._plain_client(), False
        for name, kind in kinds.items():
            key = self.global_keyprefix + name
            found = text_of(cast(bytes, client.type(key)))
            if found not in (kind, "none"):
                client.delete(key)
                garbage.dropped.add(f"the key {key!a} was a {found} instead of a {kind}")
                wrong = True
        return wrong


def free_mutex(channel: Any) -> None:
    """Remove the lock of kombu's sweep if it would never end: no lock of kombu's is so long."""
    client = channel._plain_client()
    key = channel.global_keyprefix + channel.unacked_mutex_key
    milliseconds = client.pttl(key)
    if milliseconds == -1 or milliseconds > channel.unacked_mutex_expire * 1000:
        client.delete(key)
        garbage.dropped.add(f"the lock {key!a} had no end")
