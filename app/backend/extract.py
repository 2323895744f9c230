"""Short answers made of sentences that were found: nothing in them is invented."""

from __future__ import annotations

import re
from collections.abc import Sequence

from backend.expansion import is_korean, terms
from backend.passages import Passage

PASSAGES = 3  # that an answer quotes at most
LONGEST = 300  # characters of a sentence
END = re.compile(r"(?<=[.!?。])\s+|\n+")
NOTHING = {
    True: "이 질문에 대해 아는 것이 아직 없습니다.",
    False: "Nothing is known about this yet.",
}
CLOSEST = {
    True: "꼭 맞는 것은 찾지 못했고, 가장 가까운 것은 다음과 같습니다.",
    False: "Nothing matches exactly; the closest is:",
}


def answer(query: str, passages: Sequence[Passage]) -> str:
    """The best sentences of the first passages, in the language of the query where there are any.

    Says so when there are no passages, and when none of them has a word of the query.
    """
    korean = is_korean(query)
    if not passages:
        return NOTHING[korean]
    words = terms(query)
    quoted = [(passage, *best(words, passage, korean)) for passage in passages[:PASSAGES]]
    matching = [f"{passage.title}: {sentence}" for passage, sentence, hits in quoted if hits]
    if matching:
        return "\n".join(matching)
    passage, sentence, _ = quoted[0]
    return f"{CLOSEST[korean]} {passage.title}: {sentence}"


def best(words: Sequence[str], passage: Passage, korean: bool) -> tuple[str, int]:
    """The sentence of the passage that has most of `words`, and how many the passage has."""
    whole = f"{passage.title}\n{passage.content}".casefold()
    said = [part.strip() for part in END.split(passage.content) if part.strip()]
    in_language = [part for part in said if is_korean(part) == korean] or said or [passage.title]
    chosen = max(in_language, key=lambda part: _hits(words, part.casefold()))
    return _shortened(chosen), _hits(words, whole)


def _hits(words: Sequence[str], text: str) -> int:
    return sum(word in text for word in words)


def _shortened(sentence: str) -> str:
    return sentence if len(sentence) <= LONGEST else sentence[: LONGEST - 1] + "…"
