"""Tasks that were renamed: workers still take the messages of the release before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Task

from backend.celery_app import app


def task(name: str, *, former: str, **options: Any) -> Callable[[Callable[..., Any]], Task]:
    """Register a function as the task `name`, and under its `former` name with the same options.

    What the release before has queued is run under the former name. The next release drops it:
    then nothing sends it any more.
    """

    def register(function: Callable[..., Any]) -> Task:
        app.task(name=former, **options)(function)
        return app.task(name=name, **options)(function)

    return register
