"""A worker outlives whatever others write into Redis; real processes."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from celery import Celery
from testkit import Redis, lines, wait_until


def wrapped(body: Any, **parts: Any) -> str:
    """A message of kombu's with a body in JSON."""
    encoded = base64.b64encode(body if isinstance(body, bytes) else json.dumps(body).encode())
    properties = {
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "delivery_tag": "forged",
        "body_encoding": "base64",
    }
    message = {
        "body": encoded.decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {},
        "properties": properties,
    }
    return json.dumps(message | parts)


def deep(levels: int) -> Any:
    """A body whose argument has so many lists within each other."""
    return json.loads(f"[[{'[' * levels}{']' * levels}], {{}}, {{}}]")


FINE = {"id": "half-way", "task": "note", "lang": "py"}
BODY = [[], {}, {}]
GARBAGE: list[Any] = [
    *("[" * 100_000, "[]", "7", b"\xff", '{"properties": {}}'),
    *(wrapped(BODY, headers=headers) for headers in (7, {"task": []}, {"id": "x"})),
    *(wrapped(BODY, headers=FINE | more) for more in ({"timelimit": 5}, {"eta": []})),
    *(wrapped(part, headers=FINE) for part in (7, [7], b"[" * 100_000, deep(700))),
    wrapped(BODY, headers=FINE, **{"content-type": "application/x-none"}),
]
ANSWERS = (7, b"[" * 100_000, [[7]], {"w": {"clock": 10**400}})
REQUESTS = ({"method": 7}, {"method": "ping", "reply_to": 7}, {"method": "ping", "arguments": 7})


class Forger(threading.Thread):
    """Somebody who answers the question of a starting worker with garbage, as fast as it asks."""

    def __init__(self, redis: Any) -> None:
        super().__init__()
        self.redis = redis
        self.stop = threading.Event()
        self.forged = 0

    def run(self) -> None:
        pubsub = self.redis.pubsub()
        pubsub.psubscribe("*pidbox*")
        while not self.stop.is_set():
            asked = pubsub.get_message(ignore_subscribe_messages=True, timeout=0.1)
            if not asked:
                continue
            reply_to = json.loads(base64.b64decode(json.loads(asked["data"])["body"]))["reply_to"]
            queue = f"{reply_to['routing_key']}.{reply_to['exchange']}"
            self.redis.lpush(queue, *GARBAGE, *map(wrapped, ANSWERS))
            self.forged += 1

    def __enter__(self) -> Forger:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()


def test_garbage_in_its_queues_ends_no_worker(
    client: Celery, redis_server: Redis, start_worker: Callable, ledger: Path
) -> None:
    """Regression: one unreadable message ended a worker, and the next one that took it."""
    redis = redis_server.client()
    redis.rpush("celery", *GARBAGE)
    with Forger(redis) as forger:
        worker = start_worker().ready()
    assert forger.forged
    for channel in ("/0.celery.pidbox", "/0.celeryev/worker.heartbeat"):
        for data in ("[" * 100_000, "[]", "7", "{}", *map(wrapped, (7, [], *REQUESTS))):
            redis.publish(channel, data)
    task = client.send_task("note", (0, str(ledger)))
    wait_until(lambda: lines(ledger, "end"), "the task behind it ends", 20, worker.log)
    assert lines(ledger, "end") == [task.id]
    # None of it is gone; one goes round a few times before.
    every = len(GARBAGE)
    wait_until(lambda: redis.hlen("unacked_aside") == every, "all is set aside", log=worker.log)
    assert redis.exists("unacked", "celery") == 0
    assert client.control.ping(timeout=5, limit=1) == [{"w0@test": {"ok": "pong"}}]
    redis.set("unacked_lease", "x")
    later = client.send_task("note", (0, str(ledger)))
    wrong = "'unacked_lease' is a string instead of a zset"
    wait_until(lambda: wrong in worker.log.read_text(), "it is told", log=worker.log)
    redis.delete("unacked_lease")
    wait_until(lambda: len(lines(ledger, "end")) == 2, "it goes on", 20, worker.log)
    assert lines(ledger, "start") == [task.id, later.id]
    said = worker.log.read_text()
    assert worker.process.poll() is None
    assert said.count("cannot be read") == 2, said  # one line a minute of each kind
    assert said.count("Traceback") == 1, said
