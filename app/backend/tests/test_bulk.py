"""Many items at once; no worker runs here, so that the queue can be counted."""

from __future__ import annotations

from collections.abc import Callable

import httpx
from appstack import Stack
from redis import Redis

BULK = "/api/admin/bulk/regenerate-embeddings"


def test_ten_thousand_are_queued_in_one_round_trip(
    stack: Stack, admin: httpx.Client, make_items: Callable
) -> None:
    items = []
    for _ in range(10):
        items += make_items(*["x"] * 1000)
    redis = stack.redis.client(0)
    redis.delete("embeddings")
    before = reads(redis)
    try:
        answer = admin.post(BULK, json={"context_ids": items}, timeout=60)
        writes, events = (now - then for now, then in zip(reads(redis), before, strict=True))
        assert answer.status_code == 202, answer.text
        assert answer.json()["queued_count"] == len(set(answer.json()["task_ids"])) == 10_000
        assert writes == 10_000
        assert redis.llen("embeddings") == 10_000
        results = {f"celery-task-meta-{task}".encode() for task in answer.json()["task_ids"]}
        assert results.isdisjoint(redis.pubsub_channels())  # nobody subscribed to their results
        # A pipeline is read in pieces of 16 kB or less, about 1,000 of them; calls one by one are
        # 10,000 at the least.
        assert events < 5000, "Redis read its sockets more often than one pipeline makes it"
    finally:
        redis.delete("embeddings")


def reads(redis: Redis) -> tuple[int, int]:
    """Messages queued, and how often Redis read from a socket: what a round trip costs."""
    lpush = redis.info("commandstats").get("cmdstat_lpush", {"calls": 0})["calls"]
    return lpush, redis.info("stats")["total_reads_processed"]
