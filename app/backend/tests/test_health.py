"""Health, readiness and metrics, with everything up and with something down."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from appstack import Stack
from testkit import Process, Redis, wait_until

BULK = "/api/admin/bulk/regenerate-embeddings"


def test_alive_says_the_release(guest: httpx.Client) -> None:
    assert guest.get("/health").json() == {"status": "ok", "release": "20261120t000000z-0badcafe"}


def test_ready(guest: httpx.Client) -> None:
    answer = guest.get("/ready")
    assert answer.status_code == 200, answer.text
    assert set(answer.json()["dependencies"]) == {"postgres", "redis", "qdrant"}


def test_a_worker_answers(guest: httpx.Client, worker: Process) -> None:
    answer = guest.get("/api/celery/health")
    assert answer.status_code == 200, answer.text
    assert answer.json()["worker"].endswith("@test")
    assert 0 < answer.json()["latency_ms"] < 5000


def test_no_worker_is_told(stack: Stack, own_redis: Redis) -> None:
    web = stack.web(CELERY_BROKER_URL=own_redis.url(0), CELERY_RESULT_BACKEND=own_redis.url(2))
    try:
        with web.client() as client:
            started = time.monotonic()
            answer = client.get("/api/celery/health")
            assert (answer.status_code, answer.json()["down"]) == (503, "worker")
            assert time.monotonic() - started < 5
            with ThreadPoolExecutor(6) as pool:  # many who ask are one question
                asked = [pool.submit(client.get, "/api/celery/health") for _ in range(6)]
            assert {answer.result().status_code for answer in asked} == {503}
            assert own_redis.client(0).llen("default") == 2
    finally:
        web.kill()


def test_a_broker_that_is_away_is_a_503_everywhere_and_heals(
    stack: Stack, admin: httpx.Client, own_redis: Redis
) -> None:
    web = stack.web(CELERY_BROKER_URL=own_redis.url(0), CELERY_RESULT_BACKEND=own_redis.url(2))
    item = admin.post("/api/admin/items", json=[{"title": "x", "content": "x"}]).json()[0]["id"]
    try:
        with web.client() as client:
            client.headers = admin.headers
            assert client.get("/api/task/abc").status_code == 200  # connected once
            own_redis.stop()
            started = time.monotonic()
            health = client.get("/api/celery/health")
            assert (health.status_code, health.json()["down"]) == (503, "broker")
            ready = client.get("/ready")
            assert (ready.status_code, ready.json()["down"]) == (503, ["redis"])
            assert client.get("/health").status_code == 200
            task = client.get("/api/task/abc")
            assert (task.status_code, task.headers["Retry-After"]) == (503, "5")
            queued = client.post(BULK, json={"context_ids": [item]})
            assert queued.status_code == 503, queued.text
            metrics = client.get("/metrics")
            assert metrics.status_code == 200
            assert "celery_queue_depth{" not in metrics.text
            assert time.monotonic() - started < 15
            own_redis.start()
            wait_until(lambda: client.get("/ready").status_code == 200, "ready again", 15)
            assert client.post(BULK, json={"context_ids": [item]}).json()["queued_count"] == 1
            assert 'celery_queue_depth{queue="embeddings"} 1.0' in client.get("/metrics").text
    finally:
        web.kill()


@pytest.mark.parametrize(
    ("setting", "name"), [("DATABASE_URL", "postgres"), ("QDRANT_URL", "qdrant")]
)
def test_what_is_down_is_named(stack: Stack, admin: httpx.Client, setting: str, name: str) -> None:
    item = admin.post("/api/admin/items", json=[{"title": "x", "content": "x"}]).json()[0]["id"]
    away = {
        "DATABASE_URL": "postgresql+psycopg://crisper@127.0.0.1:1/postgres",
        "QDRANT_URL": "http://127.0.0.1:1",
    }
    web = stack.web(**{setting: away[setting]})
    try:
        with web.client() as client:
            client.headers = admin.headers
            ready = client.get("/ready")
            assert (ready.status_code, ready.json()["down"]) == (503, [name])
            shown = client.get(f"/api/admin/items/{item}")
            assert shown.status_code == 503, shown.text
            assert "not available" in shown.json()["detail"]
            assert client.get("/health").status_code == 200
    finally:
        web.kill()


def test_metrics_count_routes_and_not_paths(guest: httpx.Client) -> None:
    for number in range(3):
        guest.get(f"/api/task/some-{number}")
    text = guest.get("/metrics").text
    assert 'route="/api/task/{task_id}"' in text
    assert "some-1" not in text
    assert "celery_unacked" in text
