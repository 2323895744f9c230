"""What is said of workers whose guard cannot do all that it should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery.guard import (
    guard_rows,
    guard_warnings,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.build import stack_model
from ansible_collections.crisper.stack.plugins.module_utils.model.guard import (
    SOURCES,
    guard_files,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from ansible_collections.crisper.stack.plugins.module_utils.probes.inspect import shown_conf
from hypothesis import given
from hypothesis import strategies as st
from stack_values import GOOD, changed

ROOT = Path(__file__).resolve().parents[3]
NODES = ["default@app-1-r-1", "bulk@app-1-r-1"]
MODEL = stack_model(GOOD)
WHY = "it was never tested with kombu 5.9.0 (tested: 5.3 to 5.7)"


def node(missing: dict[str, str] | None = None, **conf: Any) -> dict[str, Any]:
    versions = {"celery": "5.7.0", "kombu": "5.7.0", "redis": "8.1.0"}
    return {
        "conf": {"task_acks_late": True, "crisper_guard": {**versions, "missing": missing or {}}}
    }


def test_a_whole_guard_is_not_told():
    assert guard_warnings({NODES[0]: node()}, NODES, MODEL) == []
    assert guard_rows({NODES[0]: node()}) == []


def test_what_is_missing_is_told_once_with_its_services_and_what_it_means():
    nodes = {name: node({"lease": WHY}) for name in NODES}
    (text,) = guard_warnings(nodes, NODES, MODEL)
    assert text.startswith(
        f"celery-worker-bulk, celery-worker: no “lease”, “{WHY}”: tasks of a killed"
    )
    assert guard_rows(nodes) == [f"2 workers without “lease”: “{WHY}”"]
    assert guard_warnings(nodes, ["other@a"], MODEL) == []


def test_a_worker_that_was_started_without_its_guard_is_told():
    """An entrypoint that ignores the command that it is given."""
    (text,) = guard_warnings({NODES[0]: {"conf": {"task_acks_late": True}}}, NODES, MODEL)
    assert "does not tell of its guard: does the image's entrypoint run the command" in text


@pytest.mark.parametrize("replies", ["x", {}, {"conf": "x"}, {"conf": {}}])
def test_a_worker_that_told_nothing_is_not_judged(replies: Any):
    assert guard_warnings({NODES[0]: replies}, NODES, MODEL) == []
    assert guard_rows({NODES[0]: replies}) == []


@pytest.mark.parametrize(
    "model",
    [stack_model(changed("stack_app.celery.guard", False)), {}, {"celery": {"app": "older"}}],
)
def test_without_a_guard_none_is_missed(model: Any):
    assert guard_warnings({NODES[0]: {"conf": {"task_acks_late": True}}}, NODES, model) == []


@given(
    st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_whatever_a_worker_tells_becomes_printable_lines(answer: Any):
    nodes = {NODES[0]: {"conf": {"a": 1, "crisper_guard": answer}}}
    lines = [*guard_warnings(nodes, NODES, MODEL), *guard_rows(nodes)]
    assert all(line.isprintable() for line in lines)


def test_the_report_may_leave_the_container_and_no_connection_may():
    report = node()["conf"]["crisper_guard"]
    conf = {"crisper_guard": report, "broker_url": "redis://:p@h", "crisper_guard_url": "x"}
    assert shown_conf(conf) == {"crisper_guard": report}


def test_a_heartbeat_without_a_guard_is_refused():
    values = changed("stack_app.celery.guard", False)
    values["stack_app"]["celery"]["health"] = "heartbeat"
    (finding,) = validate(values)
    assert finding.startswith("stack_app.celery.health is 'heartbeat', and stack_app.celery.guard")
    del values["stack_app"]["celery"]["health"]
    assert validate(values) == []
    assert stack_model(values)["celery"]["health"] == "ping"
    assert stack_model(values)["celery"]["program"] == ["celery"]


def test_a_release_has_the_whole_guard_and_nothing_else():
    files = {item["path"]: item["content"] for item in guard_files(str(ROOT))}
    assert {"guard/__main__.py", "guard/crisper_worker/guard.py"} <= files.keys()
    assert all(path.startswith("guard/") and path.endswith(".py") for path in files)
    main = (ROOT / SOURCES / "__main__.py").read_text()
    assert files["guard/__main__.py"] == main
