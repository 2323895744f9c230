"""From an item to its vector: web, broker, worker, model, Qdrant and PostgreSQL, all real."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

import httpx
import pytest
from appstack import Stack, children
from testkit import Process, wait_until

BULK = "/api/admin/bulk/regenerate-embeddings"


def test_an_item_gets_its_vector(
    admin: httpx.Client, worker: Process, make_items: Callable, finish: Callable
) -> None:
    items = make_items("Gyeongbokgung", "남산타워")
    shown = admin.get(f"/api/admin/items/{items[0]}").json()
    assert (shown["status"], shown["vector"]) == ("PENDING", None)
    answer = admin.post(BULK, json={"context_ids": [*items, 2_000_000_000]})
    assert answer.status_code == 202
    queued = answer.json()
    assert (queued["queued_count"], queued["unknown_ids"]) == (2, [2_000_000_000])
    for task_id, item_id in zip(queued["task_ids"], items, strict=True):
        task = finish(task_id)
        assert task["status"] == "success", task
        assert task["result"] == {"item_id": item_id, "status": "COMPLETED"}
    shown = admin.get(f"/api/admin/items/{items[1]}").json()
    assert (shown["status"], shown["error"]) == ("COMPLETED", None)
    payload = {"title": "남산타워", "content": "What is known of 남산타워."}
    assert shown["vector"] == {"dimensions": 256, "payload": payload}


def test_twice_is_once(
    admin: httpx.Client, worker: Process, make_items: Callable, finish: Callable
) -> None:
    (item,) = make_items("Bukchon")
    for _ in range(2):
        queued = admin.post(BULK, json={"context_ids": [item, item]}).json()
        assert queued["queued_count"] == 1
        assert finish(queued["task_ids"][0])["status"] == "success"
    assert admin.get(f"/api/admin/items/{item}").json()["status"] == "COMPLETED"


def test_nothing_to_queue_is_no_error(admin: httpx.Client) -> None:
    former = admin.post(BULK, json={"item_ids": [2_000_000_000]}).json()
    assert former == {"queued_count": 0, "task_ids": [], "unknown_ids": [2_000_000_000]}
    answer = admin.post(BULK, json={"context_ids": []})
    assert answer.status_code == 202
    assert answer.json() == {"queued_count": 0, "task_ids": [], "unknown_ids": []}


def test_an_item_that_was_deleted_is_failed_and_logged(
    stack: Stack, worker: Process, finish: Callable
) -> None:
    task = stack.send(1_999_999_999)
    result = finish(task)["result"]
    assert result["status"] == "FAILED"
    assert "item 1999999999 does not exist" in worker.log.read_text()


def test_without_qdrant_it_is_retried_and_then_failed(
    stack: Stack, admin: httpx.Client, make_items: Callable, finish: Callable
) -> None:
    # Without a worker of this module's fixture on the queue: only the lost one takes the task.
    (item,) = make_items("Jeju")
    lost = stack.worker("lost", QDRANT_URL="http://127.0.0.1:1")
    try:
        task = finish(stack.send(item, "lost"), 40)
    finally:
        lost.kill()
    assert task["status"] == "failure"
    shown = admin.get(f"/api/admin/items/{item}").json()
    assert shown["status"] == "FAILED"
    assert "refused" in shown["error"]
    assert lost.log.read_text().count("Retry in") == 3


@pytest.mark.parametrize("frozen", [False, True])
def test_a_time_limit_ends_in_failed(
    stack: Stack, admin: httpx.Client, make_items: Callable, finish: Callable, frozen: bool
) -> None:
    (item,) = make_items("Suwon")

    def status() -> str:
        return admin.get(f"/api/admin/items/{item}").json()["status"]

    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, says nothing
        slow = stack.worker(
            "slow",
            QDRANT_URL=f"http://127.0.0.1:{silent.getsockname()[1]}",
            CELERY_TASK_SOFT_TIME_LIMIT="2",
            CELERY_TASK_TIME_LIMIT="4",
        )
        try:
            task_id = stack.send(item, "slow")
            wait_until(lambda: status() == "PROCESSING", "the task runs", log=slow.log)
            if frozen:  # it cannot see the soft limit: the worker's main process ends it
                for child in children(slow):
                    os.kill(child, signal.SIGSTOP)
            assert finish(task_id, 20)["status"] == "failure"
            wait_until(lambda: status() == "FAILED", "the item is FAILED", 5, slow.log)
            error = admin.get(f"/api/admin/items/{item}").json()["error"]
            assert error.startswith("TimeLimitExceeded" if frozen else "SoftTimeLimitExceeded")
        finally:
            slow.kill()
