"""Canaries before a backlog and beside busy pools, with a real Redis and real workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from uuid import uuid4

import celery_canary
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.probes import ledger as ledger_probe
from ansible_collections.crisper.stack.plugins.module_utils.remote.run import parse, program
from celery import Celery
from lab import HERE, until


@pytest.fixture
def canary(run_module, docker):
    """Send a canary through queues, as the module does."""

    def call(*queues, **options):
        given = {"app": "drain_tasks", "container": "any", "python": sys.executable}
        given |= {"docker_cli": docker, "task": "health", "queues": list(queues), "timeout": 6}
        return run_module(celery_canary, **(given | options))

    return call


@pytest.fixture
def ledger(broker):
    """Run a ledger as the module starts it until `enough`; its numbers and its last wait."""
    request = {"app": "drain_tasks", "task": "health", "path": "/", "task_interval": 0.1}
    request |= {"request_interval": 60.0, "limit": 60, "site_host": "", "site_scheme": "http"}
    request |= {"expected": [200], "certificates": "", "run": "1", "host": "127.0.0.1"}
    request |= {"port": 1, "secure_port": 1}

    def run(*queues, enough, wait=20.0):
        source = program(ledger_probe, {**request, "queues": list(queues), "wait": wait})
        command = [sys.executable, "-c", source]
        process = subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True)
        until(enough)
        begun = time.monotonic()
        process.terminate()
        out, _ = process.communicate(timeout=60)
        reply = parse(out)
        assert "error" not in reply, reply
        return reply["tasks"], time.monotonic() - begun

    return run


@pytest.fixture
def backlog(broker, send):
    """Put many tasks into a queue, in one go."""

    def fill(number: int, seconds: float, queue: str = "one", prefix: str = "") -> None:
        send("nap", "waits", seconds, queue=queue)
        message = json.loads(broker.rpop(queue))
        with broker.pipeline() as pipe:
            for _ in range(number):
                # A worker counts what it runs by id, and what it holds by delivery tag.
                message["headers"]["id"] = message["properties"]["delivery_tag"] = uuid4().hex
                pipe.lpush(prefix + queue, json.dumps(message))
            pipe.execute()

    return fill


def test_a_canary_is_the_next_message_of_3000(worker, backlog, broker, canary, monkeypatch):
    """Regression: it was the last of the backlog, and did not come back."""
    monkeypatch.setenv("TEST_PREFIX", "app:")
    backlog(3000, 0.1, prefix="app:")
    worker("w@a", "-c1", "-Qone").ready()
    result = canary("one")
    assert result["findings"] == result["busy"] == []
    assert result["queues"]["one"]["result"] == {"worker": "w@a"}
    assert broker.llen("app:one") > 2900


def test_what_is_busy_is_told_and_what_is_broken_fails(
    worker, backlog, broker, canary, ledger, marks, monkeypatch
):
    """Regression: a deploy failed when every process ran a task longer than the timeout."""
    backlog(100, 60.0)
    backlog(1, 60.0, queue="two")
    worker("late@a", "-c2", "-Qone", "--time-limit=3600")
    worker("free@a", "-c1", "-Qthree")
    monkeypatch.setenv("TEST_PREFETCH", "4")  # Celery's default: it holds messages while it is busy
    worker("early@a", "-c1", "-Qtwo").ready()
    until(lambda: len(marks()) == 3)

    result = canary("one", "two", "three", "nobody", timeout=2)
    assert result["failed"] is True
    assert [finding["queue"] for finding in result["findings"]] == ["nobody"]
    assert "no worker that answers consumes that queue" in result["msg"]
    assert "celery_workers" in result["msg"]
    assert [busy["queue"] for busy in result["busy"]] == ["one", "two"]
    assert result["queues"]["three"]["state"] == "SUCCESS"

    begun = time.monotonic()
    result = canary("one", "two", timeout=30)
    assert time.monotonic() - begun < 20, "it is not waited for"
    assert not result.get("failed"), result["msg"]
    late, early = result["busy"]
    assert late["text"].startswith("busy: 2 of 2 processes run nap, oldest ")
    assert late["text"].endswith(" s; canary not waited for")
    assert (late["nodes"], late["processes"], late["active"]) == (["late@a"], 2, 2)
    assert "early@a has taken the canary and not begun it" in early["text"]

    # And so does the ledger: regression: it waited its whole time for what lay behind them.
    told, seconds = ledger("one", "two", enough=lambda: broker.llen("one") == 101)
    assert (told["lost"], told["finished"], told["waiting"]) == (0, 0, told["accepted"])
    assert told["accepted"] > 3
    assert seconds < 15, "not the ledger's wait of 20 s"
    assert broker.llen("one") == 98, "all that was published was removed, and nothing else"
    assert broker.llen("nobody") == broker.llen("two") == 0


def test_a_worker_that_has_a_free_process_and_does_not_run_it_fails(worker, send, broker, canary):
    idle = worker("w@a", "-c2", "-Qone").ready()
    app = Celery("control", broker=os.environ["TEST_BROKER"], set_as_current=False)
    app.control.rate_limit("health", "1/h", reply=True, timeout=0.5)
    app.close()
    send("health")
    until(lambda: not broker.llen("one"))
    result = canary("one", timeout=1)
    assert result["failed"] is True
    assert result["busy"] == []
    assert "w@a consumes that queue, has 2 of 2 processes free" in result["msg"]
    assert "verify_canary_timeout" in result["msg"]

    # A frozen one answers nothing, and so proves nothing.
    os.killpg(idle.process.pid, signal.SIGSTOP)
    frozen = canary("one", timeout=1, nodes=["w@a"])
    assert (frozen["failed"], frozen["busy"]) == (True, [])
    assert "no worker answered when the workers were asked" in frozen["msg"]


def test_a_batch_of_short_tasks_is_waited_out(worker, backlog, broker, canary, marks):
    backlog(200, 2.0)
    worker("w@a", "-c2", "-Qone").ready()
    until(lambda: len(marks()) >= 2)
    result = canary("one", timeout=15)
    assert (result["findings"], result["busy"]) == ([], [])
    assert result["queues"]["one"]["state"] == "SUCCESS"


def test_sentinels_before_a_backlog_and_of_no_consumer(worker, backlog, broker, ledger):
    """Regression: they lay behind the backlog, grew it, and cost all of the wait at the end."""
    backlog(3000, 0.02)
    worker("w@a", "-c1", "-Qone").ready()
    taken = []

    def rest() -> bool:
        """Whether the queue before which sentinels go got a second's more of them."""
        taken.append(time.monotonic())
        return taken[-1] > taken[0] + 1

    told, seconds = ledger("one", "nobody", enough=lambda: broker.llen("nobody") == 3 and rest())
    assert (told["lost"], told["twice"], told["refused"]) == (0, 0, 0)
    assert told["waiting"] == 3, "no more than three of the queue that nobody consumes"
    assert told["finished"] > 3
    assert seconds < 15, "not the ledger's wait of 20 s"
    assert broker.llen("nobody") == 0


def test_a_sentinel_that_is_nowhere_is_lost_after_the_wait(broker, ledger):
    told, seconds = ledger(
        "one", wait=2.0, enough=lambda: broker.llen("one") == 3 and broker.rpop("one")
    )
    assert (told["accepted"], told["lost"], told["waiting"]) == (3, 1, 2)
    assert seconds >= 2.0
    assert broker.llen("one") == 0
