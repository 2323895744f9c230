"""Settings of an application with which tasks are lost or run twice, from what its workers say."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery.settings import (
    planned_restart_warning,
    restart_warning,
    settings_warnings,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.build import stack_model
from hypothesis import given
from hypothesis import strategies as st
from ledger_cases import summary
from stack_values import GOOD
from verify_role_cases import value

NOW = datetime(2026, 11, 28, tzinfo=UTC)
NAME = "default@app-1-r-1"
LEASE = "crisper_worker.consumer:LeaseConsumer"
PLAIN = "celery.worker.consumer:Consumer"


def replies(
    conf: dict[str, Any] | None = None,
    transport: str = "redis",
    hard: float | None = 3600,
    **more: Any,
) -> dict[str, Any]:
    """What a worker answers that acknowledges late and is given back its messages in 12 h."""
    settings = {"task_acks_late": True, "worker_consumer": PLAIN, "visibility_timeout": 43200}
    stats = {"broker": {"transport": transport}, "pool": {"timeouts": [3300, hard]}}
    return {"conf": settings | (conf or {}), "stats": stats, **more}


def warnings(*nodes: dict[str, Any], **values: Any) -> list[str]:
    by_name = {f"default@app-1-r-{n}": node for n, node in enumerate(nodes, 1)}
    known = {"grace": 330, "limit": 3600, "now": NOW, **values}
    return settings_warnings(by_name, list(by_name), **known)


def without(key: str) -> dict[str, Any]:
    found = replies()
    del found["conf"][key]
    return found


def test_safe_settings_are_not_told():
    assert warnings(replies(), replies()) == []
    assert warnings(replies({"worker_consumer": LEASE, "visibility_timeout": 5})) == []


@pytest.mark.parametrize("consumer", [PLAIN, LEASE])
def test_early_acks_are_told_once_for_a_service(consumer: str):
    """Regression: tasks of a killed worker were lost, and no verification said that they would."""
    early = replies({"task_acks_late": False, "worker_consumer": consumer})
    (text,) = warnings(early, early)
    assert text.startswith("celery-worker: tasks are acknowledged before they run (task_acks_late")
    assert "one that runs when its worker is killed is lost" in text
    two = {"default@a": early, "bulk@a": early, "old@a": early}
    found = settings_warnings(two, ["default@a", "bulk@a"])
    (line,) = found
    assert line.startswith("celery-worker-bulk, celery-worker: tasks are acknowledged")


def twice(found: list[str]) -> list[str]:
    """Warnings of tasks that run twice."""
    return [text for text in found if "twice" in text]


@pytest.mark.parametrize(
    ("node", "values", "words"),
    [
        # What Celery and kombu make of an application that sets neither.
        (without("visibility_timeout"), {}, ["3600 s (celery_task_time_limit)", "not set"]),
        (replies({"visibility_timeout": 60}), {}, ["after 60 s (visibility_timeout)"]),
        (replies(hard=None), {}, ["without end (no hard time limit)"]),
        (replies(hard=10**400), {}, ["no hard time limit"]),
        (replies(hard=90000), {}, ["90000 s (its time limit)"]),
        (replies(), {"grace": 50000}, ["50000 s while it is drained (celery_stop_grace_period)"]),
    ],
)
def test_a_task_longer_than_the_visibility_timeout_is_told(
    node: dict[str, Any], values: dict[str, Any], words: list[str]
):
    (text,) = warnings(node, node, **values)
    assert all(word in text for word in words), text
    assert "a task may run " in text
    assert text.endswith('it runs twice. See docs/CHECKLIST.md, "Risky settings".')
    # Two lines of a summary, without and with several services.
    assert len(text) <= 220
    # With leases, and with brokers that have no such timeout, it does not matter.
    leased = {**node, "conf": {**node["conf"], "worker_consumer": LEASE}}
    assert not twice(warnings(leased, **values))
    other = {**node, "stats": {**node["stats"], "broker": {"transport": "amqp"}}}
    assert not twice(warnings(other, **values))


def test_early_acks_hold_what_waits():
    node = replies({"task_acks_late": False, "visibility_timeout": 60})
    _, text = warnings(node)
    assert "a task may wait in a worker behind one that runs for 3600 s" in text


def test_an_eta_beyond_the_visibility_timeout_is_told():
    def held(eta: Any) -> list[dict[str, Any]]:
        return [{"eta": eta, "request": {}}]

    for eta in ("2026-11-28T13:00:00+00:00", "2026-11-28T13:00:00Z", "2026-11-28T22:00:00+09:00"):
        (text,) = warnings(replies(scheduled=held(eta)))
        assert "more than 43200 s away" in text
        assert warnings(replies({"worker_consumer": LEASE}, scheduled=held(eta))) == []
    for eta in ("2026-11-28T11:00:00+00:00", "2026-11-28T20:00:00+09:00", "soon", None, 7):
        assert warnings(replies(scheduled=held(eta))) == []


def test_settings_with_celerys_old_names_are_not_judged():
    node = without("task_acks_late")
    del node["conf"]["visibility_timeout"]
    assert warnings(node) == []


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


@given(ANYTHING, ANYTHING, ANYTHING, ANYTHING)
def test_no_answer_breaks_the_judgement(whole: Any, conf: Any, stats: Any, scheduled: Any):
    assert settings_warnings({NAME: whole}, [NAME]) == []
    assert settings_warnings(whole, [NAME]) == []
    node = {**replies(), "conf": conf, "stats": stats, "scheduled": scheduled}
    assert settings_warnings({NAME: node}, [NAME], now=NOW) == []
    weak = {
        **replies({"task_acks_late": False, "visibility_timeout": conf}),
        "scheduled": scheduled,
    }
    (first, *_) = settings_warnings({NAME: weak}, [NAME], now=NOW)
    assert "task_acks_late" in first


def test_a_name_of_a_node_cannot_print_a_line():
    hostile = {"x\nRelease   fine\x1b[2J@a": replies({"task_acks_late": False})}
    (text,) = settings_warnings(hostile, list(hostile))
    assert text.isprintable()


def test_the_warnings_fail_nothing_and_are_in_both_summaries():
    model = stack_model(GOOD)
    after = {"release": "r", "steps": [], "containers": [], "nodes": {"new": [NAME]}}
    guard = {"celery": "5.7.0", "kombu": "5.7.0", "redis": "8.1.0", "missing": {}}
    nodes = {NAME: replies({"task_acks_late": False, "crisper_guard": guard})}
    report = {"after": after, "proof": {"findings": [], "nodes": nodes}}
    assert value("__verify_findings", model, rollout_report=report) == []
    (text,) = value("__verify_seen", model, rollout_report=report)["warnings"]
    assert f"Warning   {text}" in summary(verify_report={"warnings": [text]})


@pytest.mark.parametrize(
    ("node", "restarted", "told"),
    [
        (replies(), 100.0, True),
        (replies(), 99.0, False),
        (replies(), None, False),
        (replies({"worker_consumer": LEASE}), 100.0, False),
        (replies({"task_acks_late": False}), 100.0, False),
        (without("task_acks_late"), 100.0, False),
        ("x", 100.0, False),
    ],
)
def test_a_restart_of_redis_is_told_where_tasks_may_run_twice(node, restarted, told):
    result = {"nodes": {NAME: node}, "restarted": restarted}
    text = restart_warning(result, [NAME], 100.0)
    assert bool(text) is told
    assert not told or "may run twice (celery-worker has no lease)" in text
    assert restart_warning(result, ["other@a"], 100.0) == restart_warning(None, [NAME], 1.0) == ""


def test_a_plan_tells_what_recreating_redis_means():
    """Regression: an operator learnt of it from tasks that ran twice."""
    step = {"service": "redis", "action": "recreate"}
    text = planned_restart_warning([step], guard=False)
    assert "that run at that moment may run twice (stack_app.celery.guard is false)" in text
    assert planned_restart_warning([step], guard=True) == ""
    for other in ({**step, "action": "keep"}, {**step, "service": "nginx"}, 7):
        assert planned_restart_warning([other], guard=False) == ""
    assert planned_restart_warning(None, guard=False) == ""


@pytest.mark.parametrize(
    ("registered", "words"),
    [
        (["a [acks_late=False]", "b [acks_late=True]"], "a is acknowledged before they run"),
        (["a [acks_late=False]"], "tasks are acknowledged before they run"),
        (["a [time_limit=90000]", "b"], "a may run longer than 43200 s"),
        (["a [serializer=pickle]", "b"], "pickle is used for messages (a)"),
        (["a [ignore_result=True]", "b [ignore_result=False]"], "results of a are not stored"),
    ],
)
def test_the_tasks_that_break_a_promise_are_named(registered: list[str], words: str) -> None:
    (text,) = warnings({**replies(), "registered": registered})
    assert words in text


@pytest.mark.parametrize(
    "registered", [["a [time_limit=nan]"], ["a [time_limit=x]"], ["a ["], [" [=]"], "a", None]
)
def test_tasks_that_a_worker_forges_are_none(registered: object) -> None:
    assert warnings({**replies(), "registered": registered}) == []


def test_a_pool_without_a_time_limit_is_told_where_nothing_is_handed_out_again() -> None:
    node = replies(hard=None)
    node["conf"]["worker_consumer"] = LEASE
    (text,) = warnings(node)
    assert "no hard time limit" in text
