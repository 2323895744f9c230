"""What a stop does to running tasks, measured by their effects; real workers, real Redis."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery
from testkit import Redis, lines, wait_until


@pytest.mark.parametrize("init", [(), ("tini", "--")], ids=["pid1", "docker-init"])
def test_a_short_task_is_waited_for(
    client: Celery, start_worker: Callable, ledger: Path, init: tuple[str, ...]
) -> None:
    # Docker's init is tini: it hands SIGTERM to its direct child.
    if init and shutil.which(init[0]) is None:
        pytest.skip("tini is not installed (it comes with docker.io)")
    worker = start_worker(under=init).ready()
    task = client.send_task("note", (3, str(ledger)))
    wait_until(lambda: lines(ledger, "start"), "the task runs", log=worker.log)
    worker.signal(signal.SIGTERM)
    wait_until(lambda: worker.state() == "draining", "draining is written", 2, worker.log)
    time.sleep(1.5)
    assert worker.healthy(age=1)  # old by now, but draining
    assert worker.wait(10) == 0
    assert lines(ledger, "end") == [task.id]
    assert lines(ledger, "start") == [task.id]


def test_an_idle_worker_leaves_at_once(client: Celery, start_worker: Callable) -> None:
    worker = start_worker().ready()
    started = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert time.monotonic() - started < 5


def test_at_the_deadline_the_task_goes_back_and_ends_elsewhere(
    client: Celery, redis_server: Redis, start_worker: Callable, ledger: Path
) -> None:
    worker = start_worker(drain=2).ready()
    task = client.send_task("note", (6, str(ledger)))
    waiting = client.send_task("note", (0, str(ledger)))
    wait_until(lambda: lines(ledger, "start"), "the task runs", log=worker.log)
    started = time.monotonic()
    worker.signal(signal.SIGTERM)
    worker.wait(15)
    assert 1.5 < time.monotonic() - started < 6, worker.log.read_text()
    assert lines(ledger, "end") == []
    # Both are in the queue, none is left to the visibility timeout.
    assert redis_server.client().llen("celery") == 2
    assert redis_server.client().hlen("unacked") == 0
    successor = start_worker().ready()
    wait_until(lambda: len(lines(ledger, "end")) == 2, "both end", 20, successor.log)
    assert sorted(lines(ledger, "end")) == sorted([task.id, waiting.id])
    assert lines(ledger, "start").count(task.id) == 2
    assert task.get(timeout=5) == "w1@test"
