"""What became of the tasks that old workers had not finished."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery.unfinished import with_outcomes
from ansible_collections.crisper.stack.plugins.module_utils.rollout.report import rollout_report

TASK = {"id": "t", "name": "work", "node": "w@old", "seconds": 90.0, "state": "running"}


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        ({"state": "SUCCESS"}, "finished"),
        ({"state": "FAILURE", "queue": "celery"}, "ended as FAILURE"),
        ({"state": "", "queue": "celery"}, "is back in its queue (celery)"),
        ({"node": "w@new", "held": True}, "runs again on w@new"),
        ({"held": True}, "is unacknowledged in Redis"),
        ({"state": "", "queue": "", "node": "", "held": False}, "left no trace: it is lost if"),
        ({}, "could not be looked for"),
        ("forged", "could not be looked for"),
        ({"node": "w\x1b[2J"}, "runs again on w"),
    ],
)
def test_each_is_told(trace: Any, words: str) -> None:
    (task,) = with_outcomes([TASK], {"t": trace} if isinstance(trace, dict) else {})
    assert task["outcome"].startswith(words)
    assert task["outcome"].isprintable()


def test_all_are_told_where_every_old_worker_was_overdue() -> None:
    """The summary had them only where a worker was drained, and said that all go back."""
    drained = {"drained": [], "unfinished": [TASK, {**TASK, "id": "u"}], "longest": 90.0}
    found = with_outcomes([TASK], {"t": {"state": "SUCCESS"}})
    report = rollout_report({"drained": drained, "unfinished": {"tasks": found}}, "b")
    assert [task["outcome"] for task in report["unfinished"]] == [
        *("finished", "could not be looked for"),
    ]
