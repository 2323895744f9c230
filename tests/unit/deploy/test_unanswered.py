"""Reasons why parts of the status are missing, and why no stranded task was put back."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.deploy.unanswered import (
    stranded_failure,
    unanswered,
)

SKIPPED = {"skipped": True}
ANSWERED = {"problem": ""}
WHOLE: dict[str, Any] = {
    "workers": ANSWERED,
    "waiting": ANSWERED,
    "dead_letters": {"rc": 0, "stdout": "[]"},
    "stranded": ANSWERED,
    "certificate": {"expires": "2027-01-01"},
}


def test_a_whole_answer_and_skipped_parts_miss_nothing() -> None:
    assert unanswered(WHOLE) == []
    assert unanswered(dict.fromkeys(WHOLE, SKIPPED)) == []


@pytest.mark.parametrize(
    ("part", "result", "sentence"),
    [
        ("workers", {"problem": "broker_unreachable", "msg": "Redis is down"}, "Redis is down"),
        ("workers", {"problem": "x"}, "The workers could not be asked"),
        # A module that crashed has neither.
        ("waiting", {"failed": True}, "The queues could not be read"),
        ("waiting", {"failed": True, "msg": "MODULE FAILURE"}, "MODULE FAILURE"),
        ("stranded", {}, "Unacknowledged tasks could not be compared"),
        ("certificate", {"msg": "cannot read it"}, "cannot read it"),
        ("dead_letters", {}, "Dead letters: no answer"),
        ("dead_letters", {"msg": "no container"}, "Dead letters: no container"),
        ("dead_letters", {"rc": 1, "stderr": "a\nb\x1b[2J\n"}, "Dead letters: b\\x1b[2J"),
    ],
)
def test_a_part_that_could_not_be_read(part: str, result: dict[str, Any], sentence: str) -> None:
    assert unanswered({**WHOLE, part: result}) == [sentence]


@pytest.mark.parametrize(
    ("stranded", "rollout", "words"),
    [
        (SKIPPED, {"msg": "no compose file"}, "no compose file"),
        (SKIPPED, {}, "The workers that run could not be found"),
        ({"failed": True}, {}, "The unacknowledged tasks could not be checked"),
        ({"problem": "x", "msg": "Redis is down"}, {}, "Redis is down"),
        (
            {"problem": "", "blind": ["a@h"], "stranded": 2, "text": "a@h did not answer"},
            {},
            "Nothing was put back: a@h did not answer. See the log of that worker",
        ),
    ],
)
def test_why_no_stranded_task_was_put_back(
    stranded: dict[str, Any], rollout: dict[str, Any], words: str
) -> None:
    assert stranded_failure(stranded, rollout).startswith(words)


@pytest.mark.parametrize(("blind", "count"), [([], 2), (["a@h"], 0), ([], 0)])
def test_stranded_tasks_that_were_put_back_are_no_failure(blind: list[str], count: int) -> None:
    result = {"problem": "", "blind": blind, "stranded": count, "text": ""}
    assert stranded_failure(result, {}) == ""
