"""A worker outlives whatever others write into Redis; real processes."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from celery import Celery
from crisper_worker.bindings import free_mutex
from lease_kit import store
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
LATER = "2999-01-01T00:00:00+00:00"
STAMPED: list[dict[str, Any]] = [
    {"stamped_headers": 5, "stamps": [1]},
    {"stamped_headers": [["a"]]},
    {"stamped_headers": ["a"], "stamps": "x"},
    {"stamped_headers": 5, "eta": "2001-01-01T00:00:00+00:00", "expires": LATER},
]
EMBEDDED: list[Any] = [7, {"callbacks": 7}, {"errbacks": [7]}, {"chain": {"a": 1}}, {"chord": [7]}]
GARBAGE: list[Any] = [
    *("[" * 100_000, "[]", "7", b"\xff", '{"properties": {}}'),
    *(wrapped(BODY, headers=headers) for headers in (7, {"task": []}, {"id": "x"})),
    *(wrapped(BODY, headers=FINE | more) for more in ({"timelimit": 5}, {"eta": []})),
    *(wrapped(BODY, headers=FINE | more) for more in STAMPED),
    *(wrapped([[], {}, embed], headers=FINE) for embed in EMBEDDED),
    *(wrapped(part, headers=FINE) for part in (7, [7], b"[" * 100_000, deep(700))),
    wrapped(BODY, headers=FINE, **{"content-type": "application/x-none"}),
]
# The tables of bindings: each of another type, or with members that are none.
TABLES = [
    "_kombu.binding.celery.pidbox",
    "_kombu.binding.reply.celery.pidbox",
    "_kombu.binding_permanent.celery",
    "_kombu.binding_deadlines",
]
MEMBERS = [b"garbage", b"", b"\xff\x06\x16\x06\x16q", b"a\x06\x16(\x06\x16q", b"\x06\x16" * 3]
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
    redis.mset(dict.fromkeys(TABLES, "x"))
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
    wait_until(lambda: not redis.exists("unacked", "celery"), "nothing is held", log=worker.log)
    for member in MEMBERS:
        redis.sadd("_kombu.binding.reply.celery.pidbox", member)
    assert client.control.ping(timeout=5, limit=1) == [{"w0@test": {"ok": "pong"}}]
    assert not redis.smembers("_kombu.binding.reply.celery.pidbox") & set(MEMBERS)
    redis.set("unacked_lease", "x")
    later = client.send_task("note", (0, str(ledger)))
    wrong = "'unacked_lease' is a string instead of a zset"
    wait_until(lambda: wrong in worker.log.read_text(), "it is told", log=worker.log)
    redis.delete("unacked_lease")
    wait_until(lambda: len(lines(ledger, "end")) == 2, "it goes on", 20, worker.log)
    assert lines(ledger, "start") == [task.id, later.id]
    said = worker.log.read_text()
    assert worker.process.poll() is None
    # One line a minute of each kind, and a second one where it lasted longer.
    assert said.count("cannot be read") in (2, 3), said
    assert said.count("Traceback") == 1, said


HEADERS = (
    *("lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "groups"),
    *("retries", "timelimit", "root_id", "parent_id", "argsrepr", "kwargsrepr", "origin"),
    *("ignore_result", "replaced_task_nesting", "stamped_headers", "stamps", "compression"),
    *("redelivered", "hostname", "args", "kwargs", "clock", "called_directly", "reply_to"),
    *("correlation_id", "delivery_info", "properties", "callbacks", "errbacks", "chain", "chord"),
    *("_protected", "self", "task_id", "__class__", "kwargsrepr", "utc", "loglevel", "exc_info"),
)
PROPERTIES = (
    *("correlation_id", "reply_to", "delivery_mode", "delivery_info", "priority", "expiration"),
    *("body_encoding", "delivery_tag", "timestamp", "message_id", "content_type"),
)
EMBED = ("callbacks", "errbacks", "chain", "chord", "utc", "task", "id", "self")
JUNK: list[Any] = [7, -1, "x", "", [1], [[]], {"a": 1}, {"": None}, True, 10**400, 1e300, None]
JUNK += ["2001-01-01T00:00:00+00:00", "0001-01-01T00:00:00+14:00", "\ud800", "\0"]


def every_misfit(ledger: Path) -> list[str]:
    """Messages of a task of each of which one part is something else."""
    found: list[str] = []

    def add(headers: Any = (), properties: Any = (), embed: Any = (), **parts: Any) -> None:
        name = f"m{len(found)}"
        body = [[0, str(ledger)], {}, {"callbacks": None, **dict(embed)}]
        fine = json.loads(wrapped(body, headers={**FINE, "id": name, **dict(headers)}, **parts))
        fine["properties"] |= {"delivery_tag": name, **dict(properties)}
        found.append(json.dumps(fine))

    for junk in JUNK:
        for name in HEADERS:
            add(headers={name: junk})
        for name in PROPERTIES:
            add(properties={name: junk})
        for name in EMBED:
            add(embed={name: junk})
        for name in ("content-type", "content-encoding", "headers", "properties"):
            parts = json.loads(found[0]) | {name: junk}
            found.append(json.dumps(parts))
        add(headers={"stamped_headers": junk, "stamps": junk, "eta": LATER, "expires": junk})
    return found


def test_whatever_a_part_of_a_message_is(
    client: Celery, redis_server: Redis, start_worker: Callable, ledger: Path
) -> None:
    """Each has its turn, and the worker has its places afterwards."""
    redis = redis_server.client()
    redis.rpush("celery", *every_misfit(ledger))
    worker = start_worker(concurrency=2, broker="", CELERY_MAX_DELIVERIES="2").ready()
    wait_until(lambda: redis.llen("celery") == 0, "all are taken", 60, worker.log)
    tasks = [client.send_task("note", (0.2, str(ledger))).id for _ in range(4)]
    wait_until(lambda: {*tasks} <= {*lines(ledger, "end")}, "they end", 20, worker.log)
    assert worker.process.poll() is None
    assert client.control.ping(timeout=5, limit=1) == [{"w0@test": {"ok": "pong"}}]


def test_a_lock_without_an_end_is_removed(empty: Redis) -> None:
    """Regression: kombu restored nothing any more once somebody had set its lock."""
    redis = empty.client()
    channel = SimpleNamespace(
        global_keyprefix="p:", unacked_mutex_key="unacked_mutex", unacked_mutex_expire=300
    )
    channel._plain_client = lambda: redis
    for forge in (
        lambda: redis.set("p:unacked_mutex", "x"),
        lambda: redis.lpush("p:unacked_mutex", "x"),
        lambda: redis.set("p:unacked_mutex", "x", ex=10**9),
    ):
        forge()
        free_mutex(channel)
        assert redis.exists("p:unacked_mutex") == 0
    with redis.lock("p:unacked_mutex", timeout=300):
        free_mutex(channel)
        assert redis.exists("p:unacked_mutex") == 1


def test_a_counter_of_deaths_of_another_type_counts(empty: Redis) -> None:
    """Regression: it ended each worker that declined a message of that id."""
    mine, redis = store(empty), empty.client()
    for forge in (
        lambda: redis.lpush("p:unacked_deaths:id", "x"),
        lambda: redis.set("p:unacked_deaths:id", "x"),
        lambda: redis.set("p:unacked_deaths:id", 2**63 - 1),
    ):
        forge()
        mine.deaths("id")
        assert mine.count_death("id") == 1
        assert (mine.count_death("id"), mine.deaths("id")) == (2, 2)
        redis.delete("p:unacked_deaths:id")
