"""Findings over Celery's workers: what is not as expected, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..text import clean

# Findings that are printed and returned, and names in one of them.
MOST_FINDINGS, MOST_NAMES = 50, 10
# Characters of a finding's sentence, in which several names may stand.
FINDING_WIDTH = 1000
REMEDIES = {
    "no_worker_answered": "Start the workers, or see why they do not consume: docker compose logs.",
    "broker_unreachable": "Look at Redis: is it running, and is its password the worker's?",
    "container_not_running": "Start it: docker compose up --detach.",
    "app_not_importable": "The image or its environment is broken; run the import by hand.",
    "malformed_reply": "Does the worker run the Celery version this repository pins?",
    "docker_unavailable": "Start the engine, and let this user reach it.",
    "node_silent": "Look at that container: docker compose ps, docker compose logs.",
    "foreign_node": "Stop that worker: it takes this release's tasks with another release's code.",
    "duplicate_node": "Two workers have one name: stop one, they cannot be told apart.",
    "wrong_count": "Compare celery_workers[].replicas with the containers that run.",
    "wrong_queues": "Compare celery_workers[].queues with what the worker was started with.",
    "wrong_concurrency": "Compare celery_workers[].concurrency with the worker's command.",
    "wrong_pool": "Compare celery_workers[].pool with the worker's command.",
    "wrong_max_tasks": "Compare celery_workers[].max_tasks_per_child with the worker's command.",
    "unregistered_task": "The task's module is not imported by the worker: include=, autodiscover.",
    "wrong_time_limits": "Compare celery_task_time_limit and celery_task_soft_time_limit.",
    "unreadable_data": (
        "Something writes into Redis that is not Celery's: stop the old workers, replace"
        " redis_password in stack_secrets, and remove the key that the message names with the"
        " command of docs/CHECKLIST.md. Workers without crisper-worker (plain Celery) end when they"
        " read such data: start them again afterwards."
    ),
    "wrong_serializers": "Set accept_content and task_serializer in the Celery application.",
}


@dataclass(frozen=True)
class Finding:
    """Thing that is not as expected."""

    code: str
    message: str
    node: str = ""
    expected: Any = None
    actual: Any = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data with the remedy; texts are such as a terminal can show."""
        return {**clean(asdict(self), width=FINDING_WIDTH), "remedy": REMEDIES[self.code]}


def main_problem(findings: Iterable[Finding]) -> str:
    """Return the kind of trouble in one word: what an operator must look at first."""
    codes = Counter(finding.code for finding in findings)
    if not codes:
        return ""
    for code, problem in (
        ("no_worker_answered", "no_worker_answered"),
        ("malformed_reply", "malformed_reply"),
        ("node_silent", "nodes_silent"),
    ):
        if codes[code]:
            return problem
    return "expectations_not_met"


def describe_findings(findings: Iterable[Mapping[str, Any]]) -> str:
    """Return all findings as one text, numbered, each with its remedy."""
    findings = list(findings)
    lines = [f"{n}. {f['message']} {f['remedy']}" for n, f in enumerate(findings, 1)]
    more = len(lines) - MOST_FINDINGS
    return "\n".join(lines[:MOST_FINDINGS] + ([f"And {more} more findings."] if more > 0 else []))
