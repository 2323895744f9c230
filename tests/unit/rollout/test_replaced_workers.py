"""A release is put back although a worker of it, that was there before, answers nonsense."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import compose_rollout
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.journal import Journal
from ansible_collections.crisper.stack.plugins.module_utils.rollout.plan import Container
from ansible_collections.crisper.stack.plugins.module_utils.rollout.suspects import (
    changed_by_others,
    newer_workers,
    older_workers,
    suspects,
    worker_findings,
)
from rollout_engine import APP, EXPECT, RolloutEngine

PHASES = ("start", "cancel_consumers", "replace", "stop_old", "verify")


@pytest.fixture
def engine(tmp_path: Path, run_module: Any) -> RolloutEngine:
    """Return an engine whose release r1 ran before this run began."""
    made = RolloutEngine(tmp_path, run_module)
    made.has("web", "backend", "r1")
    made.has("w1", "celery-worker", "r1", "good")
    made.has("w2", "celery-worker", "r1", "good")
    return made


@pytest.fixture
def run(tmp_path: Path) -> dict[str, str]:
    """Return a run that has the lock; from its second on nothing is older any more."""
    Journal(tmp_path, "run-1").acquire({"who": "kim", "process": str(os.getpid())})
    return {"root": str(tmp_path), "id": "run-1"}


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what the module warns of."""
    texts: list[str] = []
    monkeypatch.setattr(compose_rollout.AnsibleModule, "warn", lambda _, text: texts.append(text))
    return texts


def failed_deploy(engine: RolloutEngine) -> None:
    """Let a worker of the release that failed still run."""
    engine.has("bad", "celery-worker", "r2", "good")


@pytest.mark.parametrize(
    ("answers", "leaves"), [("nonsense", True), ("silent", False), ("twice", True)]
)
def test_a_worker_that_was_there_before_is_replaced_and_the_undo_goes_on(
    engine: RolloutEngine, run: dict[str, str], warnings: list[str], answers: str, leaves: bool
) -> None:
    """Regression: the undo failed with what a hostile worker said of itself."""
    engine.state["answers"]["w1"] = answers
    if leaves:
        failed_deploy(engine)

    result = engine.roll(*PHASES, run=run)

    assert not result.get("failed"), result["msg"]
    assert result["proof"]["findings"] == []
    assert engine.containers == ["n1", "w2", "web"]
    assert [step["action"] for step in result["after"]["steps"]] == ["keep", "keep"]
    acts = [line for line in engine.commands if " up " in line or line.startswith("stop w1")]
    assert "--scale celery-worker=" in acts[0], "the new one works before the other stops"
    assert acts[1] == "stop w1"
    assert [text for text in warnings if text.startswith("w1 of release r1 ran before this run")]


def test_who_answers_in_the_name_of_others_is_found_among_all(
    engine: RolloutEngine, run: dict[str, str]
) -> None:
    """A forger makes every other look bad; replacing those alone mends nothing."""
    engine.state["answers"]["w2"] = "forger"

    result = engine.roll(*PHASES, run=run)

    assert not result.get("failed"), result["msg"]
    assert result["proof"]["findings"] == []
    assert not {"w1", "w2"} & set(engine.containers)


def test_forged_bad_answers_keep_no_old_worker_from_going(
    engine: RolloutEngine, run: dict[str, str], warnings: list[str]
) -> None:
    """A deploy: the old worker that is to go answers nonsense in the name of the new ones."""
    for name in ("w1", "w2"):
        del engine.state["records"][name]
    engine.has("bad", "celery-worker", "r0", "forger")

    result = engine.roll(*PHASES, run=run)

    assert not result.get("failed"), result["msg"]
    assert result["proof"]["findings"] == []
    assert engine.containers == ["n1", "n2", "web"]
    assert not [text for text in warnings if "ran before this run" in text]


@pytest.mark.parametrize("leaves", [True, False])
def test_a_new_worker_that_answers_nonsense_too_is_a_failure_with_its_finding(
    engine: RolloutEngine, run: dict[str, str], leaves: bool
) -> None:
    engine.state["answers"]["w1"] = "nonsense"
    engine.state["later"] = "nonsense"
    if leaves:
        failed_deploy(engine)

    result = engine.roll(*PHASES, run=run)

    said = result["msg"] if leaves else result["proof"]["findings"][0]["message"]
    assert "default@app1-r1-n1 answered" in said
    # One for the worker, then one for each that was there before; no third time.
    assert len([line for line in engine.commands if " up " in line]) == 2


