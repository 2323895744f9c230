"""A FastAPI example as people write it: Celery's own defaults, one file, no word of a deployment.

    uvicorn main:api            celery -A main worker

Its names of variables are its own (BROKER_URL, RESULTS_URL); nothing in it reads CELERY_BROKER_URL.
"""

from __future__ import annotations

import os
import time

from celery import Celery
from fastapi import FastAPI

BROKER = os.environ.get("BROKER_URL", "redis://localhost:6379/0")

celery = Celery("fresh", broker=BROKER, backend=os.environ.get("RESULTS_URL", BROKER))
api = FastAPI()


@celery.task
def add(x: int, y: int) -> int:
    """Return the sum."""
    return x + y


@celery.task
def wait(seconds: float) -> float:
    """Last for so long."""
    time.sleep(seconds)
    return seconds


@api.get("/health")
def health() -> dict[str, str]:
    """Answer."""
    return {"status": "ok", "release": os.environ.get("RELEASE", "")}


@api.post("/add")
def start(x: int, y: int) -> dict[str, str]:
    """Send a task."""
    return {"task_id": add.delay(x, y).id}


@api.get("/tasks/{task_id}")
def outcome(task_id: str) -> dict[str, object]:
    """Return the state of a task and its result."""
    found = celery.AsyncResult(task_id)
    return {"state": found.state, "result": found.result if found.successful() else None}
