"""Tasks that can be revoked: waiting in a queue, waiting for a retry, or running.

Celery's own revoke is a broadcast: a worker that starts later has never heard of it, and to end a
running task it marks the pool's process, whose next task would pay for a crash. Here a marker in
the result backend says that a task was revoked, and the process that runs a task looks for it:
before it starts, and every INTERVAL seconds while it runs. The running task then meets what it
would meet at its soft time limit, SoftTimeLimitExceeded.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import celery
from celery.exceptions import Ignore
from celery.signals import task_revoked
from redis import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)
INTERVAL = 1.0  # seconds
KEPT = 7 * 86400  # seconds; no task waits longer than that
REASON = "revoked"


def marker(task_id: str) -> str:
    """The Redis key that says that a task was revoked."""
    return f"revoked-task-{task_id}"


def revoke(app: celery.Celery, task_id: str) -> None:
    """Revoke a task that has not ended; the marker first, so that nobody overlooks it."""
    app.backend.client.set(marker(task_id), 1, ex=KEPT)
    app.backend.mark_as_revoked(task_id, REASON)


class Revocable(celery.Task):
    """Base of all tasks."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run, unless and until the task is revoked."""
        task_id = self.request.id
        if task_id is None:  # called as a plain function
            return self.run(*args, **kwargs)
        redis = self.backend.client
        if is_revoked(redis, task_id):
            self.end_revoked(ran=False)
        try:
            with interrupted_if_revoked(redis, task_id):
                return self.run(*args, **kwargs)
        except Exception:
            if not is_revoked(redis, task_id):
                raise
            # The task's own way of ending, whatever it made of the interruption.
            log.info("%s[%s] was revoked while it ran", self.name, task_id, exc_info=True)
            self.end_revoked(ran=True)

    def end_revoked(self, *, ran: bool) -> None:
        """End as revoked; STARTED or a progress may have been written over it.

        Raises:
            Ignore: always; Celery acknowledges the message and leaves the state alone.
        """
        self.backend.mark_as_revoked(self.request.id, REASON, request=self.request)
        task_revoked.send(
            sender=self, request=self.request, terminated=ran, signum=None, expired=False
        )
        raise Ignore


def is_revoked(redis: Redis, task_id: str) -> bool:
    """Whether a task was revoked; a Redis that is away says no."""
    try:
        return bool(redis.exists(marker(task_id)))
    except RedisError:
        return False


@contextmanager
def interrupted_if_revoked(redis: Redis, task_id: str) -> Iterator[None]:
    """Raise SoftTimeLimitExceeded in the body once the task is revoked.

    Only a process of the prefork pool can be interrupted: there the signal means the soft time
    limit. Elsewhere a running task runs to its end.
    """
    handler = getattr(signal.getsignal(signal.SIGUSR1), "__name__", "") if _can_signal() else ""
    if handler != "soft_timeout_sighandler":
        yield
        return
    task = threading.get_ident()
    over, deciding = threading.Event(), threading.Lock()

    def watch() -> None:
        while not over.wait(INTERVAL):
            if is_revoked(redis, task_id):
                with deciding:  # never after the body: it would hit the next task
                    if not over.is_set():
                        signal.pthread_kill(task, signal.SIGUSR1)
                return

    threading.Thread(target=watch, name=f"revoked? {task_id}", daemon=True).start()
    try:
        yield
    finally:
        with deciding:
            over.set()


def _can_signal() -> bool:
    main = threading.current_thread() is threading.main_thread()
    return main and hasattr(signal, "SIGUSR1")
