"""Whether a run that failed may undo anything, and that no more is told than was seen."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import database_identity
import deploy_state
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.deploy import (
    state as deploy_state_module,
)
from ansible_collections.crisper.stack.plugins.module_utils.deploy.failure_path import (
    database_words,
    deploy_outcome,
    go_on,
    may_act,
    rollback_outcome,
    undo_wanted,
)
from ansible_collections.crisper.stack.plugins.module_utils.deploy.state import (
    DeployState,
    find_missing,
)
from ansible_collections.crisper.stack.plugins.module_utils.journal import Journal
from ansible_collections.crisper.stack.plugins.module_utils.rollout.plan import Container
from hypothesis import given
from hypothesis import strategies as st

SEEN: dict[str, Any] = {
    "locked": True,
    "lock": {"run": "mine"},
    "steps": ["stage", "start"],
    "current": "r1",
    "staged": "r2",
    "error": "",
    "page": False,
    "serves": "release r1: all 9 containers are healthy",
}
OTHER = {"locked": False, "lock": {"run": "theirs", "who": "kim", "step": "cancel_consumers"}}
DAMAGED = {
    "error": "the manifest of the release cannot be read (half of it)",
    "serves": "could not be checked: the manifest of the release cannot be read (half of it)",
}
DEAD = {
    "error": "the engine does not answer (no socket)",
    "serves": "could not be checked: the engine does not answer (no socket). r1 is current.",
}


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "locked": st.booleans(),
            "staged": st.sampled_from(["", "r2"]),
            "error": st.sampled_from(["", "no engine"]),
            "msg": st.text(max_size=5),
        },
    ),
    st.booleans(),
)
def test_without_the_lock_nothing_is_undone(state: dict[str, Any], passed: bool) -> None:
    wanted = undo_wanted(state, passed)
    assert not wanted or (state["locked"] and state["staged"] and passed and not state.get("error"))
    assert may_act(state) or not wanted


@pytest.mark.parametrize(
    ("state", "undo", "trouble", "told"),
    [
        ({}, False, "", "not checked; this run had not begun to change anything"),
        ({"failed": True, "msg": "no Python"}, False, "", "could not be checked: no Python"),
        ({"unreachable": True, "msg": "gone"}, False, "", "could not be checked: gone"),
        (SEEN | OTHER, False, "", "deploy theirs of kim has it (step cancel_consumers)"),
        (SEEN | {"locked": False, "lock": {}}, False, "", "No run has the lock"),
        (SEEN | DEAD, False, "", "Nothing was undone. Start the engine"),
        (
            SEEN | DAMAGED,
            False,
            "",
            "(half of it). Nothing was undone. Correct that, then run this",
        ),
        (SEEN, False, "", "This run has begun: stage, start. Nothing was undone."),
        (SEEN | {"steps": []}, False, "", "containers are healthy. This run has changed nothing."),
        (SEEN, True, "", "release r1, put back and verified"),
        (SEEN, True, "no room", "was to be put back, and that failed too: no room\nAfter that"),
        (SEEN | {"current": ""}, True, "", "this first deploy were removed"),
        (SEEN | {"current": ""}, True, "no", "were to be removed, and that failed too: no"),
    ],
)
def test_what_serves_is_told_as_it_was_seen(
    state: dict[str, Any], undo: bool, trouble: str, told: str
) -> None:
    said = deploy_outcome(state, undo, trouble, {"locked": True, "serves": "nothing"})
    assert told in said
    assert "as before" not in said


def test_a_rollback_that_failed_tells_what_it_has_put_back() -> None:
    assert rollback_outcome(SEEN, True, "", {}) == "release r1, put back and verified"
    assert "this run has undone nothing" in rollback_outcome(SEEN | OTHER, False, "", {})
    assert rollback_outcome(SEEN | {"steps": []}, False, "", {}).endswith("has changed nothing.")


@pytest.mark.parametrize(
    ("database", "migrated", "told", "ways"),
    [
        ("untouched", False, "as before; the restore had changed nothing.", 1),
        ("restored", True, "are applied again.", 1),
        ("restored", False, "are missing in it.", 2),
        ("unknown", False, "unknown: the database did not answer.", 2),
    ],
)
def test_the_state_of_the_database_is_told(
    database: str, migrated: bool, told: str, ways: int
) -> None:
    intent = {"backup": "/b/r2.dump", "target": "r1", "migrated": migrated}
    said = database_words(intent, database)
    assert told in said
    assert ("/b/r2.dump" in said) == (database != "untouched")
    assert len(re.findall(r"-e restore_database=true", go_on(intent, database, "r2"))) == ways - 1
    assert "--tags maintenance_off" in go_on(intent, database, "r2")


def container(service: str, release: str = "r1", state: str = "running", health: str = "healthy"):
    return Container(service, f"{service}-1", service, release, "", state, health)


SERVICES = {"web": {"kind": "web", "replicas": 2}, "redis": {"kind": "stateful"}}


def test_a_service_is_whole_when_enough_of_its_own_are_healthy() -> None:
    whole = [container("web"), container("web"), container("redis", ""), container("web", "r2")]
    assert find_missing(SERVICES, whole, "r1") == (3, [])
    dead = container("redis", "", "restarting")
    healthy, missing = find_missing(
        SERVICES, [container("web"), container("web", "r2"), dead], "r1"
    )
    assert healthy == 1
    assert missing == [
        "web: 1 of 2 containers are healthy",
        "redis: 0 of 1 containers are healthy (redis-1 is restarting)",
    ]


@pytest.mark.parametrize(
    ("state", "told"),
    [
        (DeployState("", "r2", "", False), "nothing; no release has been verified on this host"),
        (DeployState("r1", "", "r1", False, "", 9), "all 9 containers are healthy"),
        (DeployState("r1", "", "r1", True, "", 9), "behind the maintenance page"),
        (DeployState("r1", "", "r2", False, "", 9), "nginx sends requests to release r2"),
        (DeployState("r1", "", "r1", False, "no engine"), "could not be checked: no engine."),
        (DeployState("r1", "", "r1", False, "", 8, ["web: 1 of 2"]), "not all of it serves: web"),
    ],
)
def test_only_what_was_seen_serves(state: DeployState, told: str) -> None:
    assert told in state.describe()
    assert state.whole == ("containers are healthy" in state.describe())


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A stack with one release and the lock of the run `mine`."""
    root = tmp_path / "stack"
    (root / "releases/r1").mkdir(parents=True)
    manifest = {"id": "r1", "model": {"rollout": {"web": {"kind": "web", "replicas": 1}}}}
    (root / "releases/r1/manifest.json").write_text(json.dumps(manifest))
    (root / "current").symlink_to("releases/r1")
    journal = Journal(root, "mine")
    journal.acquire({"who": "ops", "controller": "c", "process": "1@2", "purpose": "deploy"})
    journal.note("stage")
    return root