def test_a_new_worker_that_does_not_start_is_told_with_the_reason(
    engine: RolloutEngine, run: dict[str, str]
) -> None:
    engine.state["answers"]["w1"] = "nonsense"
    engine.state["health"] = "unhealthy"

    result = engine.roll(*PHASES, run=run)

    assert "They did not become healthy" in result["msg"]
    assert "take the place of others: w1 of release r1" in result["msg"]
    assert engine.containers == ["w1", "w2", "web"], "it still works as far as it did"


def test_what_this_run_has_started_is_not_replaced(
    engine: RolloutEngine, run: dict[str, str]
) -> None:
    engine.state["answers"]["w1"] = "nonsense"
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 5))
    for record in engine.state["records"].values():
        record["Created"] = later

    result = engine.roll(*PHASES, run=run)

    assert result["proof"]["findings"]
    assert engine.containers == ["w1", "w2", "web"]


@pytest.mark.parametrize("phases", [PHASES, ("cancel_consumers", "verify")])
def test_who_only_looks_or_has_no_lock_replaces_nothing(
    engine: RolloutEngine, run: dict[str, str], phases: tuple[str, ...]
) -> None:
    engine.state["answers"]["w1"] = "nonsense"

    result = engine.roll(*phases, run=None if phases == PHASES else run)

    assert result["proof"]["findings"]
    assert engine.containers == ["w1", "w2", "web"]


def test_a_worker_that_turns_unhealthy_meanwhile_is_replaced(
    engine: RolloutEngine, run: dict[str, str], warnings: list[str]
) -> None:
    """That its processes were stopped shows in its health only after a while."""
    failed_deploy(engine)
    engine.state["sick_after"] = {"bad": "w1"}

    result = engine.roll(*PHASES, run=run)

    assert not result.get("failed"), result["msg"]
    assert {step["action"] for step in result["after"]["steps"]} == {"keep"}
    assert "They were not healthy." in "".join(warnings)
    assert engine.containers == ["n1", "w2", "web"]


CANARY = {"task": "health_check", "queues": ["default"], "timeout": 1.0}
ASKED = {"app": APP, "expect": EXPECT, "timeout": 1.0, "canary": CANARY}


@pytest.mark.parametrize("told", ["limited", "shrunk"])
def test_new_workers_that_an_old_container_told_otherwise_are_replaced_once(
    engine: RolloutEngine, run: dict[str, str], warnings: list[str], told: str
) -> None:
    """Regression: a rate limit that an old container had told the new workers failed the deploy."""
    for name in ("w1", "w2"):
        del engine.state["records"][name]
    engine.has("bad", "celery-worker", "r0", "good")
    engine.state["tells"] = {"bad": {"n1": told, "n2": told}}

    result = engine.roll(*PHASES, run=run, workers=ASKED)

    assert not result.get("failed"), result["msg"]
    assert (result["proof"]["findings"], result["proof"]["canary"]["findings"]) == ([], [])
    assert engine.containers == ["n3", "n4", "web"]
    assert {step["action"] for step in result["after"]["steps"]} == {"keep"}
    stops = [line for line in engine.commands if line.startswith("stop")]
    assert stops == ["stop bad", "stop n1 n2"], "they end by SIGTERM, when the others work"
    assert "n1, n2 of release r1 did not work as the inventory says" in "".join(warnings)
    assert "remote control of Celery (rate_limit" in "".join(warnings)


def test_what_is_wrong_with_the_release_is_a_failure_after_one_replacement(
    engine: RolloutEngine, run: dict[str, str]
) -> None:
    for name in ("w1", "w2"):
        del engine.state["records"][name]
    engine.has("bad", "celery-worker", "r0", "good")
    engine.state |= {"tells": {"bad": {"n1": "limited"}}, "later": "limited"}

    result = engine.roll(*PHASES, run=run, workers=ASKED)

    assert "did not come back" in result["proof"]["canary"]["findings"][0]["message"]
    assert engine.containers == ["n3", "n4", "web"]


def test_new_workers_are_kept_where_no_old_container_ended(
    engine: RolloutEngine, run: dict[str, str]
) -> None:
    for name in ("w1", "w2"):
        del engine.state["records"][name]
    engine.state["later"] = "limited"

    result = engine.roll(*PHASES, run=run, workers=ASKED)

    assert result["proof"]["canary"]["findings"]
    assert engine.containers == ["n1", "n2", "web"]


