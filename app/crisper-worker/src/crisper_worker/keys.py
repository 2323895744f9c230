"""Keys of the leases in Redis.

Beside kombu's ``unacked`` (tag -> message) and ``unacked_index`` (tag -> time of delivery) stand

=====================  ====  ==========================================================
``unacked_lease``      zset  tag -> time of the last renewal, by the clock of the server
``unacked_holder``     hash  tag -> holder, newline, the list that the message came from
``unacked_started``    set   tags whose task was started
``unacked_deaths:ID``  int   how often the worker or process of task ID died running it
``unacked_aside``      hash  task id -> what was set aside, as JSON
=====================  ====  ==========================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from redis import Redis

from crisper_worker.messages import text_of


@dataclass(frozen=True)
class Keys:
    """The names of the keys, with kombu's prefix.

    Args:
        unacked: kombu's ``unacked_key``.
        index: kombu's ``unacked_index_key``.
    """

    unacked: str
    index: str

    @property
    def lease(self) -> str:
        """The times of renewal."""
        return f"{self.unacked}_lease"

    @property
    def holders(self) -> str:
        """The holders, with the lists that their messages came from."""
        return f"{self.unacked}_holder"

    @property
    def started(self) -> str:
        """The tags of tasks that were started."""
        return f"{self.unacked}_started"

    @property
    def aside(self) -> str:
        """The messages that were set aside."""
        return f"{self.unacked}_aside"

    def deaths(self, task_id: str) -> str:
        """Return the key of the counter of a task's deaths."""
        return f"{self.unacked}_deaths:{task_id}"

    def wrong_types(self, redis: Redis, lists: Iterable[str]) -> str:
        """Return which of the keys, and of `lists`, have another type than Celery's, in words."""
        kinds = {self.unacked: "hash", self.index: "zset", self.lease: "zset"}
        kinds.update({self.holders: "hash", self.started: "set", self.aside: "hash"})
        wrong = []
        for key, kind in {**kinds, **dict.fromkeys(lists, "list")}.items():
            found = text_of(cast(bytes, redis.type(key)))
            if found not in (kind, "none"):
                wrong.append(f"{key!a} is a {found} instead of a {kind}")
        return ", ".join(wrong) or "a key in Redis has another type"
