"""Requests that count the deaths of their processes, and refuse what no process can run.

Of Celery 5.3 to 5.7 this relies on, read it at each upgrade:

- ``Request.on_failure`` gets the `WorkerLostError` of a lost process (or the `SystemExit` it left
  by); an `InvalidTaskError` of the constructor leads to ``Consumer.on_invalid_task``. Behind it a
  request takes a place in the pool, which an exception does not give back.
- a ``Reject`` with ``requeue=False`` and the reason is what `Task.retry` makes of a retry that it
  could not queue.
- ``Request.message.delivery_tag``.
- ``_already_cancelled``, ``_already_revoked``, ``state.should_terminate``; since 5.7
  ``_success_was_stored`` and ``Task.retry_on_worker_lost``.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING, Any

import kombu.exceptions
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from celery.exceptions import InvalidTaskError, Reject, WorkerLostError
from celery.worker import state
from redis.exceptions import RedisError, ResponseError

from crisper_worker.garbage import DATA_ERRORS
from crisper_worker.lease import own_store
from crisper_worker.lease_state import Lease
from crisper_worker.messages import UnreadableError, described_error
from crisper_worker.oom_bypass import is_refusal
from crisper_worker.poison import failure, judged
from crisper_worker.text import shorten

if TYPE_CHECKING:
    from celery.worker.request import Request as RequestBase
else:
    RequestBase = object

log = logging.getLogger(__name__)
# Lists and mappings within each other in a task's headers and arguments. A few hundred more, and
# reading them works and handing them to a process does not.
MOST_DEPTH = 500
MANY = ("callbacks", "errbacks", "chain")  # lists of tasks that follow one


def nesting(value: Any, most: int) -> int:
    """Return how deep lists and mappings lie within each other; it looks no deeper than `most`."""
    level, depth = [value], 0
    while level and depth < most:
        inner = [
            item
            for one in level
            if isinstance(one, (dict, list, tuple))
            for item in (one.values() if isinstance(one, dict) else one)
        ]
        depth += any(isinstance(one, (dict, list, tuple)) for one in level)
        level = inner
    return depth


def is_limit(value: Any) -> bool:
    """Return whether a value is a time limit in seconds, or none."""
    return value is None or (isinstance(value, (int, float)) and 0 <= value < 1e9)


def misfit_headers(headers: dict[str, Any], limits: Any) -> list[str]:
    """Return which headers of a task are not as Celery writes them.

    Celery looks at each of these in the worker's own process, where an error costs a place of the
    pool, or leaves a process running that is past its time.
    """
    stamped = headers.get("stamped_headers") or []
    fine = {
        "id": isinstance(headers["id"], str),
        "timelimit": isinstance(limits, (list, tuple))
        and len(limits) == 2
        and all(map(is_limit, limits)),
        "retries": isinstance(headers.get("retries") or 0, int),
        "stamped_headers": isinstance(stamped, (list, tuple))
        and all(isinstance(name, str) for name in stamped),
        "stamps": isinstance(headers.get("stamps") or {}, dict),
    }
    return [name for name, good in fine.items() if not good]


def misfit_embed(embed: Any) -> list[str]:
    """Return what behind a task's arguments is not as Celery writes it."""
    if not isinstance(embed or {}, dict):
        return ["what stands behind its arguments"]
    several = [embed.get(name) or [] for name in MANY] if embed else []
    fine = {
        name: isinstance(value, (list, tuple)) and all(isinstance(one, dict) for one in value)
        for name, value in zip(MANY, several)
    }
    fine["chord"] = isinstance((embed or {}).get("chord") or {}, dict)
    return [name for name, good in fine.items() if not good]


class Counted(RequestBase):
    """Part of a request class: a task that kills its processes is set aside."""

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(message, *args, **kwargs)
            embed = self._payload[2]
            misfits = misfit_headers(self._request_dict, self.time_limits) + misfit_embed(embed)
        except DATA_ERRORS as error:
            raise InvalidTaskError(described_error(error)) from error
        if misfits:
            raise InvalidTaskError(f"of another type than Celery's: {', '.join(misfits)}")
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
            isinstance(error, (WorkerLostError, SystemExit, KeyboardInterrupt))
            and self.task.acks_late
            and self.task.reject_on_worker_lost
            and not (self._already_cancelled or self._already_revoked or state.should_terminate)
            and not getattr(self, "_success_was_stored", bool)()
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
            getattr(task, "retry_on_worker_lost", False)
            and task.max_retries is not None
            and retries >= task.max_retries
        )


@functools.lru_cache(maxsize=None)
def counted(request: type) -> type:
    """Return the request class that also counts deaths."""
    if issubclass(request, Counted):
        return request
    return type(request.__name__, (Counted, request), {})


def is_away(reason: Any) -> bool:
    """Return whether a task was rejected because the broker does not take its retry."""
    if not isinstance(reason, (kombu.exceptions.OperationalError, ConnectionError, RedisError)):
        return False
    return not isinstance(reason, ResponseError) or is_refusal(reason)


def raised(error: Exception) -> ExceptionInfo:
    """Return an error as the pool hands it over."""
    try:
        raise error
    except Exception:
        return ExceptionInfo()
