"""Redis at its memory limit: what comes in is refused in words, what was accepted ends."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from appstack import Stack
from testkit import Redis, wait_until

BULK = "/api/admin/bulk/regenerate-embeddings"
FULL = "The broker is full, and nothing was queued; try again later."


def test_a_full_broker_refuses_and_loses_nothing(
    stack: Stack, admin: httpx.Client, make_items: Callable, own_redis: Redis
) -> None:
    servers = {
        "CELERY_BROKER_URL": own_redis.url(0),
        "REDIS_URL": own_redis.url(1),
        "CELERY_RESULT_BACKEND": own_redis.url(2),
    }
    web, processes = stack.web(**servers), []
    accepted, refused = make_items("one", "two"), make_items(*["x"] * 500)
    try:
        with web.client() as client:
            client.headers = admin.headers

            def status(item: int) -> str:
                return client.get(f"/api/admin/items/{item}").json()["status"]

            queued = client.post(BULK, json={"context_ids": accepted})
            assert queued.status_code == 202, queued.text
            before = {item: client.get(f"/api/admin/items/{item}").json() for item in refused[:3]}
            redis = own_redis.client(0)
            # Room for some of the 500, and not for all.
            room = redis.info("memory")["used_memory"] + 100_000
            redis.config_set("maxmemory", str(room))
            some = client.post(BULK, json={"context_ids": refused})
            assert (some.status_code, some.json()) == (503, {"detail": FULL})
            assert redis.llen("embeddings") == 2
            redis.config_set("maxmemory", "1")
            for path, body in [
                (BULK, {"context_ids": refused}),
                ("/api/research/async", {"query": "palaces"}),
                ("/api/research", {"query": "palaces"}),
            ]:
                answer = client.post(path, json=body)
                assert (answer.status_code, answer.json()) == (503, {"detail": FULL}), path
                assert int(answer.headers["Retry-After"]) > 0
            assert redis.llen("embeddings") == 2
            assert redis.llen("research") == 0
            for item, shown in before.items():
                assert client.get(f"/api/admin/items/{item}").json() == shown
            assert client.get("/health").status_code == 200
            # A worker that starts now ends what was accepted.
            processes.append(stack.worker(**servers))
            wait_until(
                lambda: [status(item) for item in accepted] == ["COMPLETED"] * 2,
                "what was accepted ends at the limit",
                log=processes[0].log,
            )
            for task in queued.json()["task_ids"]:
                wait_until(
                    lambda t=task: client.get(f"/api/task/{t}").json()["status"] == "success",
                    "its result is stored at the limit",
                )
            redis.config_set("maxmemory", "0")
            assert client.post(BULK, json={"context_ids": refused[:3]}).status_code == 202
            wait_until(
                lambda: [status(item) for item in refused[:3]] == ["COMPLETED"] * 3,
                "what comes after ends",
                log=processes[0].log,
            )
    finally:
        for process in (web, *processes):
            process.kill()
