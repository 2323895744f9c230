"""At Redis's limits nothing new comes in, and what was accepted ends; real processes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery
from redis.exceptions import OutOfMemoryError, ResponseError
from testkit import Redis, lines, wait_until

SHORT = {"CELERY_LEASE_SECONDS": "3"}


@pytest.mark.parametrize("prefix", ["", "mine:"])
def test_what_was_accepted_ends_at_the_limit_and_nothing_comes_in(
    client: Celery,
    redis_server: Redis,
    start_worker: Callable,
    at_limit: Callable,
    ledger: Path,
    prefix: str,
) -> None:
    client.conf.broker_transport_options = {"global_keyprefix": prefix}
    options = {**SHORT, "PREFIX": prefix}
    first = start_worker(**options).ready()
    sent = [client.send_task("note", (3, str(ledger)))]
    sent += [client.send_task("again", (0.1, 2, str(ledger)))]
    sent += [client.send_task("note", (0, str(ledger))) for _ in range(3)]
    wait_until(lambda: lines(ledger, "start"), "one runs", log=first.log)
    with at_limit(redis_server):
        with pytest.raises(OutOfMemoryError):
            redis_server.client().lpush("more", "x")
        # What it ran is taken over, by a worker that starts at the limit.
        first.kill()
        second = start_worker(concurrency=2, **options).ready()
        wait_until(lambda: len(lines(ledger, "end")) == 5, "all end", 40, second.log)
        assert sorted(lines(ledger, "end")) == sorted(task.id for task in sent)
        assert lines(ledger, "start").count(sent[1].id) == 3
        states = [f"celery-task-meta-{task.id}" for task in sent]
        # A task writes its end down before its result is stored.
        results = redis_server.client(1)
        wait_until(lambda: all(results.mget(states)), "all are stored", log=second.log)
        assert [json.loads(raw)["status"] for raw in results.mget(states)] == ["SUCCESS"] * 5
        held = [prefix + name for name in ("unacked", "unacked_lease", "unacked_started")]
        exists = redis_server.client().exists
        wait_until(lambda: exists(*held) == 0, "nothing is left", 10, second.log)
        with pytest.raises(Exception, match=r"OOM|maxmemory"):
            client.send_task("note", (0, str(ledger)), retry=False)
        assert second.healthy(age=3)
        assert second.process.poll() is None
    more = client.send_task("note", (0, str(ledger)))
    more.get(timeout=10)
    assert second.log.read_text().count("Traceback") == 0, second.log.read_text()


def test_what_was_accepted_ends_after_the_disk_was_full(
    client: Celery,
    redis_server: Redis,
    start_worker: Callable,
    full_disk: Callable,
    ledger: Path,
) -> None:
    worker = start_worker(CELERY_REPLACE_SECONDS="4", **SHORT).ready()
    sent = [client.send_task("note", (2, str(ledger))), client.send_task("note", (0, str(ledger)))]
    wait_until(lambda: lines(ledger, "start"), "one runs", log=worker.log)
    with full_disk(redis_server):
        with pytest.raises(ResponseError, match="MISCONF"):
            redis_server.client().lpush("more", "x")
        wait_until(lambda: lines(ledger, "end"), "it ends", log=worker.log)
        time.sleep(6)  # the full disk: longer than a lease, and than it takes to be replaced
    wait_until(lambda: len(lines(ledger, "end")) == 2, "both end", 30, worker.log)
    wait_until(lambda: {t.state for t in sent} == {"SUCCESS"}, "and say so", 30, worker.log)
    assert sorted(lines(ledger, "start")) == sorted(task.id for task in sent)
    assert worker.process.poll() is None
