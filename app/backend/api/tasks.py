"""What became of a task."""

from __future__ import annotations

from typing import Annotated, Any

from celery import states
from celery.result import AsyncResult
from fastapi import APIRouter, Path

from backend.celery_app import app as celery

router = APIRouter(prefix="/api/task", tags=["tasks"])
WORDS = {
    states.PENDING: "pending",
    states.RECEIVED: "pending",
    states.STARTED: "progress",
    states.RETRY: "progress",
    "PROGRESS": "progress",
    states.SUCCESS: "success",
    states.FAILURE: "failure",
    states.REVOKED: "revoked",
}


@router.get("/{task_id}")
def show_task(task_id: Annotated[str, Path(pattern=r"^[A-Za-z0-9-]{1,64}$")]) -> dict[str, Any]:
    """State, and the result or the error. Celery cannot tell an unknown id from a waiting one."""
    result = AsyncResult(task_id, app=celery)
    meta = celery.backend.get_task_meta(task_id)
    state = WORDS.get(meta["status"], "progress")
    shown: dict[str, Any] = {"task_id": task_id, "status": state}
    if state == "success":
        shown["result"] = meta["result"]
    elif state in ("failure", "revoked"):
        shown["error"] = str(result.result)
    elif state == "progress" and isinstance(meta["result"], dict):
        shown["progress"] = meta["result"]
    return shown
