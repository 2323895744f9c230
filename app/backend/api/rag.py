"""Questions answered from what the items say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from backend import extract, rag_cache, retrieval
from backend.api.errors import errors
from backend.api.text import Said
from backend.expansion import normalise
from backend.limits import question as limited
from backend.metrics import CACHE_HITS, CACHE_MISSES, RAG_SECONDS
from backend.passages import Passage
from backend.settings import settings

router = APIRouter(tags=["rag"])


class Question(BaseModel):
    """What somebody wants to know."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "royal palaces in Seoul", "top_k": 5},
                {"query": "부산에서 가볼 만한 해변", "top_k": 3},
            ]
        }
    )

    query: Annotated[Said, Field(max_length=2000)]
    top_k: int = Field(default=5, ge=1, le=50)


class Source(BaseModel):
    """An item behind an answer; `score` is 1 when every variant found it first."""

    id: int
    title: str
    score: float


class Answer(BaseModel):
    """What was found: the variants that were asked, the items, and their best sentences."""

    query: str
    answer: str
    sources: list[Source]
    variants: list[str]
    cached: bool = False


def sources(passages: Iterable[Passage]) -> list[Source]:
    """Passages as clients see them."""
    return [Source(id=p.id, title=p.title, score=round(p.score, 4)) for p in passages]


LIMITED = Depends(limited("rag", settings().rag_per_minute))


@router.post("/rag/query", dependencies=[LIMITED], responses=errors(401, 429))
def query(question: Question) -> Answer:
    """Answer in sentences of the items found; from the cache while the data is the same."""
    with RAG_SECONDS.time():
        version = rag_cache.version()
        if version is None:
            CACHE_MISSES.inc()
            return _asked(question)
        place = rag_cache.key(normalise(question.query), question.top_k, version)
        if kept := _kept(place):
            CACHE_HITS.inc()
            return kept.model_copy(update={"query": question.query, "cached": True})
        CACHE_MISSES.inc()
        answer = _asked(question)
        rag_cache.put(place, answer.model_dump_json())
        return answer


def _asked(question: Question) -> Answer:
    found = retrieval.find(question.query, question.top_k)
    return Answer(
        query=question.query,
        answer=extract.answer(question.query, found.passages),
        sources=sources(found.passages),
        variants=found.variants,
    )


def _kept(place: str) -> Answer | None:
    try:
        text = rag_cache.get(place)
        return Answer.model_validate_json(text) if text is not None else None
    except ValidationError:  # not ours, or damaged
        return None
