"""The heartbeat tells a consumer that runs from one that does not; real workers, real Redis."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery
from testkit import Redis, wait_until


def test_fresh_while_busy(client: Celery, start_worker: Callable, ledger: Path) -> None:
    worker = start_worker().ready()
    for _ in range(4):
        client.send_task("note", (1, str(ledger)))
    wait_until(ledger.exists, "a task runs", log=worker.log)
    for _ in range(6):
        assert worker.healthy(age=3)
        assert worker.state() == "ok"
        time.sleep(0.5)


def test_stale_when_stopped_and_fresh_again(client: Celery, start_worker: Callable) -> None:
    worker = start_worker().ready()
    worker.signal(signal.SIGSTOP)
    wait_until(lambda: not worker.healthy(age=2), "unhealthy after SIGSTOP", 8)
    assert worker.state() == "ok"  # it could not know: the age tells
    worker.signal(signal.SIGCONT)
    wait_until(lambda: worker.healthy(age=1), "healthy after SIGCONT", 5)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("lose_consumer", "no heartbeat: not consumed: celery"),
        ("stop_asking", "no heartbeat: no message was asked for in a while"),
    ],
)
def test_stale_when_it_no_longer_consumes(
    client: Celery, start_worker: Callable, fault: str, said: str
) -> None:
    worker = start_worker().ready()
    client.control.broadcast(fault)
    wait_until(lambda: not worker.healthy(age=3), "unhealthy though connected", 40, worker.log)
    assert client.control.inspect(timeout=3).ping() == {"w0@test": {"ok": "pong"}}
    assert worker.log.read_text().count(said) == 1


def test_healthy_when_it_was_told_to_consume_nothing(
    client: Celery, start_worker: Callable
) -> None:
    worker = start_worker().ready()
    assert client.control.cancel_consumer("celery", reply=True)
    began = worker.heartbeat.read_text()
    wait_until(lambda: worker.heartbeat.read_text() != began, "it goes on beating", 5, worker.log)
    assert worker.state() == "ok"


def test_broker_down_is_said_grows_stale_and_recovers(
    client: Celery, start_worker: Callable, tmp_path: Path
) -> None:
    (tmp_path / "redis").mkdir()
    own = Redis(tmp_path / "redis")
    own.start()
    try:
        worker = start_worker(broker=own.url()).ready()
        own.stop()
        wait_until(
            lambda: worker.state() == "broker-down", "broker-down is written", log=worker.log
        )
        wait_until(lambda: not worker.healthy(age=2), "unhealthy without a broker", 8)
        own.start()
        wait_until(lambda: worker.state() == "ok", "ok again", 30, worker.log)
        assert worker.healthy(age=3)
    finally:
        own.stop()


def test_no_heartbeat_before_the_first_connection(start_worker: Callable) -> None:
    worker = start_worker(broker="redis://127.0.0.1:1/0")
    wait_until(lambda: "Cannot connect" in worker.log.read_text(), "it tries", log=worker.log)
    assert not worker.heartbeat.exists()
    assert not worker.healthy()


def test_a_heartbeat_that_cannot_be_written_stops_no_work(
    client: Celery, start_worker: Callable, ledger: Path, tmp_path: Path
) -> None:
    (tmp_path / "w0.heartbeat").mkdir()  # a folder in its place: every write fails
    worker = start_worker()
    client.send_task("note", (0, str(ledger)))
    wait_until(lambda: ledger.exists() and "end" in ledger.read_text(), "it works", log=worker.log)
    assert "could not be written" in worker.log.read_text()