def worker(name: str, created: float, health: str = "healthy", **more: Any) -> Container:
    fields = {"service": "celery-worker", "release": "r1", "image": "", "state": "running"}
    return Container(id=name, name=name, health=health, created=created, **{**fields, **more})


A, B = worker("a", 10.0, pool="p"), worker("b", 10.0, pool="p")
SICK = worker("c", 10.0, "unhealthy", pool="p")
OF_A = {"code": "malformed_reply", "node": "p@h-r1-a"}
OF_NEW = {"code": "foreign_node", "node": "p@h-r1-new"}


@pytest.mark.parametrize(
    ("findings", "older", "everyone", "expected"),
    [
        ([], [A, B], False, []),
        ([], [A, B], True, []),
        ([OF_A], [A, B], False, [A]),
        ([OF_A], [A, B], True, [A, B]),
        ([OF_NEW], [A, B], False, [A, B]),
        ([{"queue": "default"}], [A], False, [A]),
        ([OF_A], [], True, []),
        ([], [A, SICK], False, [SICK]),
        ([OF_A], [A, B, SICK], False, [A, SICK]),
    ],
)
def test_those_that_findings_name_are_replaced_first(
    findings: list[Any], older: list[Container], everyone: bool, expected: list[Container]
) -> None:
    assert suspects(findings, older, "h", everyone=everyone) == expected


@pytest.mark.parametrize(
    ("container", "began", "older"),
    [
        (worker("a", 10.0, pool="p"), 11.0, True),
        (worker("a", 11.0, pool="p"), 11.0, False),
        (worker("a", 12.0, pool="p"), 11.0, False),
        (worker("a", 0.0, pool="p"), 11.0, False),  # nobody knows
        (worker("a", 10.0, pool="p"), 0.0, False),
        (worker("a", 10.0), 11.0, False),  # no worker
        (worker("a", 10.0, pool="p", release="r2"), 11.0, False),
    ],
)
def test_older_is_what_was_made_before_the_run(
    container: Container, began: float, older: bool
) -> None:
    assert bool(older_workers([container], "r1", began)) == older


@pytest.mark.parametrize(
    ("proof", "number"),
    [
        ({}, 0),
        ({"problem": "malformed_reply", "findings": [OF_A]}, 1),
        ({"problem": "broker_unreachable", "findings": [{}]}, 0),
        ({"findings": [], "canary": {"problem": "", "findings": [{}]}}, 1),
        (
            {"findings": [], "canary": {"problem": "result_backend_unreachable", "findings": [{}]}},
            0,
        ),
    ],
)
def test_what_no_worker_is_the_cause_of_replaces_none(proof: dict[str, Any], number: int) -> None:
    assert len(worker_findings(proof)) == number


@pytest.mark.parametrize(
    ("container", "began", "newer"),
    [
        (worker("a", 11.0, pool="p"), 11.0, True),
        (worker("a", 10.0, pool="p"), 11.0, False),
        (worker("a", 12.0, pool="p"), 0.0, False),  # nobody knows
        (worker("a", 12.0), 11.0, False),
        (worker("a", 12.0, pool="p", release="r2"), 11.0, False),
    ],
)
def test_newer_is_what_the_run_has_started(container: Container, began: float, newer: bool) -> None:
    assert bool(newer_workers([container], "r1", began)) == newer


def canary(state: str, problem: str = "") -> dict[str, Any]:
    finding = {"queue": "q", "message": "m"}
    return {"queues": {"q": {"state": state}}, "findings": [finding], "problem": problem}


@pytest.mark.parametrize(
    ("proof", "number"),
    [
        ({}, 0),
        ({"findings": [{"code": "wrong_concurrency"}, {"code": "unregistered_task"}]}, 1),
        ({"findings": [{"code": "wrong_queues"}, {"code": "wrong_time_limits"}]}, 2),
        ({"canary": canary("PENDING")}, 1),
        ({"canary": canary("FAILURE")}, 0),
        ({"canary": canary("PENDING", "broker_unreachable")}, 0),
    ],
)
def test_only_what_remote_control_changes_may_be_somebody_elses_doing(
    proof: dict[str, Any], number: int
) -> None:
    assert len(changed_by_others(proof)) == number
