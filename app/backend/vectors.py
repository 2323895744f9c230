"""Vectors in Qdrant: one point per item, under the item's id."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from backend.embeddings import DIMENSIONS
from backend.settings import settings

TIMEOUT = 10  # seconds


@lru_cache
def client() -> QdrantClient:
    """The official client, REST."""
    key = settings().qdrant_api_key or None
    with warnings.catch_warnings():
        # "Api key is used with an insecure connection": inside the stack's internal network it is.
        warnings.simplefilter("ignore")
        return QdrantClient(
            url=settings().qdrant_url, api_key=key, timeout=TIMEOUT, check_compatibility=False
        )


def ensure_collection() -> None:
    """Create the collection unless it is there; two workers may try at once."""
    name = settings().qdrant_collection
    if client().collection_exists(name):
        return
    try:
        client().create_collection(
            name,
            vectors_config=models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE),
        )
    except UnexpectedResponse:
        if not client().collection_exists(name):
            raise


def store(item_id: int, vector: list[float], payload: dict[str, Any]) -> None:
    """Write the item's point; the same id again replaces it."""
    point = models.PointStruct(id=item_id, vector=vector, payload=payload)
    client().upsert(settings().qdrant_collection, points=[point], wait=True)


def remove(item_id: int) -> None:
    """Remove the item's point; none is no error."""
    try:
        client().delete(
            settings().qdrant_collection,
            points_selector=models.PointIdsList(points=[item_id]),
            wait=True,
        )
    except UnexpectedResponse as error:
        if error.status_code != 404:
            raise


def look_up(item_id: int) -> dict[str, Any] | None:
    """The item's point as ``{dimensions, payload}``; None when there is none."""
    name = settings().qdrant_collection
    if not client().collection_exists(name):
        return None
    found = client().retrieve(name, ids=[item_id], with_vectors=True, with_payload=True)
    if not found:
        return None
    vector = found[0].vector or []
    return {"dimensions": len(vector), "payload": found[0].payload}


def search(vector: list[float], limit: int) -> list[dict[str, Any]]:
    """The nearest items as ``{id, title, content, score}``, the best first.

    `score` is the cosine. No collection yet is no item.
    """
    try:
        found = client().query_points(
            settings().qdrant_collection, query=vector, limit=limit, with_payload=True
        )
    except UnexpectedResponse as error:
        if error.status_code == 404:
            return []
        raise
    return [
        {
            "id": int(point.id),
            "title": (point.payload or {}).get("title", ""),
            "content": (point.payload or {}).get("content", ""),
            "score": point.score,
        }
        for point in found.points
    ]
