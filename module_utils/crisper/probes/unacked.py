"""Read, put back and acknowledge unacknowledged messages in Redis.

Sent to containers with probes: standard library, Python 3.8, and what the application itself has
(Celery, kombu, redis), inside functions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..celery.unacked import (
    BATCH,
    BATCH_BYTES,
    MOST,
    MOVE,
    PARSED,
    READ,
    Message,
    parts_of,
    text_of,
)
from .control import check_types

# Messages that are moved in one round trip, and bytes of them in memory.
MOVED, MOVED_BYTES = 100, 4_000_000


class Unacked:
    """The unacknowledged messages of one application in its broker's database."""

    def __init__(self, app: Any, connection: Any) -> None:
        """Begin; `connection` is kombu's, to Redis, and has answered."""
        import redis

        self.app, self.connection = app, connection
        self.channel = channel = connection.default_channel
        self.prefix = getattr(channel, "global_keyprefix", "") or ""
        # Kombu's own client adds its prefix to some commands only.
        self.client: Any = redis.Redis(connection_pool=channel.pool)
        self.key = self.prefix + channel.unacked_key
        self.index = self.prefix + channel.unacked_index_key
        self.lease = self.key + "_lease"

    def count(self) -> int:
        """Return how many there are.

        Raises:
            Failure: one of the keys has another type than Celery's.
        """
        check_types(self.connection)
        return int(self.client.hlen(self.key))

    def tags(self, grace: float) -> tuple[list[str], bool]:
        """Return the tags that were delivered more than `grace` seconds ago, and if these are all.

        A living lease of crisper-worker keeps its messages young: they are not among them.
        """
        seconds, micros = self.client.time()
        until = seconds + micros / 1e6 - grace
        found = self.client.zrangebyscore(self.index, "-inf", until, start=0, num=MOST + 1)
        return [text_of(tag) for tag in found[:MOST]], len(found) <= MOST

    def read(self, tags: Sequence[str], deadline: float) -> Iterator[Message | None]:
        """Yield the messages of these tags that are there.

        It ends early at the deadline, with None; a first part is always read.
        """
        start, keys = 0, (self.key, self.index, self.lease)
        while start < len(tags) and (not start or time.monotonic() < deadline):
            batch = tags[start : start + BATCH]
            answer = self.client.eval(READ, 3, *keys, PARSED, BATCH_BYTES, *batch)
            start += len(answer)
            for tag, found in zip(batch, answer):  # noqa: B905 (Python 3.8)
                message = Message(tag, found)
                if message.score:
                    yield message
        if start < len(tags):
            yield None

    def delivered(self, task_ids: Iterable[str]) -> dict[str, float]:
        """Return when the message of each of these tasks was delivered, in Unix seconds.

        0 for one that has none any more. Without those that have several, or one under a lease.
        """
        found: dict[str, list[Message]] = {task_id: [] for task_id in task_ids}
        tags, complete = self.tags(0.0)
        if not complete:
            return {}
        for message in self.read(tags, float("inf")):
            if message and message.id in found:
                found[message.id].append(message)
        return {
            task_id: max([0.0, *(float(message.score) for message in messages)])
            for task_id, messages in found.items()
            if len(messages) <= 1 and not any(message.leased for message in messages)
        }

    def put_back(self, messages: Iterable[Message], deadline: float) -> list[int]:
        """Put messages back at the end of their queues that consumers read.

        As kombu does it (``restore_by_tag``): marked as redelivered, to the lists that the exchange
        and the routing key say, in one step with the removal. The last one is read first. Returns
        how many were put back, how many have no queue, and how many cannot be read: these stay.
        """
        total, size = [0, 0, 0], 0
        batch: list[Message] = []
        for message in messages:
            batch.append(message)
            size += message.size
            if len(batch) >= MOVED or size >= MOVED_BYTES:
                total = [sum(pair) for pair in zip(total, self._move(batch))]  # noqa: B905 (Python 3.8)
                batch, size = [], 0
                if time.monotonic() >= deadline:
                    return total
        return [sum(pair) for pair in zip(total, self._move(batch))]  # noqa: B905 (Python 3.8)

    def acknowledge(self, messages: Iterable[Message]) -> int:
        """Remove messages whose tasks have ended; return how many."""
        pipe = self.client.pipeline(transaction=False)
        for message in messages:
            keys = (self.key, self.index, self.lease)
            pipe.eval(MOVE, 3, *keys, message.tag, message.score, "")
        return sum(1 for answer in pipe.execute(raise_on_error=False) if answer == 1)

    def _move(self, batch: Sequence[Message]) -> tuple[int, int, int]:
        if not batch:
            return 0, 0, 0
        raws = self.client.hmget(self.key, [message.tag for message in batch])
        pipe, homeless, unreadable = self.client.pipeline(transaction=False), 0, 0
        for message, raw in zip(batch, raws):  # noqa: B905 (Python 3.8)
            if raw is None:
                continue
            try:
                payload, lists = self._again(raw)
            except Exception:
                unreadable += 1  # whoever has put it there: the others go back all the same
                continue
            if not lists:
                homeless += 1
                continue
            keys = (self.key, self.index, self.lease, *lists)
            pipe.eval(MOVE, len(keys), *keys, message.tag, message.score, payload)
        answers = pipe.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return sum(1 for answer in answers if answer == 1), homeless, unreadable

    def _again(self, raw: bytes) -> tuple[str, list[str]]:
        """Return a message as it goes back, and the lists that it goes to."""
        from kombu.utils.json import dumps, loads

        message, exchange, routing_key = parts_of(loads(raw.decode("utf-8")))
        # A worker that cannot decode it loses its connection.
        self.channel.decode_body(message["body"], message["properties"].get("body_encoding"))
        # As kombu does.
        message["headers"]["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
        priority = self.channel._get_message_priority(message, reverse=False)
        queues = list(self._queues(exchange, routing_key))
        lists = [self.prefix + self.channel._q_for_pri(queue, priority) for queue in queues]
        return dumps(message), lists

    def _queues(self, exchange: str, routing_key: str) -> list[str]:
        if not exchange:
            return [routing_key] if routing_key else []
        try:
            # A topic is looked up as one only where the exchange was declared.
            for queue in self.app.amqp.queues.values():
                if queue.exchange and queue.exchange.name == exchange:
                    queue.exchange(self.channel).declare()
                    break
            queues = [queue for queue in self.channel._lookup(exchange, routing_key) if queue]
            bound = {row[2] for row in self.channel.get_table(exchange)}
        except Exception:  # whatever a lookup raises: the message stays where it is
            return []
        return [queue for queue in queues if queue in bound]
