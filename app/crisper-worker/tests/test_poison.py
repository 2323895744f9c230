"""A task that kills whoever runs it is set aside, listed, requeued and dropped; real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery
from celery.exceptions import TimeoutError as NotYet
from crisper_worker.messages import Delivery
from crisper_worker.poison import failure, judged
from hypothesis import given
from hypothesis import strategies as st
from testkit import Redis, lines, wait_until

HERE = Path(__file__).parent
SOURCES = HERE.parent / "src"
QUICK = {"CELERY_LEASE_SECONDS": "2", "CELERY_MAX_DELIVERIES": "2"}


@pytest.fixture
def aside(redis_server: Redis) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, broker: str = "") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "RESULTS": redis_server.url(1)}
        environment["BROKER"] = broker or redis_server.url(0)
        environment["PYTHONPATH"] = str(HERE)
        command = [sys.executable, str(SOURCES), "aside", "--app", "sample", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run


def test_set_aside_listed_requeued_and_dropped(
    client: Celery, redis_server: Redis, start_worker: Callable, ledger: Path, aside: Callable
) -> None:
    worker = start_worker(**QUICK).ready()
    # It dies twice and is set aside; after that it would not die any more.
    curable = client.send_task("die", (2, False, str(ledger)))
    poison = client.send_task("die", (9, False, str(ledger)))
    innocent = client.send_task("note", (0, str(ledger)))
    innocent.get(timeout=30)
    for task in (curable, poison):
        wait_until(lambda: task.state == "FAILURE", "it has failed", 20, worker.log)  # noqa: B023
    assert lines(ledger, "start").count(poison.id) == 2
    error = str(poison.result)
    assert "set aside" in error
    assert "died 2 times" in error
    assert "SIGKILL" in error
    assert redis_server.client().llen("celery") == redis_server.client().hlen("unacked") == 0

    shown = aside("list")
    assert shown.returncode == 0, shown.stderr
    assert [line.split()[0] for line in shown.stdout.splitlines()] == [curable.id, poison.id]
    assert "queue celery" in shown.stdout
    assert "died 2 times" in shown.stdout
    assert [entry["task"] for entry in json.loads(aside("list", "--json").stdout)] == ["die"] * 2

    assert aside("requeue", curable.id).returncode == 0
    client.backend._cache.clear()  # it remembers the failure, as `curable` does
    client.AsyncResult(curable.id).get(timeout=20)
    assert lines(ledger, "end").count(curable.id) == 1
    assert aside("drop", poison.id).returncode == 0
    assert aside("list").stdout == ""
    for hostile in ("--all", "--app=x"):
        redis_server.client().hset("unacked_aside", hostile, "x")
        assert aside("drop", "--", hostile).returncode == 0
    gone = aside("drop", poison.id)
    assert gone.returncode == 1
    assert f"{poison.id} is not set aside" in gone.stderr
    assert worker.process.poll() is None
    assert redis_server.client().keys("unacked*") == []


def test_poison_that_kills_the_whole_worker(
    client: Celery, redis_server: Redis, start_worker: Callable, ledger: Path, aside: Callable
) -> None:
    poison = client.send_task("die", (9, True, str(ledger)))
    waiting = client.send_task("note", (0, str(ledger)), countdown=3600)
    worker = None
    for death in (1, 2):
        # As Docker would: it is started again each time.
        worker = start_worker(concurrency=2, **QUICK)
        worker.wait(30)
        assert lines(ledger, "start") == [poison.id] * death
    worker = start_worker(concurrency=2, **QUICK)
    wait_until(lambda: poison.state == "FAILURE", "it has failed", 30, worker.log)
    after = client.send_task("note", (0, str(ledger)))
    after.get(timeout=20)
    assert lines(ledger, "start") == [poison.id, poison.id, after.id]
    assert "its worker" in str(poison.result)
    # What was held and not started by the workers that died is nobody's poison.
    entries = json.loads(aside("list", "--json").stdout)
    assert [entry["task_id"] for entry in entries] == [poison.id]
    with pytest.raises(NotYet):
        waiting.get(timeout=0.1)
    assert redis_server.client().get(f"unacked_deaths:{waiting.id}") is None


def test_a_broker_without_leases_has_no_dead_letters(aside: Callable) -> None:
    listing = aside("list", "--json", broker="memory://")
    assert (listing.returncode, listing.stdout) == (0, "[]\n")


@pytest.mark.parametrize(
    ("action", "broker", "said"),
    [
        (["list"], "redis://127.0.0.1:1/0", "Redis does not answer: "),
        (["drop", "x"], "memory://", "the broker of sample is memory; only Redis is known"),
    ],
)
def test_no_redis_is_one_clear_line(
    aside: Callable, action: list[str], broker: str, said: str
) -> None:
    run = aside(*action, broker=broker)
    assert run.returncode == 1
    assert run.stderr.startswith(said)
    assert run.stderr.count("\n") == 1


held = st.builds(
    Delivery,
    tag=st.text(min_size=1),
    message=st.fixed_dictionaries(
        {"headers": st.fixed_dictionaries({"id": st.uuids().map(str), "task": st.text()})}
    ),
    source=st.text(),
    holder=st.text(),
)


@given(held, st.integers(0, 20), st.integers(0, 20))
def test_judged_by_the_number_of_deaths(message: Delivery, deaths: int, limit: int) -> None:
    entry = judged(message, deaths, limit, "why")
    assert (entry is not None) == (limit > 0 and deaths >= limit)
    if entry is not None:
        assert (entry.task_id, entry.source) == (message.task_id, message.source)
        assert message.task_id in str(failure(entry))
        assert "why" in str(failure(entry))