def client(folder: Path, text: str) -> str:
    """A Docker client."""
    path = folder / "docker"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_the_server_says_who_has_the_lock_and_what_serves(
    run_module: Any, stack: Path, tmp_path: Path
) -> None:
    labels = {"com.docker.compose.service": "web", "crisper.release": "r1"}
    record = {"Id": "1", "Name": "/web-1", "Config": {"Labels": labels}}
    record["State"] = {"Status": "running"}
    cli = client(tmp_path, f"[ $1 = ps ] && echo 1 || echo '{json.dumps([record])}'")
    asked = {"root": str(stack), "project": "unit", "docker_cli": cli}
    seen = run_module(deploy_state, run_id="mine", **asked)
    assert (seen["locked"], seen["steps"], seen["whole"]) == (True, ["stage"], True)
    assert seen["serves"] == "release r1: all 1 containers are healthy"
    other = run_module(deploy_state, run_id="other", **asked)
    assert (other["locked"], other["lock"]["run"], other["steps"]) == (False, "mine", [])
    assert not run_module(deploy_state, **asked)["locked"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("echo 'Cannot connect to the Docker daemon' >&2; exit 1", "Cannot connect"),
        ("sleep 20", "did not answer within 0.2 s"),
        ("echo nonsense", "the engine does not answer"),
    ],
)
def test_an_engine_that_does_not_answer_is_told(
    run_module: Any, stack: Path, tmp_path: Path, monkeypatch: Any, text: str, why: str
) -> None:
    monkeypatch.setattr(deploy_state_module, "ENGINE_SECONDS", 0.2 if "sleep" in text else 10)
    cli = client(tmp_path, text)
    seen = run_module(deploy_state, root=str(stack), project="unit", docker_cli=cli, run_id="mine")
    assert (seen["locked"], seen["whole"]) == (True, False)
    assert why in seen["error"]
    assert seen["serves"].startswith("could not be checked: ")


def test_where_nothing_is_nothing_serves(run_module: Any, tmp_path: Path) -> None:
    seen = run_module(deploy_state, root=str(tmp_path / "none"), project="unit", docker_cli="none")
    assert (seen["locked"], seen["current"], seen["error"]) == (False, "", "")
    assert not (tmp_path / "none").exists()


def test_a_database_is_compared_by_its_identity(run_module: Any, tmp_path: Path) -> None:
    cli = client(tmp_path, "[ $1 = ps ] && echo c1 || echo one")
    seen = run_module(database_identity, project="unit", docker_cli=cli)
    assert (seen["identity"], seen["state"], seen["error"]) == ("one", "unknown", "")
    same = run_module(database_identity, project="unit", docker_cli=cli, before="one")
    assert same["state"] == "untouched"
    other = run_module(database_identity, project="unit", docker_cli=cli, before="two")
    assert other["state"] == "restored"
    gone = run_module(database_identity, project="unit", docker_cli="true", before="two")
    assert (gone["state"], gone["error"]) == ("unknown", "No container of postgres of unit runs.")
