"""Recovery of messages whose leases nobody renews any more.

It knows Redis and nothing of Celery or kombu.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from redis.exceptions import RedisError, ResponseError

from crisper_worker.lease_store import BATCH, LeaseStore
from crisper_worker.messages import Delivery, UnreadableError
from crisper_worker.oom_bypass import is_refusal
from crisper_worker.text import WRITER

log = logging.getLogger(__name__)


class Calm:
    """The time for which Redis has answered without an outage or a standstill.

    Args:
        seconds: a lease lives that long without a renewal.
        interval: seconds between two renewals.
    """

    def __init__(self, seconds: float, interval: float) -> None:
        self.seconds = seconds
        self.interval = interval
        self.since: float | None = None
        self.server_time = 0.0

    def note(self, server_time: float) -> float:
        """Watch for an outage or a standstill: other holders need time to renew theirs first.

        Returns:
            For how many seconds this worker or Redis stood still, if that ended the calm; or 0.
        """
        stood = server_time - self.server_time
        jumped = stood > self.interval + self.seconds / 2
        ended = self.since is not None and jumped
        if self.since is None or jumped:
            self.since = time.monotonic()
        self.server_time = server_time
        return stood if ended else 0.0

    def end(self) -> bool:
        """End it, as Redis does not answer, and return whether there was any."""
        calm, self.since = self.since is not None, None
        return calm

    def lasts(self) -> bool:
        """Return whether Redis has answered for so long that every living holder has renewed."""
        return self.since is not None and time.monotonic() - self.since >= self.seconds


class Recovery:
    """Takes over what expired.

    Args:
        calm: how long Redis has answered.
        take_over: what to do with a message whose lease was not renewed since a time.
    """

    def __init__(
        self, calm: Calm, take_over: Callable[[LeaseStore, Delivery, float], None]
    ) -> None:
        self.calm = calm
        self.take_over = take_over
        self._troubled: set[str] = set()  # tags that failed in the last sweep, and were logged

    def sweep(self, store: LeaseStore) -> None:
        """Run one round: take over what expired.

        Raises:
            RedisError: Redis is away; the next round tries again.
        """
        # By the time of the last renewal: the network may stand still right here, and then the
        # others' renewals are as late as the answer.
        before = self.calm.server_time - self.calm.seconds
        if not self.calm.lasts():
            return
        troubled: set[str] = set()
        # Those that fail keep their leases, and stand before the others.
        while tags := store.expired(before, len(troubled)):
            failed = {tag for tag in tags if not self._recover(store, tag, before)}
            troubled |= failed
            if len(tags) < BATCH:
                break
        self._troubled = troubled

    def _recover(self, store: LeaseStore, tag: str, before: float) -> bool:
        """Take one message over; return whether that worked. Another one's failure is none of it.

        Raises:
            RedisError: Redis is away.
        """
        try:
            try:
                # Without a holder it is the rest of a message that kombu itself restored.
                delivery = store.find(tag) or Delivery(tag, {}, "", "")
                self.take_over(store, delivery, before)
            except UnreadableError as error:
                self._set_aside(store, tag, before, error)
        except Exception as error:
            if is_outage(error):
                raise
            if tag not in self._troubled:
                log.exception("leases: message %a cannot be taken over", tag)
            return False
        return True

    def _set_aside(
        self, store: LeaseStore, tag: str, before: float, error: UnreadableError
    ) -> None:
        if store.is_kombus(tag):
            if store.leave(tag, before):
                log.error(
                    "message %a has lost its lease, and goes back after kombu's visibility"
                    " timeout: %s",
                    tag,
                    error,
                )
        elif store.shelve(tag, str(error), before):
            log.error(
                "message %a cannot be read and was set aside (playbooks/status.yml lists"
                " it): %s. %s",
                tag,
                error,
                WRITER,
            )


def is_outage(error: Exception) -> bool:
    """Return whether Redis is away or takes nothing: no other message would fare better."""
    if isinstance(error, ResponseError):
        return is_refusal(error)
    return isinstance(error, (RedisError, OSError))
