"""What probes leave in Redis, and what a hostile worker can leave there through them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time

import celery_canary
import celery_inspect
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.probes import workers
from ansible_collections.crisper.stack.plugins.module_utils.probes.leftovers import REGISTRY
from ansible_collections.crisper.stack.plugins.module_utils.probes.redis_keys import REDIS_CLI
from ansible_collections.crisper.stack.plugins.module_utils.remote.run import program
from celery import Celery
from lab import HERE, until

BINDINGS = "_kombu.binding.reply.celery.pidbox"
# What a client of the application leaves, such as `celery inspect` or Flower.
FOREIGN = b"0b1c\x06\x16\x06\x160b1c.reply.celery.pidbox"


@pytest.fixture
def inspect(run_module, docker):
    """Ask workers, as the module does."""

    def call(**options):
        given = {"app": "drain_tasks", "container": "any", "python": sys.executable}
        return run_module(
            celery_inspect, **(given | {"docker_cli": docker, "timeout": 4} | options)
        )

    return call


@pytest.fixture
def canary(run_module, docker):
    """Send a canary through queue one, as the module does."""

    def call(**options):
        given = {"app": "drain_tasks", "container": "any", "python": sys.executable}
        given |= {"docker_cli": docker, "task": "health", "queues": ["one"], "timeout": 6}
        return run_module(celery_canary, **(given | options))

    return call


def endless(broker) -> set[bytes]:
    """Keys that do not expire, and bindings of replies."""
    keys = {key for key in broker.scan_iter() if broker.ttl(key) == -1}
    return keys | broker.smembers(BINDINGS)


def age(broker) -> None:
    """Make everything that probes have written down due."""
    for name in broker.zrange(REGISTRY, 0, -1):
        broker.zadd(REGISTRY, {name: time.time() - 1})


def test_probes_leave_nothing_behind(worker, broker, inspect, canary, drain):
    """Regression: 87 bindings became 94 within minutes."""
    worker("one@a", "-c1", "-Qone").ready()
    before = endless(broker)
    assert inspect()["problem"] == ""
    assert canary()["findings"] == []
    assert drain("one@a")["drained"] == ["one@a"]
    assert endless(broker) == before
    assert not list(broker.scan_iter("celery-task-meta-crisper-*"))
    assert broker.zcard(REGISTRY) == 0


@pytest.mark.parametrize("prefix", ["", "app:"])
def test_what_a_killed_probe_left_is_removed_and_nothing_else(
    worker, broker, inspect, monkeypatch, prefix
):
    monkeypatch.setenv("TEST_PREFIX", prefix)
    worker("one@a", "-c1", "-Qone").ready()
    bindings = prefix + BINDINGS
    broker.sadd(bindings, FOREIGN)
    broker.lpush(prefix + "0b1c.reply.celery.pidbox", "the application's")
    broker.set("celery-task-meta-of-the-application", "kept")
    request = {"app": "drain_tasks", "timeout": 60, "import_timeout": 60, "methods": ["ping"]}
    request |= {"destination": ["gone@a", "one@a"], "everybody": False, "settle": 0.0}
    command = [sys.executable, "-c", program(workers, request)]
    probe = subprocess.Popen(command, cwd=HERE, stdout=subprocess.DEVNULL)
    until(lambda: broker.scard(bindings) == 2)
    probe.kill()
    probe.wait()
    (name,) = broker.zrange(prefix + REGISTRY, 0, -1)
    queue = prefix.encode() + name.partition(b" ")[2]
    broker.lpush(queue, "x" * 1_000_000)
    # Somebody may write other names into the set.
    hostile = ["result celery-task-meta-of-the-application", f"replies {FOREIGN[9:].decode()}"]
    broker.zadd(prefix + REGISTRY, dict.fromkeys([*hostile, "\x00", "result "], 0))
    assert inspect(expect={"nodes": ["one@a"]})["problem"] == ""
    assert broker.exists(queue), "what is not due may be in use"
    for each in broker.zrange(prefix + REGISTRY, 0, -1):
        broker.zadd(prefix + REGISTRY, {each: time.time() - 1})
    assert inspect(expect={"nodes": ["one@a"]})["problem"] == ""
    assert broker.smembers(bindings) == {FOREIGN}
    assert 0 < broker.ttl(queue) <= 60
    assert broker.lrange(queue, 0, -1) == [b""]
    assert broker.lrange(prefix + "0b1c.reply.celery.pidbox", 0, -1) == [b"the application's"]
    assert broker.get("celery-task-meta-of-the-application") == b"kept"
    assert broker.zcard(prefix + REGISTRY) == 0


def test_the_result_of_a_canary_that_came_too_late_is_removed(worker, broker, canary):
    worker("one@a", "-c1", "-Qone").ready()
    app = Celery("producer", broker=os.environ["TEST_BROKER"], set_as_current=False)
    app.send_task("nap", args=["waits", 3.0], queue="one")
    # Another one has been taken by the worker when its sender is gone.
    late = "celery-task-meta-crisper-canary-0b5d4e1e-0000-4000-8000-000000000000"
    broker.set(late, "a result without an end")
    broker.zadd(REGISTRY, {"result " + late: time.time() - 1})
    canary(timeout=1)
    assert not broker.exists(late)
    until(lambda: not list(broker.scan_iter("celery-task-meta-nap*")))
    age(broker)
    assert canary()["findings"] == []
    assert not list(broker.scan_iter("celery-task-meta-crisper-*"))


@pytest.fixture
def hostile(broker):
    """A worker that answers every question with that; `run` begins."""
    app = Celery("hostile", broker=os.environ["TEST_BROKER"], set_as_current=False)
    ended = threading.Event()
    threads = []

    def run(*bodies):
        pubsub = broker.pubsub(ignore_subscribe_messages=True)
        pubsub.psubscribe("*celery.pidbox*")
        pubsub.get_message(timeout=1)

        def work():
            with app.connection_for_write() as connection:
                mailbox = app.control.mailbox(connection)
                while not ended.is_set():
                    message = pubsub.get_message(timeout=0.05)
                    if message is None:
                        continue
                    asked = json.loads(base64.b64decode(json.loads(message["data"])["body"]))
                    if not asked.get("reply_to"):
                        continue
                    where = asked["reply_to"]
                    for body in bodies:
                        mailbox._publish_reply(
                            body,
                            where["exchange"],
                            where["routing_key"],
                            asked["ticket"],
                            channel=connection.default_channel,
                        )

        threads.append(threading.Thread(target=work))
        threads[-1].start()

    yield run
    ended.set()
    for each in threads:
        each.join()


def test_names_of_8_mb_stay_out_of_results_and_out_of_redis(worker, broker, inspect, hostile):
    """Regression: 8,002,771 bytes were printed, and a probe left 63 to 81 MB in Redis."""
    worker("one@a", "-c1", "-Qone").ready()
    hostile({"x" * 8_000_000: {"ok": "pong"}}, {"w@h\nRelease   x (proved)\x1b[2J": []})
    told = inspect(timeout=15, settle=4)
    assert told["problem"] == "malformed_reply"
    text = json.dumps(told)
    assert len(text) < 200_000
    assert "(a reply of 8000" in told["msg"]
    assert r"w@h\nRelease   x (proved)\x1b[2J answered" in told["msg"]
    assert "one@a" in told["nodes"]
    assert all(line[:1].isdigit() or line.startswith("And ") for line in told["msg"].split("\n"))
    # At most one answer that was under way, and that for a minute.
    sizes = {key: broker.memory_usage(key, samples=0) for key in broker.scan_iter()}
    assert sum(sizes.values()) < 20_000_000, sizes
    assert all(broker.ttl(key) > 0 for key, size in sizes.items() if size > 1_000_000)
    assert broker.scard(BINDINGS) == 0


def test_a_hostile_worker_ends_no_drain(worker, broker, drain, hostile):
    worker("one@a", "-c1", "-Qone").ready()
    hostile(
        {"one@b": [7, None]}, {"one@c": [{"name": 3}]}, ["text"], "text", {"one@a": {"error": 1}}
    )
    drained = drain("one@a")
    assert drained["drained"] == ["one@a"], drained


@pytest.mark.parametrize("prefix", ["", "app:"])
def test_garbage_in_the_tables_of_bindings_silences_nobody(
    worker, broker, inspect, monkeypatch, prefix
):
    """Regression: one member without separators, and no worker was heard any more."""
    monkeypatch.setenv("TEST_PREFIX", prefix)
    worker("one@a", "-c1", "-Qone").ready()
    broker.sadd(prefix + BINDINGS, FOREIGN, b"garbage", b"", b"\xff", b"\x06\x16" * 3)
    assert inspect(expect={"nodes": ["one@a"]})["problem"] == ""
    assert broker.smembers(prefix + BINDINGS) == {FOREIGN}
    names = ["_kombu.binding.reply.celery.pidbox", "_kombu.binding.celery.pidbox"]
    names += ["_kombu.binding_deadlines", "_kombu.binding_permanent.one", REGISTRY]
    for name in names:
        broker.set(prefix + name, "x")
    assert inspect(expect={"nodes": ["one@a"]})["problem"] == ""
    assert broker.type(prefix + REGISTRY) == b"none"
    # Plain Celery as it is, it can start again, too.
    worker("two@a", "-c1", "-Qone").ready()
    assert inspect(expect={"nodes": ["one@a", "two@a"]})["problem"] == ""


def test_a_key_of_another_type_is_named_with_the_command_that_removes_it(worker, broker, canary):
    """Regression: only that the canary did not come back was told."""
    worker("one@a", "-c1", "-Qone").ready()
    for name, word in (
        ("one", "one"),
        ("one\x06\x163", r"$'one\x06\x163'"),
        ("unacked", "unacked"),
    ):
        broker.delete(name)
        broker.set(name, "x")
        told = canary()
        assert told["problem"] == "unreadable_data"
        assert f"{REDIS_CLI} DEL {word}" in told["msg"]
        broker.delete(name)
