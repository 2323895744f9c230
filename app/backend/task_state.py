"""What a task's stored state tells clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import states

from backend.celery_app import app as celery
from backend.revoking import REASON, marker

WORDS = {
    states.PENDING: "pending",
    states.RECEIVED: "pending",
    states.SUCCESS: "success",
    states.FAILURE: "failure",
    states.REVOKED: "revoked",
}
FINAL = ("success", "failure", "revoked")


def keys(task_id: str) -> list[str]:
    """The Redis keys that `describe` wants the values of."""
    return [celery.backend.get_key_for_task(task_id).decode(), marker(task_id)]


def describe(task_id: str, values: Sequence[bytes | None]) -> dict[str, Any]:
    """A task as clients see it.

    Args:
        task_id: its id.
        values: those of `keys`: the stored state, and the marker of a revoked task.

    Returns:
        ``{task_id, status}``; `status` is one of pending, progress, success, failure and revoked.
        With `stage` and `percentage` (0..100) while the task tells them, with `result` of a
        success, `error` of a failure. Celery cannot tell an unknown id from a waiting one.
    """
    stored, revoked = values
    if revoked:  # whatever the task still wrote before it noticed
        return {"task_id": task_id, "status": "revoked", "error": REASON}
    meta = celery.backend.decode_result(stored) if stored else {"status": states.PENDING}
    shown = {"task_id": task_id, "status": WORDS.get(meta["status"], "progress")}
    result = meta.get("result")
    if shown["status"] == "success":
        shown["result"] = result
    elif shown["status"] in FINAL:
        shown["error"] = str(result) or type(result).__name__
    elif meta["status"] == "PROGRESS" and isinstance(result, dict):
        # Nothing else of it: what STARTED holds is the worker's own business.
        shown |= {name: result[name] for name in ("stage", "percentage") if name in result}
    return shown
