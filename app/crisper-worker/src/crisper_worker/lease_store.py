"""The lease in Redis: who holds which message, until when, how often it killed its worker.

What cannot be read is set aside with its first bytes, and stops the recovery of no other message.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import cast

from redis.exceptions import ResponseError

from crisper_worker.dead_letters import (
    DeadLetter,
    DeadLetters,
    stand_in,
    unfit_entry,
    unreadable_entry,
)
from crisper_worker.keys import Keys
from crisper_worker.messages import (
    Delivery,
    UnreadableError,
    bytes_of,
    described_error,
    misshapen,
    text_of,
)
from crisper_worker.oom_bypass import OomBypassRedis
from crisper_worker.scripts import ACK, COUNT, LEAVE, MOVE, RENEW, START, TAKE
from crisper_worker.weight import check_weight

DEATHS_KEPT = 86400  # seconds after the last death of a task's worker
BATCH = 500  # tags of one renewal, messages of one sweep


class LeaseStore:
    """The commands; every method may raise `redis.RedisError`.

    Args:
        redis: a client without kombu's prefixing (the names here carry the prefix themselves), and
            one that goes past Redis's memory limit.
        prefix: kombu's ``global_keyprefix``.
        unacked: kombu's ``unacked_key``.
        index: kombu's ``unacked_index_key``.
        holder: who holds what is taken; no two workers at any time have the same.
    """

    def __init__(
        self, redis: OomBypassRedis, prefix: str, unacked: str, index: str, holder: str
    ) -> None:
        self.redis = redis
        self.holder = holder
        self.keys = Keys(prefix + unacked, prefix + index)
        self.dead_letters = DeadLetters(redis, self.keys)
        self._renew = redis.register_script(RENEW)
        self._start = redis.register_script(START)
        self._move = redis.register_script(MOVE)
        self._leave = redis.register_script(LEAVE)
        self._count = redis.register_script(COUNT)
        self._ack = redis.register_script(ACK)

    def wrong_types(self, error: BaseException, lists: Iterable[str] = ()) -> str:
        """Return which keys have another type than Celery's, if that is the error; else nothing."""
        return self.keys.wrong_types(self.redis, lists) if "WRONGTYPE" in str(error) else ""

    def take_command(self, lists: Iterable[str]) -> list[str]:
        """Return the command that takes the first message in `lists` and registers it."""
        keys = [self.keys.unacked, self.keys.index, self.keys.lease, self.keys.holders, *lists]
        return ["EVAL", TAKE, str(len(keys)), *keys, self.holder]

    def renew(self, tags: list[str]) -> tuple[float, set[str]]:
        """Renew the leases of `tags`.

        Returns:
            The server's time in seconds, and the tags that are not this holder's any more.
        """
        now = 0.0
        lost: set[str] = set()
        for start in range(0, max(len(tags), 1), BATCH):
            answer = self._renew(
                keys=[self.keys.index, self.keys.lease, self.keys.holders],
                args=[self.holder, *map(bytes_of, tags[start : start + BATCH])],
            )
            now = float(answer[0])
            lost.update(text_of(tag) for tag in answer[1:])
        return now, lost

    def ack(self, tag: str) -> None:
        """Forget a message: its task has ended."""
        own = self.keys
        keys = [own.unacked, own.index, own.lease, own.holders, own.started]
        self._ack(keys=keys, args=[bytes_of(tag)])

    def start(self, tag: str) -> None:
        """Note that the task of a message is started: a death from here on counts."""
        self._start(keys=[self.keys.lease, self.keys.started], args=[bytes_of(tag)])

    def deaths(self, task_id: str) -> int:
        """Return how often the worker or process of a task died."""
        try:
            return int(self.redis.get(self.keys.deaths(task_id)) or 0)
        except ValueError:
            return 0  # somebody else has written there
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            return 0

    def count_death(self, task_id: str) -> int:
        """Count one more, and say how many they are."""
        key = self.keys.deaths(task_id)
        return int(self._count(keys=[key], args=[DEATHS_KEPT]))

    def find(self, tag: str) -> Delivery | None:
        """Return the message of a tag, if a worker holds it by a lease.

        Raises:
            UnreadableError: what stands there is no message, or the holder is none.
        """
        with self.redis.pipeline() as pipe:
            pipe.hget(self.keys.unacked, bytes_of(tag))
            pipe.hget(self.keys.holders, bytes_of(tag))
            raw, entry = pipe.execute()
        if entry is None:
            if raw is not None:
                raise UnreadableError("no worker is named as its holder")
            return None
        holder, _, source = text_of(entry).partition("\n")
        if raw is None:
            return Delivery(tag, {}, source, holder)
        check_weight(raw)
        try:
            message = json.loads(raw)[0]
            problem = misshapen(message)
            source.encode()
            (holder + tag).encode()
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise UnreadableError(described_error(error)) from error
        if problem or not source:
            raise UnreadableError(problem or "the list that it came from is not named")
        return Delivery(tag, message, source, holder)

    def is_kombus(self, tag: str) -> bool:
        """Return whether kombu itself can restore the message of a tag, after its timeout."""
        raw = self.redis.hget(self.keys.unacked, bytes_of(tag))
        try:
            check_weight(raw or b"")
            message, exchange, key = json.loads(cast(bytes, raw))
            return not misshapen(message) and isinstance(exchange, str) and isinstance(key, str)
        except (UnreadableError, ValueError, TypeError, RecursionError):
            return False

    def leave(self, tag: str, before: float) -> bool:
        """End the lease of a message, if not renewed since `before`; kombu restores it."""
        keys = [self.keys.unacked, self.keys.index, self.keys.lease, self.keys.holders]
        return bool(self._leave(keys=keys, args=[bytes_of(tag), repr(before)]))

    def shelve(self, tag: str, why: str, before: float | None = None) -> bool:
        """Set an own message aside that cannot be read, or one not renewed since `before`."""
        with self.redis.pipeline() as pipe:
            pipe.hget(self.keys.unacked, bytes_of(tag))
            pipe.hget(self.keys.holders, bytes_of(tag))
            raw, entry = pipe.execute()
        source = (entry or b"").partition(b"\n")[2].decode("utf-8", "backslashreplace")
        delivery = Delivery(tag, stand_in(raw or b""), source, "")
        shelved = unreadable_entry(tag, raw or b"", source, why)
        return self.set_aside(delivery, shelved, before)

    def shelve_unfit(self, tag: str, why: str) -> bool:
        """Set an own message aside that no worker takes; it can be requeued if it is readable."""
        try:
            delivery = self.find(tag)
            if delivery is None:
                return False
            return self.set_aside(delivery, unfit_entry(delivery, why))
        except (UnreadableError, RecursionError):
            return self.shelve(tag, why)

    def was_started(self, tag: str) -> bool:
        """Return whether the task of a message was started."""
        # redis-py takes bytes there, its annotation text alone.
        return bool(self.redis.sismember(self.keys.started, bytes_of(tag)))  # type: ignore[arg-type]

    def expired(self, before: float, start: int = 0) -> list[str]:
        """Return tags that were not renewed since the time `before`, without the first `start`."""
        tags = self.redis.zrangebyscore(self.keys.lease, "-inf", before, start=start, num=BATCH)
        return [text_of(tag) for tag in cast("list[bytes]", tags)]

    def give_back(self, tag: str, *, last: bool = False) -> bool:
        """Put an own message back into its list, as the next one or as the `last`."""
        delivery = self.find(tag)
        if delivery is None:
            return False
        side = "LPUSH" if last else "RPUSH"
        return self._moved(delivery, f"={self.holder}", side, delivery.again())

    def reclaim(self, delivery: Delivery, before: float) -> bool:
        """Put somebody's message back, if not renewed since `before`; counts a death."""
        return self._moved(delivery, f"<{before!r}", "RPUSH", delivery.again(), counts=True)

    def set_aside(self, delivery: Delivery, entry: DeadLetter, before: float | None = None) -> bool:
        """Set an own message aside, or somebody's that was not renewed since `before`."""
        whose = f"={self.holder}" if before is None else f"<{before!r}"
        return self._moved(delivery, whose, "HSET", entry.dump(), name=entry.task_id)

    def _moved(
        self,
        delivery: Delivery,
        whose: str,
        command: str,
        value: str,
        *,
        counts: bool = False,
        name: str = "",
    ) -> bool:
        name = name or delivery.task_id
        own = self.keys
        keys = [own.unacked, own.index, own.lease, own.holders, own.started]
        keys += [delivery.source, own.deaths(name), own.aside]
        counted = "1" if counts else "0"
        args: list[str | int | bytes] = [
            bytes_of(delivery.tag),
            whose,
            command,
            value,
            name,
            counted,
            DEATHS_KEPT,
        ]
        moved = int(self._move(keys=keys, args=args))
        if moved < 0:
            target = "unacked_aside" if command == "HSET" else delivery.source
            raise UnreadableError(f"{target!a} in Redis holds something else")
        return bool(moved)
