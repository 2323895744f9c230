"""The threads that keep a worker's leases, and take over those that nobody keeps any more.

Threads and not timers of the worker, because its event loop stands still while it drains; two,
because what is taken over may wait for a result backend, and a renewal must not. They know Redis
and the set of tags that the worker holds; nothing of Celery or kombu.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable

from redis.exceptions import RedisError

from crisper_worker.fork_guard import guard
from crisper_worker.lease_recovery import Calm, Recovery, is_outage
from crisper_worker.lease_store import LeaseStore
from crisper_worker.messages import Delivery, UnreadableError
from crisper_worker.text import WRITER, shorten

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Renews what is held, ends what is done, and has what expired taken over.

    Args:
        seconds: a lease lives that long without a renewal.
        take_over: what to do with a message whose lease was not renewed since a time.
    """

    def __init__(
        self, seconds: float, take_over: Callable[[LeaseStore, Delivery, float], None]
    ) -> None:
        self.seconds = seconds
        self.interval = min(2.0, seconds / 10)
        self.store: LeaseStore | None = None
        self.calm = Calm(seconds, self.interval)
        self.recovery = Recovery(self.calm, take_over)
        self._tags: set[str] = set()
        self._suspects: set[str] = set()  # not ours at the last renewal
        self._unsaid: dict[str, Callable[[LeaseStore, str], object]] = {}
        # Guards the sets; never held during a command, which may wait for a socket.
        self._lock = threading.Lock()
        self._unsayable: set[str] = set()  # tags that could not be given up, and were logged

    def start(self, store: LeaseStore) -> None:
        """Begin; the first call counts."""
        if self.store is None:
            self.store = store
            rounds = {self.tick: self.interval, self.sweep: min(5.0, self.seconds / 6)}
            for round_, interval in rounds.items():
                arguments = (round_, interval)
                threading.Thread(target=self._repeat, args=arguments, daemon=True).start()

    def opened_store(self) -> LeaseStore:
        """Return the store; raise RuntimeError if the keeper was not started."""
        if self.store is None:
            raise RuntimeError("the keeper was not started")
        return self.store

    def hold(self, tag: str) -> None:
        """Renew the lease of `tag` from now on."""
        with self._lock:
            self._tags.add(tag)

    def holds(self, tag: str) -> bool:
        """Ask Redis whether it has `tag` as ours."""
        return tag not in self.opened_store().renew([tag])[1]

    def ack(self, tag: str) -> None:
        """Acknowledge `tag`, whose task has ended, as soon as Redis answers."""
        self._say(tag, LeaseStore.ack)

    def give_back(self, tags: Iterable[str], *, last: bool = False) -> None:
        """Give the tasks of `tags` back, for others to run, as soon as Redis answers."""
        for tag in tags:
            self._say(tag, lambda store, tag: store.give_back(tag, last=last))

    def leased_tags(self) -> set[str]:
        """Return the tags whose leases are renewed, without those that only wait to be given up."""
        with self._lock:
            return self._tags - self._unsaid.keys()

    def _say(self, tag: str, what: Callable[[LeaseStore, str], object]) -> None:
        # Held and renewed until it is said: while Redis is away, nobody may start the task again.
        with self._lock:
            self._unsaid[tag] = what
        try:
            self._say_one(tag, what)
        except (RedisError, OSError) as error:
            log.warning("message %a is given up as soon as Redis answers: %s", tag, error)
        except UnreadableError as error:
            log.error("message %a is kept, it cannot be given back: %s", tag, error)

    def _say_one(self, tag: str, what: Callable[[LeaseStore, str], object]) -> None:
        store = self.opened_store()
        try:
            what(store, tag)
        except UnreadableError as error:
            if store.shelve(tag, str(error)):
                log.error("message %a cannot be given back, and was set aside: %s", tag, error)
        with self._lock:
            self._tags.discard(tag)
            if self._unsaid.get(tag) is what:
                del self._unsaid[tag]

    def _repeat(self, round_: Callable[[], None], interval: float) -> None:
        pause, talking = threading.Event(), guard()
        while not pause.wait(interval):
            try:
                with talking:
                    round_()
            except (RedisError, OSError) as error:
                if self.calm.end():
                    log.warning("leases: %s", self._described(error))
            except Exception:
                # The thread must outlive whatever one message does to it.
                log.exception("leases: unexpected error")

    def _described(self, error: Exception) -> str:
        try:
            if wrong := self.opened_store().wrong_types(error):
                return f"none is renewed, {wrong}. {WRITER}: remove that key"
        except (RedisError, OSError) as another:
            error = another
        return f"Redis does not answer: {error}"

    def tick(self) -> None:
        """Run one round: renew, and say what is unsaid.

        Raises:
            RedisError: Redis is away; the next round tries again.
        """
        store = self.opened_store()
        with self._lock:
            tags, unsaid = list(self._tags), list(self._unsaid.items())
        now, lost = store.renew(tags)
        self._drop_lost(lost)
        if stood := self.calm.note(now):
            log.warning(
                "leases: this worker or Redis stood still for %.0f s; for %g s nothing is taken"
                " over",
                stood,
                self.seconds,
            )
        troubled = set()
        for tag, what in unsaid:
            try:
                self._say_one(tag, what)
            except Exception as error:
                if is_outage(error):
                    raise
                troubled.add(tag)
                if tag not in self._unsayable:
                    log.exception("leases: message %a cannot be given up", tag)
        self._unsayable = troubled

    def sweep(self) -> None:
        """Run one round: take over what expired.

        Raises:
            RedisError: Redis is away; the next round tries again.
        """
        self.recovery.sweep(self.opened_store())

    def _drop_lost(self, lost: set[str]) -> None:
        with self._lock:
            # Once may be an acknowledgement on its way; twice is a lease that another one has.
            expired = lost & self._suspects & self._tags
            self._suspects = (lost & self._tags) - expired
            self._tags -= expired
        for tag in expired:
            log.error(
                "the lease of message %s expired while this worker ran its task: the host stood"
                " still or Redis was out of reach for %g s; it runs a second time",
                shorten(tag),
                self.seconds,
            )

    def is_calm(self) -> bool:
        """Return whether Redis has answered for so long that every living holder has renewed."""
        return self.calm.lasts()
