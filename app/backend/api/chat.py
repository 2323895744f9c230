"""Chat: answers from the items, and what was said before."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, HTTPException, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from backend import chat, history, retrieval
from backend.api.errors import errors
from backend.api.rag import Source, sources
from backend.api.text import Said
from backend.callers import Asking, Caller, Starting, may_read, new_id
from backend.history import Message
from backend.limits import question as limited
from backend.settings import settings

router = APIRouter(prefix="/chat", tags=["chat"])
REMEMBERED = 10  # messages that an answer may lean on
PASSAGES = 5
# As random UUIDs are written and no other way: one session has one name.
SessionId = Annotated[
    str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
]


class Turn(BaseModel):
    """What somebody says; without a session it begins one."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"message": "Which palaces are there in Seoul?"},
                {"message": "부산은요?", "session_id": "0c0ffee0-0000-4000-8000-000000000000"},
            ]
        }
    )

    message: Annotated[Said, Field(max_length=2000)]
    session_id: SessionId | None = None


class Reply(BaseModel):
    """The answer, and what it was made of."""

    session_id: str
    reply: str
    sources: list[Source]


class Line(BaseModel):
    """One message of a session."""

    model_config = ConfigDict(from_attributes=True)

    role: Literal["user", "assistant"]
    content: str
    sources: list[Source]
    created_at: datetime


class Session(BaseModel):
    """The last messages of a session, the oldest of them first."""

    session_id: str
    messages: list[Line]


@router.post(
    "",
    dependencies=[Depends(limited("chat", settings().chat_per_minute))],
    responses=errors(401, 404, 429),
)
def say(turn: Turn, who: Starting) -> Reply:
    """Answer, and keep both messages; 404 for a session that the caller did not begin."""
    session_id = turn.session_id or new_id(who.owners[0])
    said = _said(session_id, REMEMBERED, who) if turn.session_id else []
    found = retrieval.find(chat.question(turn.message, said), PASSAGES)
    answer = Reply(
        session_id=session_id,
        reply=chat.reply(turn.message, said, found.passages),
        sources=sources(found.passages),
    )
    shown = [source.model_dump() for source in answer.sources]
    turns = [Message("user", turn.message), Message("assistant", answer.reply, shown)]
    history.append(session_id, turns)
    return answer


@router.get(
    "/{session_id}",
    dependencies=[Depends(limited("history", 5 * settings().chat_per_minute))],
    responses=errors(401, 404, 429),
)
def show(
    session_id: Annotated[SessionId, Path()],
    who: Asking,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Session:
    """The last messages, for who began the session."""
    lines = [Line.model_validate(message) for message in _said(session_id, limit, who)]
    return Session(session_id=session_id, messages=lines)


def _said(session_id: str, limit: int, who: Caller) -> list[Message]:
    # Another's session is none: whether it is there is nobody else's business.
    said = history.last(session_id, limit) if may_read(session_id, who) else []
    if not said:
        raise HTTPException(404, f"There is no session {session_id}.")
    return said
