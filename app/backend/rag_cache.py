"""Answers in Redis, good until the data changes; without Redis there are just none."""

from __future__ import annotations

import hashlib
import json
import logging
from functools import lru_cache

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from backend.settings import settings

log = logging.getLogger(__name__)
VERSION = "rag:version"
SECONDS = 0.5  # a cache that takes longer is slower than the search


@lru_cache
def _client() -> Redis:
    # The one retry is for a pooled connection that died with an earlier Redis.
    return Redis.from_url(
        settings().redis_url,
        socket_connect_timeout=SECONDS,
        socket_timeout=SECONDS,
        retry=Retry(NoBackoff(), 1),
        decode_responses=True,
    )


def version() -> str | None:
    """The version of the data now; None while the cache is away."""
    try:
        return _client().get(VERSION) or "0"
    except (RedisError, OSError) as error:
        log.warning("the cache is away: %s", error)
        return None


def key(query: str, top_k: int, data_version: str) -> str:
    """Where the answer to a normalised query lies; a release does not read another's answers."""
    where = [settings().release, settings().qdrant_collection]
    parts = json.dumps([*where, query, top_k, data_version])
    return f"rag:answer:{hashlib.sha256(parts.encode()).hexdigest()}"


def get(place: str) -> str | None:
    """What lies there; None when there is nothing, or the cache is away."""
    try:
        return _client().get(place)
    except (RedisError, OSError) as error:
        log.warning("the cache cannot be read: %s", error)
        return None


def put(place: str, answer: str) -> None:
    """Keep an answer for `rag_cache_seconds`, or not while the cache is away."""
    try:
        _client().set(place, answer, ex=settings().rag_cache_seconds)
    except (RedisError, OSError) as error:
        log.warning("the cache cannot be written: %s", error)


def bump() -> None:
    """The data changed: no earlier answer counts. Missed while Redis is away, answers expire."""
    try:
        _client().incr(VERSION)
    except (RedisError, OSError) as error:
        log.warning("cached answers stay until they expire: %s", error)
