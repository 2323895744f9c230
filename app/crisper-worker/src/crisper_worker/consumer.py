"""A consumer that does not take a lost connection for lost tasks, and whether it consumes.

Of Celery 5.7.0 this relies on, read it at each upgrade:

- ``Consumer.on_connection_error_after_connected`` collects and closes the lost connection,
  ``on_close`` then forgets every request that no process of the pool has accepted (and drops it
  from the pool): ``state.active_requests`` is what still runs. ``Channel.do_restore``: False lets
  a closing channel keep its messages.
- ``Consumer.call_soon_ack`` puts an acknowledgement off to the event loop's next round.
- ``Consumer.on_unknown_message``, ``on_invalid_task`` and ``on_decode_error`` drop a message.
- ``Consumer.update_strategies`` reads each task's ``Request`` class.
- ``WorkController._process_task`` hands a request to the pool, behind ``_quick_acquire``; it gives
  the place back (``_quick_release``) for a revoked task alone.
- ``state.should_stop`` and the ``worker_shutting_down`` signal are all that SIGTERM does.
- ``amqp.queues.consume_from`` is what a worker should consume (the remote control's
  ``cancel_consumer`` takes a queue out of it), ``task_consumer._active_tags`` what it asked for,
  a virtual channel's ``_consumers`` what is asked for in truth.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from celery import Celery, signals
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.transport import virtual
from kombu.utils.imports import symbol_by_name

from crisper_worker import garbage
from crisper_worker.garbage import DATA_ERRORS
from crisper_worker.lease import Lease
from crisper_worker.lease_keeper import LeaseKeeper
from crisper_worker.messages import described_error
from crisper_worker.qos import decline
from crisper_worker.recovery import take_over
from crisper_worker.requests import counted

SILENCE = 10.0  # seconds without asking for a message; it asks four times a second
STUCK = 70  # exit code of a worker that ended itself because it no longer consumed


class LeaseConsumer(Consumer):
    """A consumer that does not take a lost connection for lost tasks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lost = False
        super().__init__(*args, **kwargs)
        if self.controller is not None:
            process = self.controller._process_task
            self.controller._process_task = functools.partial(run, self.controller, process)
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


def run(controller: Any, process: Callable[[Any], Any], request: Any) -> None:
    """Hand a request to the pool; give its place there back, and its message, if that fails.

    Celery keeps the place: a worker that has lost all of them waits for ever, and says nothing.
    """
    try:
        process(request)
    except Exception as error:
        state.task_ready(request)
        message = request.message
        try:
            declined = isinstance(error, DATA_ERRORS) and decline(
                message.channel.qos, message.delivery_tag, error
            )
        finally:
            if release := getattr(controller, "_quick_release", None):
                release()  # pools without an event loop have no places
        if not declined:
            raise


def shelve_unfit(message: Any, why: str) -> bool:
    """Set a message aside of which Celery makes no task; return whether it is under a lease."""
    qos, tag = message.channel.qos, message.delivery_tag
    if tag not in getattr(qos, "leased", ()):
        return False
    if qos.channel.keeper.opened_store().shelve_unfit(tag, why):
        garbage.set_aside.add(why)
    message.ack()
    return True


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
