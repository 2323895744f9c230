"""What the roles after a rollout get to know of it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.rollout.report import rollout_report

OLD = {"queues": {"w@a": ["default"]}, "drained": ["w@a"], "longest": 2.5, "unfinished": []}


def looked(release: str, number: int = 0) -> dict[str, Any]:
    """Result of a call that looked at everything after its last act."""
    return {"steps": [], "after": {"release": release, "n": number}, "proof": {"n": number}}


def test_nothing_was_called_yet() -> None:
    report = rollout_report({}, "b")
    assert (report["after"], report["proof"], report["left"], report["drained"]) == ({}, {}, {}, {})
    assert (report["longest"], report["stopped"], report["put_back"]) == (0.0, {}, [])
    assert not report["cut_off"]


def test_the_last_look_at_this_release_counts() -> None:
    """A rollout that puts things back finds calls of the one that failed."""
    calls = {"started": looked("b", 1), "switched": looked("b", 2), "stopped": looked("a", 3)}
    assert rollout_report(calls, "b")["proof"] == {"n": 2}
    assert rollout_report(calls, "a")["after"]["n"] == 3
    assert rollout_report(calls, "c")["after"] == {}


def test_what_old_workers_did_is_of_the_last_call_that_told_them() -> None:
    calls = {"started": {"steps": [], "left": {}}, "switched": {"steps": [], "left": OLD}}
    report = rollout_report(calls, "b")
    assert report["left"] == report["drained"] == OLD
    later = {"drained": ["w@a", "w@b"], "unfinished": [{"id": "t"}], "longest": 1.0}
    report = rollout_report({**calls, "drained": later}, "b")
    assert report["drained"] == later
    assert report["longest"] == 2.5  # it was over at the second look


@pytest.mark.parametrize(
    ("call", "cut_off"),
    [
        ({"failed": True, "msg": "killed"}, True),
        ({"failed": True, "msg": "not healthy", "steps": []}, False),
        ({"failed": False}, False),
        ({"skipped": True}, False),
    ],
)
@pytest.mark.parametrize("name", ["started", "switched"])
def test_a_call_that_did_not_tell_what_it_had_done_is_cut_off(
    name: str, call: dict[str, Any], cut_off: bool
) -> None:
    assert rollout_report({name: call}, "b")["cut_off"] is cut_off


def test_what_was_stopped_and_put_back_is_told() -> None:
    calls = {"stopped": {"stopped": {"w": 0}}, "stranded": {"done": "3 tasks"}}
    report = rollout_report(calls, "b")
    assert (report["stopped"], report["put_back"]) == ({"w": 0}, [{"done": "3 tasks"}])


def test_what_two_rollouts_of_a_run_put_back_is_told_once_each() -> None:
    """The second one finds the first one's call when it made none of its own."""
    first = rollout_report({"stranded": {"done": "3 tasks"}}, "b")["put_back"]
    same = rollout_report({"stranded": {"done": "3 tasks"}}, "a", first)["put_back"]
    assert same == [{"done": "3 tasks"}]
    more = rollout_report({"stranded": {"done": "1 task"}}, "a", first)["put_back"]
    assert [act["done"] for act in more] == ["3 tasks", "1 task"]
    failed = rollout_report({"stranded": {"msg": "no answer"}}, "a", first)
    assert (failed["put_back"], failed["unjudged"]) == (first, "no answer")
