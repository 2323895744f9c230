"""Messages and leases for tests that need a Redis and no worker."""

from __future__ import annotations

import json
import time
from typing import Any

import redis as redis_py
from crisper_worker.lease_store import LeaseStore
from crisper_worker.oom_bypass import OomBypassRedis
from testkit import APPLICATION, Redis


def message(task_id: str = "id", **headers: Any) -> dict[str, Any]:
    properties = {
        "delivery_tag": f"tag-{task_id}",
        "delivery_info": {"exchange": "", "routing_key": "q"},
    }
    return {"body": "W10=", "headers": {"id": task_id, **headers}, "properties": properties}


def store(server: Redis, holder: str = "me") -> LeaseStore:
    redis = OomBypassRedis(port=server.port, username="app", password=APPLICATION)
    return LeaseStore(redis, "p:", "unacked", "unacked_index", holder)


def leave_expired(redis: redis_py.Redis, tag: Any, raw: Any, holder: Any, score: float = 2) -> None:
    redis.hset("p:unacked", tag, raw)
    redis.zadd("p:unacked_index", {tag: time.time()})
    redis.zadd("p:unacked_lease", {tag: score})
    if holder is not None:
        redis.hset("p:unacked_holder", tag, holder)


def leave_valid(redis: redis_py.Redis) -> None:
    leave_expired(redis, "tag-valid", json.dumps([message("valid"), "", "q"]), "dead\nq")


def recovered(redis: redis_py.Redis) -> list[str]:
    return [json.loads(raw)["headers"]["id"] for raw in redis.lrange("q", 0, -1)]
