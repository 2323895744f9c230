"""What workers did shows in the web process's /metrics."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

import httpx
import pytest
from appstack import Stack, children
from prometheus_client.parser import text_string_to_metric_families
from testkit import Process, Redis, wait_until

EMBED = "regenerate_embedding_task"
BULK = "/api/admin/bulk/regenerate-embeddings"


def values(client: httpx.Client, **labels: str) -> dict[str, float]:
    """Samples by name that have these labels; the histogram's buckets as ``name le``."""
    found = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if labels.items() <= sample.labels.items():
                found[f"{sample.name} {sample.labels.get('le', '')}".strip()] = sample.value
    return found


def runs(client: httpx.Client, state: str, task: str = EMBED) -> float:
    return values(client, task=task, state=state).get("celery_tasks_total", 0)


def test_runs_and_seconds_of_a_task(
    guest: httpx.Client,
    admin: httpx.Client,
    worker: Process,
    make_items: Callable,
    finish: Callable,
) -> None:
    before, seconds = runs(guest, "SUCCESS"), values(guest, task=EMBED)
    queued = admin.post(BULK, json={"context_ids": make_items("a", "b", "c")}).json()
    for task_id in queued["task_ids"]:
        finish(task_id)
    wait_until(lambda: runs(guest, "SUCCESS") == before + 3, "three runs are counted")
    after = values(guest, task=EMBED)
    for name in ("celery_task_seconds_count", "celery_task_seconds_bucket +Inf"):
        assert after[name] == seconds.get(name, 0) + 3
    assert after["celery_task_seconds_sum"] > seconds.get("celery_task_seconds_sum", 0)
    buckets = [value for name, value in after.items() if "_bucket" in name]
    assert buckets == sorted(buckets)


def test_retries_and_failures(
    stack: Stack, guest: httpx.Client, make_items: Callable, finish: Callable
) -> None:
    before = {state: runs(guest, state) for state in ("RETRY", "FAILURE")}
    lost = stack.worker("lost", QDRANT_URL="http://127.0.0.1:1")
    try:
        finish(stack.send(*make_items("Andong"), queue="lost"), 40)
        wait_until(lambda: runs(guest, "FAILURE") == before["FAILURE"] + 1, "one failure")
        assert runs(guest, "RETRY") == before["RETRY"] + 3
    finally:
        lost.kill()


def test_a_task_that_is_ended_from_outside_is_a_failure_once(
    stack: Stack, admin: httpx.Client, make_items: Callable, finish: Callable
) -> None:
    before = runs(admin, "FAILURE")
    (item,) = make_items("Gongju")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        slow = stack.worker(
            "slow",
            CELERY_TASK_SOFT_TIME_LIMIT="2",
            CELERY_TASK_TIME_LIMIT="3",
            QDRANT_URL=f"http://127.0.0.1:{silent.getsockname()[1]}",
        )
        try:
            task_id = stack.send(item, queue="slow")
            path = f"/api/admin/items/{item}"
            wait_until(lambda: admin.get(path).json()["status"] == "PROCESSING", "it runs")
            for child in children(slow):
                os.kill(child, signal.SIGSTOP)
            assert finish(task_id)["status"] == "failure"
            wait_until(lambda: runs(admin, "FAILURE") == before + 1, "one failure", log=slow.log)
        finally:
            slow.kill()


def test_a_task_does_not_need_the_counters(
    stack: Stack, admin: httpx.Client, make_items: Callable, finish: Callable
) -> None:
    (item,) = make_items("Buyeo")
    alone = stack.worker("alone", REDIS_URL="redis://127.0.0.1:1/1")
    try:
        assert finish(stack.send(item, "alone"))["status"] == "success"
        wait_until(lambda: "was not counted" in alone.log.read_text(), "it is logged")
    finally:
        alone.kill()


@pytest.mark.parametrize("frozen", [False, True])
def test_metrics_answer_without_redis(stack: Stack, own_redis: Redis, frozen: bool) -> None:
    web = stack.web(CELERY_BROKER_URL=own_redis.url(0), REDIS_URL=own_redis.url(1))
    try:
        with web.client() as client:
            client.get("/health")
            assert "celery_queue_depth" in client.get("/metrics").text
            if frozen:
                own_redis.process.send_signal(signal.SIGSTOP)
            else:
                own_redis.stop()
            answer = client.get("/metrics")
            assert answer.status_code == 200
            assert "celery_" not in answer.text
            assert "http_requests_total{" in answer.text
            if frozen:
                own_redis.process.send_signal(signal.SIGCONT)
            else:
                own_redis.start()
            wait_until(lambda: "celery_unacked" in client.get("/metrics").text, "it is back")
    finally:
        web.kill()
