"""Look whether a worker consumes what it should, and end it if it does not.

Of Celery and kombu 5.3 to 5.7 this relies on, read it at each upgrade:

- ``state.should_stop`` and the ``worker_shutting_down`` signal are all that SIGTERM does.
- ``amqp.queues.consume_from`` is what a worker should consume (the remote control's
  ``cancel_consumer`` takes a queue out of it), ``task_consumer._active_tags`` what it asked for,
  a virtual channel's ``_consumers`` what is asked for in truth.
"""

from __future__ import annotations

import time
from typing import Any

from celery import Celery, signals
from celery.worker import state
from kombu.transport import virtual

from crisper_worker.lease_state import Lease

SILENCE = 10.0  # seconds without asking for a message; it asks four times a second
STUCK = 70  # exit code of a worker that ended itself because it no longer consumed


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
