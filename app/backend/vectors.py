"""Vectors in Qdrant: one point per item, under the item's id."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

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


class WrongSizeError(ValueError):
    """The collection was made for the vectors of another model."""


def _size() -> int | None:
    """Dimension of the collection's vectors; None without a collection."""
    try:
        vectors = client().get_collection(settings().qdrant_collection).config.params.vectors
    except UnexpectedResponse as error:
        if error.status_code == 404:
            return None
        raise
    return vectors.size if isinstance(vectors, models.VectorParams) else None


def _fits(size: int) -> bool:
    """Whether there is a collection; one of another size than `size` is an error."""
    found = _size()
    if found not in (None, size):
        raise WrongSizeError(
            f"The collection {settings().qdrant_collection!r} holds vectors of {found} floats, "
            f"the embedding model makes {size}: set another QDRANT_COLLECTION."
        )
    return found is not None


def ensure_collection(size: int) -> None:
    """Create the collection for vectors of `size` floats; two workers may try at once.

    Raises:
        WrongSizeError: it is there, for vectors of another size.
    """
    if _fits(size):
        return
    try:
        client().create_collection(
            settings().qdrant_collection,
            vectors_config=models.VectorParams(size=size, distance=models.Distance.COSINE),
        )
    except UnexpectedResponse:
        if not _fits(size):
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
    """The `limit` items nearest to `vector` as ``{id, title, content, score}``, best first.

    Scores are cosines, -1..1. Without a collection there is nothing to find.

    Raises:
        WrongSizeError: the collection is for vectors of another size.
    """
    try:
        found = client().query_points(
            settings().qdrant_collection,
            query=vector,
            limit=limit,
            with_payload=["title", "content"],
        )
    except UnexpectedResponse:
        # Asked only now: a search is one round trip.
        if not _fits(len(vector)):
            return []
        raise
    return [
        {"id": point.id, "title": "", "content": "", **(point.payload or {}), "score": point.score}
        for point in found.points
    ]
