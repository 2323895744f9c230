"""A consumer that does not take a lost connection for lost tasks.

Of Celery 5.3 to 5.7 this relies on, read it at each upgrade:

- ``Consumer.on_connection_error_after_connected`` collects and closes the lost connection,
  ``on_close`` then forgets every request that no process of the pool has accepted (and drops it
  from the pool): ``state.active_requests`` is what still runs. ``Channel.do_restore``: False lets
  a closing channel keep its messages.
- ``AsynPool._cache`` has the jobs of a prefork pool, those with ``_accepted`` are running. Before
  5.6 ``flush``, which ``on_close`` calls, empties it.
- ``Consumer.call_soon_ack`` puts an acknowledgement off to the event loop's next round; before 5.7
  ``call_soon`` does, with ``Message.ack_log_error`` and ``reject_log_error``.
- ``Consumer.on_unknown_message``, ``on_invalid_task`` and ``on_decode_error`` drop a message.
- ``Consumer.update_strategies`` reads each task's ``Request`` class.
- ``WorkController._process_task`` hands a request to the pool, behind ``_quick_acquire``; it gives
  the place back (``_quick_release``) for a revoked task alone.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.utils.imports import symbol_by_name

from crisper_worker import garbage
from crisper_worker.garbage import DATA_ERRORS
from crisper_worker.lease_keeper import LeaseKeeper
from crisper_worker.lease_state import Lease
from crisper_worker.messages import described_error
from crisper_worker.qos import decline
from crisper_worker.recovery import take_over
from crisper_worker.requests import counted

ACKNOWLEDGEMENTS = ("ack_log_error", "reject_log_error")


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

    def call_soon(self, p: Any, *args: Any, **kwargs: Any) -> Any:
        """Acknowledge at once, put off all else."""
        if getattr(p, "__name__", "") in ACKNOWLEDGEMENTS:
            return self.call_soon_ack(p, *args, **kwargs)
        return super().call_soon(p, *args, **kwargs)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Take the loss of the connection; the pool goes on."""
        self._lost = True
        for channel in list(self.connection.transport.channels):
            channel.do_restore = False
        super().on_connection_error_after_connected(exc)

    def on_close(self) -> None:
        """Give back what the worker forgets, keep what a process of the pool runs."""
        with running_jobs_kept(self.pool):
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


@contextlib.contextmanager
def running_jobs_kept(pool: Any) -> Iterator[None]:
    """Keep the jobs that processes of a pool run: Celery before 5.6 forgets them with the others.

    Their results would be dropped, and their tasks never be acknowledged.
    """
    cache: dict[Any, Any] = getattr(getattr(pool, "_pool", None), "_cache", {})
    known = dict(cache)
    yield
    for number, job in known.items():
        if getattr(job, "_accepted", False) and not job.ready():
            cache.setdefault(number, job)


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
