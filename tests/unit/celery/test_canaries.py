"""Judging canaries: tasks that went through the queues, and why one is not back."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery.busy import Verdict
from ansible_collections.crisper.stack.plugins.module_utils.celery.canaries import (
    busy_canaries,
    judge_canaries,
    report_canaries,
)
from hypothesis import given
from hypothesis import strategies as st

BACK = {"task_id": "1", "state": "SUCCESS", "seconds": 0.1, "result": {"worker": "a@h"}}
LOST = {"task_id": "2", "state": "PENDING", "seconds": None, "result": None}
WHY = Verdict("", ["a@h"], 2, 1, ["nap"], 50.0).as_dict() | {"waited": 30.0}
TEXT = "busy: 2 of 2 processes run nap, oldest 50 s; canary not waited for"
WAITED = {**LOST, "state": "BUSY", "why": {**WHY, "kind": "BUSY", "active": 2, "text": TEXT}}


def absent(kind: str, **why: Any) -> dict[str, Any]:
    """A canary that is not back, for that reason."""
    return {**LOST, "why": {**WHY, "kind": kind, **why}}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (BACK, []),
        ({**BACK, "result": "pong"}, []),  # a canary that does not tell its worker
        ({**BACK, "result": {"worker": "old@h"}}, ["old@h"]),
        (LOST, ["did not come back"]),
        ({**LOST, "state": "STARTED"}, ["did not come back"]),
        ({**LOST, "state": "FAILURE", "result": "ValueError: no"}, ["ValueError: no"]),
        ({**LOST, "state": "UNROUTABLE", "result": "QueueNotFound"}, ["QueueNotFound"]),
        (WAITED, []),
        (
            absent("unconsumed", nodes=[]),
            ["queue default did not come back within 30 s", "no worker", "celery_workers"],
        ),
        (
            absent("free"),
            ["a@h", "1 of 2 processes free", "did not take it", "verify_canary_timeout"],
        ),
        (absent("free", taken=True), ["took it and did not begin it", "rate limit"]),
        (
            absent("overdue", oldest_seconds=7300.0, limit=3600.0, task_id="x1"),
            ["nap (x1) for 2.0 h", "limit of 60 min", "stuck", "celery_task_time_limit"],
        ),
        (absent("running"), ["a@h began it 50 s ago", "stack_app.celery.canary_task"]),
        (absent("silent"), ["a@h did not answer", "solo"]),
        (absent("silent", nodes=[]), ["no worker answered", "celery_workers"]),
    ],
)
def test_canaries(entry: dict[str, Any], words: list[str]) -> None:
    found = judge_canaries({"default": entry}, ["a@h", "b@h"])
    assert [finding["queue"] for finding in found] == (["default"] if words else [])
    for word in words:
        assert word in f"{found[0]['message']} {found[0]['remedy']}"


def test_busy_queues_are_returned_beside_the_findings() -> None:
    queues = {"one": WAITED, "two": BACK, "three": LOST}
    (busy,) = busy_canaries(queues)
    assert busy == {
        "queue": "one",
        "nodes": ["a@h"],
        "processes": 2,
        "active": 2,
        "oldest_seconds": 50.0,
        "tasks": ["nap"],
        "text": TEXT,
    }
    judged = report_canaries({"problem": "", "error": "", "queues": queues}, [])
    assert judged["busy"] == [busy]
    assert [finding["queue"] for finding in judged["findings"]] == ["three"]


@given(
    st.dictionaries(st.text(), st.sampled_from([BACK, LOST, WAITED, {**BACK, "state": "FAILURE"}]))
)
def test_every_queue_that_did_not_come_back_is_told(queues: dict[str, Any]) -> None:
    told_queues = [finding["queue"] for finding in judge_canaries(queues, [])]
    told_queues += [busy["queue"] for busy in busy_canaries(queues)]
    lost = sorted(q for q, entry in queues.items() if entry["state"] != "SUCCESS")
    assert sorted(told_queues) == lost
