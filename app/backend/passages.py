"""What a search finds, and how the rankings of several searches become one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

K = 60  # of the paper on reciprocal rank fusion: how little the first ranks count above the next


@dataclass(frozen=True)
class Passage:
    """An item that was found; `score` between 0 and 1, where 1 is first in every ranking."""

    id: int
    title: str
    content: str
    score: float


def fuse(rankings: Iterable[Sequence[dict[str, Any]]]) -> list[Passage]:
    """Reciprocal rank fusion of rankings, each the best first, with `id`, `title` and `content`.

    Each id once, the best first; of equals the lower id, so that the order is always the same.
    """
    rankings = list(rankings)
    found: dict[int, dict[str, Any]] = {}
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, hit in enumerate({hit["id"]: hit for hit in ranking}.values()):
            found.setdefault(hit["id"], hit)
            scores[hit["id"]] = scores.get(hit["id"], 0.0) + (K + 1) / (K + 1 + rank)
    best = sorted(found, key=lambda key: (-scores[key], key))
    return [
        Passage(key, found[key]["title"], found[key]["content"], scores[key] / len(rankings))
        for key in best
    ]
