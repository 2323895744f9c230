"""From questions to passages: expanded, embedded and searched in parallel, merged."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from backend import embeddings, vectors
from backend.expansion import expand
from backend.passages import Passage, fuse
from backend.settings import settings

DEPTH = 10  # of a ranking at least: fusion lives on what several rankings have in common


@dataclass(frozen=True)
class Found:
    """The variants that were asked, and what they found, the best first."""

    variants: list[str]
    passages: list[Passage]


@lru_cache
def _pool() -> ThreadPoolExecutor:
    """One for the whole process, so that many requests at once do not mean threads without end."""
    return ThreadPoolExecutor(settings().rag_threads, thread_name_prefix="rag")


def find(query: str, limit: int) -> Found:
    """At most `limit` passages for a query that is not blank; errors of Qdrant's client pass."""
    return find_many([query], limit)[0]


def find_many(queries: Sequence[str], limit: int) -> list[Found]:
    """`find` for several queries, all their variants at once."""
    expanded = [expand(query) for query in queries]
    depth = max(limit, DEPTH)
    asked = [[_pool().submit(_search, text, depth) for text in texts] for texts in expanded]
    try:
        rankings = [[future.result() for future in futures] for futures in asked]
    finally:
        # After an error nobody waits for the rest.
        for futures in asked:
            for future in futures:
                future.cancel()
    return [
        Found(texts, fuse(ranked)[:limit]) for texts, ranked in zip(expanded, rankings, strict=True)
    ]


def _search(text: str, limit: int) -> list[dict[str, Any]]:
    return vectors.search(embeddings.embed([text])[0], limit)
