"""Publish tasks at the head of a queue: the end that consumers read.

Sent to a container with ``probes.canary`` and ``probes.ledger``. Imports nothing but the standard
library and, inside functions, what the application itself has (Celery, kombu, redis). Python 3.8+.

kombu's Redis transport pushes with LPUSH and pops with BRPOP, the keys of the first priority step
first. RPUSH to that key puts a message before every waiting one; kombu itself does so with what it
restores. Another broker has no such end: there a message gets the highest priority of its queue,
and waits behind others where the queue has no priorities.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

# Messages that lie nearer to the end that consumers read, at most: restored after a worker died, or
# other canaries. A look is bounded by it, however long the queue is.
NEAREST = 10000
# Messages of the end that are fetched when a message is no longer what was published: a worker that
# took it and died has marked it as redelivered. Fetched in small parts, as one may be large.
FETCHED, PART = 400, 50
# Messages that workers hold, fetched at once.
SCANNED = 500


class QueueHead:
    """A connection that publishes at the head of queues and takes messages back again."""

    def __init__(self, app: Any, connect: Callable[[], Any]) -> None:
        """Begin without a connection; `connect` returns one to the broker that has answered."""
        self.app = app
        self.connect = connect
        self.connection: Any = None
        self.published: dict[str, list[tuple[str, str]]] = {}  # task id -> [(key, payload)]

    @property
    def exact(self) -> bool:
        """Return whether a message is really the next one, and can be found and taken back."""
        return bool(self._connected().transport.driver_type == "redis")

    def send(self, task: str, task_id: str, queue: str, **options: Any) -> Any:
        """Publish a task so that the queue's consumer takes it next; `options` are of `send_task`.

        Raises whatever Celery or the broker do; a later call connects again.
        """
        try:
            connection = self._connected()
            # Of Redis' own keys, only the first that is read matters (see `_put_first`).
            if not self.exact:
                options.update(priority_of(self.app, queue))
            return self.app.send_task(
                task, task_id=task_id, queue=queue, connection=connection, retry=False, **options
            )
        except Exception:
            self.close()
            raise

    def take_back(self, task_id: str) -> bool:
        """Remove a task that nobody has taken; return whether it was still in its queue.

        The queue is searched from the end that consumers read, and not further than NEAREST.
        """
        if not self.exact:
            return False
        removed = 0
        client = self._client()
        for key, payload in self.published.get(task_id, ()):
            removed += self._remove(client, key, payload, task_id)
        return removed > 0

    def find_unacked(self, task_ids: Iterable[str], seconds: float) -> set[str] | None:
        """Return those of the tasks that workers hold unacknowledged.

        None where that cannot be told: with another broker, or when not all of what workers hold
        could be read within `seconds`. Never more than a part of it is in memory.
        """
        if not self.exact:
            return None
        channel = self._connected().default_channel
        key = (getattr(channel, "global_keyprefix", "") or "") + channel.unacked_key
        searched = {task_id: ('"' + task_id + '"').encode() for task_id in task_ids}
        found: set[str] = set()
        deadline = time.monotonic() + seconds
        for _, raw in self._client().hscan_iter(key, count=SCANNED):
            found.update(task_id for task_id, text in searched.items() if text in raw)
            if len(found) == len(searched):
                break
            if time.monotonic() > deadline:
                return None
        return found

    def lists(self, queue: str) -> list[str]:
        """Return the lists of Redis that a queue's messages wait in, one for each priority."""
        channel = self._connected().default_channel
        prefix = getattr(channel, "global_keyprefix", "") or ""
        return [prefix + channel._q_for_pri(queue, step) for step in channel.priority_steps]

    def ends(self, key: str, number: int) -> list[bytes]:
        """Return the messages at both ends of a list, `number` at most of each."""
        client = self._client()
        first, last = client.lrange(key, 0, number - 1), client.lrange(key, -number, -1)
        return [*first, *last]

    def forget(self, task_id: str) -> None:
        """Drop what is known of a task that has ended."""
        self.published.pop(task_id, None)

    def close(self) -> None:
        """Leave the broker; what was published stays known."""
        connection, self.connection = self.connection, None
        if connection is not None:
            try:
                connection.release()
            except Exception:  # a connection that is gone has nothing to release
                return

    def _connected(self) -> Any:
        if self.connection is None:
            self.connection = self.connect()
            if self.connection.transport.driver_type == "redis":
                channel = self.connection.default_channel
                channel._put = self._put_first
        return self.connection

    def _client(self) -> Any:
        """Return a client without kombu's prefix, whose commands differ by version."""
        import redis

        return redis.Redis(connection_pool=self._connected().default_channel.pool)

    def _put_first(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        """Take the place of the channel's ``_put``: the same payload, at the other end."""
        from kombu.utils.json import dumps

        channel = self._connected().default_channel
        first = channel._q_for_pri(queue, channel.priority_steps[0])
        key = (getattr(channel, "global_keyprefix", "") or "") + first
        payload = dumps(message)
        self._client().rpush(key, payload)
        task_id = (message.get("headers") or {}).get("id", "")
        self.published.setdefault(task_id, []).append((key, payload))

    def _remove(self, client: Any, key: str, payload: str, task_id: str) -> int:
        import redis

        try:
            near = client.execute_command("LPOS", key, payload, "RANK", -1, "MAXLEN", NEAREST)
        except redis.ResponseError:  # Redis before 6.0.6: searches all of the queue if it was taken
            near = 0
        if near is not None:
            return int(client.lrem(key, -1, payload))
        for start in range(0, FETCHED, PART):
            part = client.lrange(key, -start - PART, -start - 1)
            for raw in part:
                if ('"' + task_id + '"').encode() in raw:
                    return int(client.lrem(key, -1, raw))
            if len(part) < PART:
                break
        return 0


def priority_of(app: Any, queue: str) -> dict[str, Any]:
    """Return the option that sends a message before others of that queue, if the queue has one."""
    try:
        declared = app.amqp.queues[queue]
    except KeyError:  # it may not be sent to: Celery says so
        return {}
    arguments = getattr(declared, "queue_arguments", None) or {}
    highest = getattr(declared, "max_priority", None) or arguments.get("x-max-priority")
    return {"priority": highest} if highest else {}
