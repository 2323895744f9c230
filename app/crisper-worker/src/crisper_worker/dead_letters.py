"""Dead letters: messages that were set aside, because they kill a worker or cannot be read.

Each is a field of the hash ``unacked_aside``. What cannot be read is there with its first bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import time
from dataclasses import dataclass, field
from typing import Any, cast

from crisper_worker.keys import Keys
from crisper_worker.messages import Delivery, UnreadableError, bytes_of, described_error, text_of
from crisper_worker.oom_bypass import OomBypassRedis
from crisper_worker.scripts import REQUEUE
from crisper_worker.weight import check_weight

KEPT = 65536  # bytes of a message that cannot be read
UNREADABLE = "unreadable"  # the only key of what stands for such a message


def stand_in(raw: bytes) -> dict[str, Any]:
    """Return what stands for a message that cannot be read: its first 64 KiB, in base64."""
    return {UNREADABLE: base64.b64encode(raw[:KEPT]).decode()}


def entry_name(tag: str, raw: bytes) -> str:
    """Return the id of what has none that can be trusted: whoever made it chose tag and task id."""
    return f"unreadable-{hashlib.sha256(bytes_of(tag) + b':' + raw).hexdigest()[:16]}"


@dataclass(frozen=True)
class DeadLetter:
    """A message that was set aside because its task kills whoever runs it."""

    task_id: str
    task: str
    reason: str
    deliveries: int
    at: float  # seconds since the epoch
    source: str
    message: dict[str, Any] = field(repr=False)

    def dump(self) -> str:
        """Return it as it stands in Redis."""
        return json.dumps(self.__dict__)

    @property
    def readable(self) -> bool:
        """Return whether its message could go back into a queue."""
        return self.message.keys() != {UNREADABLE} and bool(self.source)

    @classmethod
    def load(cls, field_name: str, raw: bytes) -> DeadLetter:
        """Return what stands in Redis; what is no entry stands for itself, and can be dropped."""
        try:
            check_weight(raw)
            entry = cls(**json.loads(raw))
            good = (
                entry.task_id == field_name
                and all(isinstance(t, str) for t in (entry.task, entry.reason, entry.source))
                and isinstance(entry.deliveries, int)
                and isinstance(entry.at, (int, float))
                and math.isfinite(entry.at)
                and 0 <= entry.at < 1e11  # a year of four digits
                and isinstance(entry.message, dict)
            )
            why = "" if good else "its fields are not those of an entry"
        except (UnreadableError, ValueError, TypeError, OverflowError, RecursionError) as error:
            why = described_error(error)
        if not why:
            return entry
        return cls(
            task_id=field_name,
            task="unknown",
            reason=f"cannot be read ({why}); it can be dropped",
            deliveries=0,
            at=0.0,
            source="",
            message=stand_in(raw),
        )


def unreadable_entry(tag: str, raw: bytes, source: str, why: str) -> DeadLetter:
    """Return what is set aside in the place of a message that cannot be read."""
    cut = f"; the first {KEPT} of its {len(raw)} bytes are kept" if len(raw) > KEPT else ""
    return DeadLetter(
        task_id=entry_name(tag, raw),
        task="unknown",
        reason=f"cannot be read ({why}){cut}",
        deliveries=0,
        at=time.time(),
        source=source,
        message=stand_in(raw),
    )


def unfit_entry(delivery: Delivery, why: str) -> DeadLetter:
    """Return what is set aside in the place of a message that no worker takes."""
    return DeadLetter(
        task_id=entry_name(delivery.tag, json.dumps(delivery.message).encode()),
        task=delivery.task,
        reason=f"cannot be run ({why}); it calls itself {delivery.task_id}",
        deliveries=0,
        at=time.time(),
        source=delivery.source,
        message=delivery.message,
    )


class DeadLetters:
    """The messages that were set aside; every method may raise `redis.RedisError`.

    Args:
        redis: the client of a LeaseStore.
        keys: its keys.
    """

    def __init__(self, redis: OomBypassRedis, keys: Keys) -> None:
        self.redis = redis
        self.keys = keys
        self._requeue = redis.register_script(REQUEUE)

    def entries(self) -> dict[str, DeadLetter]:
        """Return the tasks that were set aside, by task id, the oldest first."""
        found = cast("dict[bytes, bytes]", self.redis.hgetall(self.keys.aside))
        entries = [DeadLetter.load(text_of(name), raw) for name, raw in found.items()]
        return {entry.task_id: entry for entry in sorted(entries, key=lambda entry: entry.at)}

    def take_unleased(self, tag: str, why: str) -> bool:
        """Set aside what kombu itself cannot restore; return whether it was there."""
        raw = cast("bytes | None", self.redis.hget(self.keys.unacked, bytes_of(tag)))
        if raw is None:
            return False
        entry = unreadable_entry(tag, raw, "", why)
        with self.redis.pipeline() as pipe:
            pipe.hset(self.keys.aside, entry.task_id, entry.dump())
            pipe.hdel(self.keys.unacked, bytes_of(tag))
            pipe.zrem(self.keys.index, bytes_of(tag))
            pipe.execute()
        return True

    def requeue(self, entry: DeadLetter) -> bool:
        """Put a message that was set aside at the end of its queue, its deaths forgotten."""
        keys = [self.keys.aside, entry.source, self.keys.deaths(entry.task_id)]
        return bool(self._requeue(keys=keys, args=[entry.task_id, json.dumps(entry.message)]))

    def drop(self, entry: DeadLetter) -> bool:
        """Forget a message that was set aside."""
        self.redis.delete(bytes_of(self.keys.deaths(entry.task_id)))
        return bool(self.redis.hdel(self.keys.aside, bytes_of(entry.task_id)))
