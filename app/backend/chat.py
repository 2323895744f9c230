"""What the chat answers."""

from __future__ import annotations

from collections.abc import Sequence

from backend import extract
from backend.expansion import keywords
from backend.history import Message
from backend.passages import Passage

FEW = 2  # keywords: a message of so few may lean on the one before ("And in Busan?")


def question(message: str, history: Sequence[Message]) -> str:
    """What to search for: the message, and what it goes on from when it is short."""
    earlier = [said.content for said in history if said.role == "user"]
    if earlier and len(keywords(message)) <= FEW:
        return f"{message} {earlier[-1]}"
    return message


def reply(message: str, history: Sequence[Message], passages: Sequence[Passage]) -> str:
    """The answer to `message`: the passages' own sentences, nothing invented."""
    return extract.answer(question(message, history), passages)
