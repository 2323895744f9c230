"""Read broadcasts: remote control, gossip, events. Garbage among them ends no worker.

Of kombu 5.3 to 5.7 this relies on ``Channel._receive_one``, which reads a broadcast
(``_handle_message``, ``_in_listen``) and delivers it (since 5.7 by ``_deliver_fanout_message``).
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from queue import Empty
from typing import TYPE_CHECKING, Any

from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from crisper_worker import garbage
from crisper_worker.garbage import DATA_ERRORS, check_control
from crisper_worker.messages import described_error

# What the mixin is mixed into; at run time the class beside it brings it.
if TYPE_CHECKING:
    from kombu.transport.redis import Channel as ChannelBase
else:
    ChannelBase = object


class BroadcastMixin(ChannelBase):
    """Part of a channel: garbage among the broadcasts is dropped."""

    _in_listen: Any  # kombu sets it to None first

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
        if not isinstance(response, (list, tuple)):
            return None
        payload = self._handle_message(c, response)
        # Before 5.7 it is None for the end of the last subscription.
        if payload is None or not bytes_to_str(payload["type"]).endswith("message"):
            return None
        if not payload["data"]:
            return None
        channel = bytes_to_str(payload["channel"])
        if channel.startswith("/"):
            channel = channel.partition(".")[2]
        with garbage_dropped(f"the broadcast {channel}"):
            message = loads(bytes_to_str(payload["data"]))
            return self._deliver_fanout_message(message, channel.split("/", 1)[0])

    def _deliver_fanout_message(self, message: Any, exchange: str) -> Any:
        deliver = getattr(super(), "_deliver_fanout_message", None)  # since 5.7
        if deliver is not None:
            return deliver(message, exchange)
        self.connection._deliver(message, self._fanout_to_queue[exchange])
        return True


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
