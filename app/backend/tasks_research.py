"""The research task."""

from __future__ import annotations

from typing import Any

from celery import Task
from celery.utils.time import get_exponential_backoff_interval

from backend.former_names import task
from backend.settings import settings
from backend.tasks import PASSING, is_time_up, told


class ResearchError(RuntimeError):
    """Why there is no report."""


@task(
    name="tasks.run_research",
    former="run_research",
    bind=True,
    max_retries=3,
    soft_time_limit=settings().research_seconds,
    # For a process that is too stuck to notice the soft limit.
    time_limit=settings().research_seconds + 30,
)
def run_research(self: Task, query: str) -> dict[str, Any]:
    """Research a query; PROGRESS tells `stage` and `percentage` before each step.

    Returns:
        ``{status, report, session_id, query}``; the report is markdown, the session the task.

    Raises:
        ResearchError: the time was up, passing trouble outlasted the retries, or it is final.
    """

    def tell(stage: str, percentage: int) -> None:
        self.update_state(state="PROGRESS", meta={"stage": stage, "percentage": percentage})

    try:
        from backend.research import report  # costs seconds, and the web process never needs it

        made = report(query, tell)
    except Exception as caught:
        if is_time_up(caught):
            limit = settings().research_seconds
            raise ResearchError(f"The research took longer than {limit} s.") from caught
        error = ResearchError(told(caught))
        if not isinstance(caught, PASSING):
            raise error from caught
        wait = get_exponential_backoff_interval(2, self.request.retries, 60, full_jitter=True)
        raise self.retry(exc=error, countdown=wait) from caught
    return {"status": "completed", "report": made, "session_id": self.request.id, "query": query}
