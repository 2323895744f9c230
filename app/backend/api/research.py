"""Research: wait for the report, or follow the task."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from backend.api.errors import errors
from backend.callers import Caller, Starting, new_id
from backend.following import following
from backend.limits import check_research, count_research
from backend.queueing import UNWATCHED
from backend.settings import settings
from backend.tasks_research import run_research

router = APIRouter(prefix="/api/research", tags=["research"])
# Not blank, no NUL. Linear in time.
Query = Annotated[str, Field(max_length=2000, pattern=r"^[^\x00]*[^\s\x00][^\x00]*$")]


Constraint = Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")]


class ResearchQuestion(BaseModel):
    """What is to be researched, as one text."""

    query: Query


class Topic(BaseModel):
    """What is to be researched, and what the report has to keep to: a text, a list or by name."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"topic": "Royal palaces of Seoul", "constraints": {"days": 2, "budget": "low"}},
                {"topic": "Royal palaces of Seoul", "constraints": ["on foot", "with children"]},
            ]
        }
    )

    topic: Query
    constraints: Annotated[
        Constraint
        | Annotated[list[Constraint], Field(max_length=20)]
        | Annotated[dict[Constraint, Constraint | bool | int], Field(max_length=20)]
        | None,
        Field(union_mode="left_to_right"),
    ] = None

    @property
    def query(self) -> str:
        """The topic with its constraints behind it, as the task takes it."""
        match self.constraints:
            case None:
                return self.topic
            case str(text):
                parts = [text]
            case list(texts):
                parts = texts
            case named:
                parts = [f"{name}: {value}" for name, value in named.items()]
        told = "; ".join(filter(str.strip, parts))
        return f"{self.topic} ({told})" if told else self.topic


Subject = ResearchQuestion | Topic


class Report(BaseModel):
    """What came of it."""

    status: str
    report: str
    session_id: str
    query: str


class Unfinished(BaseModel):
    """Which task has no report, and why."""

    task_id: str
    error: str


class NoReport(BaseModel):
    """What a 502 and a 504 tell."""

    detail: Unfinished


class Started(BaseModel):
    """Where to ask for it: GET /api/task/{task_id}, and /events below it."""

    task_id: str
    status: Literal["processing"] = "processing"
    message: str


def _no_report(status: int, task_id: str, error: str) -> HTTPException:
    return HTTPException(status, Unfinished(task_id=task_id, error=error).model_dump())


def _queue(query: str, task_id: str) -> None:
    run_research.apply_async((query,), task_id=task_id, **UNWATCHED)


async def _start(query: str, task_id: str, who: Caller) -> None:
    async with count_research(who, task_id):
        await run_in_threadpool(_queue, query, task_id)


LIMITED = [Depends(check_research)]


@router.post(
    "",
    dependencies=LIMITED,
    responses={
        **errors(401, 429),
        502: {"model": NoReport, "description": "The task failed or was revoked."},
        504: {"model": NoReport, "description": "The task takes longer; it goes on."},
    },
)
async def research(question: Subject, who: Starting) -> Report:
    """The report. A 504 after RESEARCH_WAIT_SECONDS names the task, which goes on."""
    task_id = new_id(who.owners[0])
    ended: dict[str, Any] = {"status": "pending"}
    async with following(task_id, settings().research_wait_seconds, who) as states:
        await _start(question.query, task_id, who)
        async for state in states:
            ended = state
    match ended["status"]:
        case "success":
            return Report(**ended["result"])
        case "failure" | "revoked":
            raise _no_report(502, task_id, ended["error"])
    raise _no_report(504, task_id, f"It takes longer; ask GET /api/task/{task_id} for it.")


@router.post("/async", status_code=202, dependencies=LIMITED, responses=errors(401, 429))
async def start_research(question: Subject, who: Starting) -> Started:
    """Queue it and answer at once; only who started it may ask for it."""
    task_id = new_id(who.owners[0])
    await _start(question.query, task_id, who)
    return Started(
        task_id=task_id, message=f"The research is queued; ask GET /api/task/{task_id} for it."
    )
