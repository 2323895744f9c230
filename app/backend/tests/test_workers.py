"""The overview of workers and queues."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import httpx
from appstack import Stack
from testkit import Redis, wait_until

WORKERS = "/api/admin/workers"


def test_workers_their_tasks_and_the_queues(
    stack: Stack, admin: httpx.Client, make_items: Callable
) -> None:
    stack.redis.client(0).delete("embeddings")
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the first task waits for it
        busy = stack.worker("embeddings", QDRANT_URL=f"http://127.0.0.1:{silent.getsockname()[1]}")
        idle = stack.worker("default")
        try:
            for item in make_items(*"abcdef"):
                stack.send(item)

            def shown() -> dict | None:
                answer = admin.get(WORKERS)
                assert answer.status_code == 200, answer.text
                found = answer.json()
                known = {tuple(worker["queues"]): worker for worker in found["workers"]}
                if known[("embeddings",)]["active"] != 1:
                    return None
                return found | {"known": known}

            found = wait_until(shown, "one worker runs a task", log=busy.log)
        finally:
            busy.kill()
            idle.kill()
            stack.redis.client(0).delete("embeddings")
    working, waiting = found["known"][("embeddings",)], found["known"][("default",)]
    assert working["name"].endswith("@test")
    assert working["pool"] == {"kind": "prefork", "size": 1}
    assert (waiting["active"], waiting["reserved"]) == (0, 0)
    queues = {queue["name"]: queue["waiting"] for queue in found["queues"]}
    assert queues["default"] == 0
    # Every task is somewhere: it runs, or was taken and has not begun, or waits.
    assert queues["embeddings"] + working["reserved"] + working["active"] == 6
    assert found["unacked"] >= 1


def test_nobody_works(admin: httpx.Client) -> None:
    answer = admin.get(WORKERS)
    assert (answer.status_code, answer.json()["workers"]) == (200, [])


def test_only_for_admins(guest: httpx.Client) -> None:
    assert guest.get(WORKERS).status_code == 401


def test_a_broker_that_is_away_is_named(
    stack: Stack, admin: httpx.Client, own_redis: Redis
) -> None:
    web = stack.web(CELERY_BROKER_URL=own_redis.url(0))
    try:
        with web.client() as client:
            client.headers = admin.headers
            assert client.get(WORKERS).status_code == 200
            own_redis.stop()
            started = time.monotonic()
            answer = client.get(WORKERS)
            assert answer.status_code == 503
            assert "broker" in answer.json()["detail"]
            assert time.monotonic() - started < 6
    finally:
        web.kill()
