"""What the status tells of a stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import stack_status
from ansible_collections.crisper.stack.plugins.module_utils.deploy.status import (
    containers_of,
    last_run,
)
from ansible_collections.crisper.stack.plugins.module_utils.journal import Journal
from hypothesis import given
from hypothesis import strategies as st

OWNER = {"who": "ops", "controller": "laptop", "process": "1@2", "purpose": "deploy"}
LABELS = {"com.docker.compose.service": "backend", "crisper.release": "r1"}
BACKEND = {
    "Name": "/demo-backend-1",
    "Config": {"Labels": LABELS},
    "RestartCount": 3,
    "State": {
        "Status": "running",
        "Running": True,
        "ExitCode": 0,
        "StartedAt": "2026-11-20T22:15:00.123456789Z",
        "FinishedAt": "0001-01-01T00:00:00Z",
        "Health": {"Status": "unhealthy"},
    },
}
DEAD = {
    "Name": "/demo-redis-1",
    "State": {"Status": "exited", "ExitCode": 137, "FinishedAt": "2026-11-20T22:16:00Z"},
}


def test_containers_are_told_with_what_an_operator_asks_first() -> None:
    dead, backend = containers_of([BACKEND, DEAD])
    assert backend == {
        "name": "demo-backend-1",
        "service": "backend",
        "release": "r1",
        "state": "running",
        "health": "unhealthy",
        "since": "2026-11-20T22:15:00",
        "restarts": 3,
        "exit_code": None,
    }
    assert (dead["state"], dead["exit_code"], dead["since"]) == (
        "exited",
        137,
        "2026-11-20T22:16:00",
    )


STEPS = st.sampled_from(["begin", "stage", "start", "end"])
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"run": st.sampled_from("ab"), "step": STEPS},
        optional={
            "who": st.sampled_from(["ops", ""]),
            "result": st.sampled_from(["done", "failed"]),
        },
    )
)


@given(ENTRIES)
def test_the_last_run_is_the_newest_that_ended(entries: list[dict[str, Any]]) -> None:
    ends = [entry for entry in entries if entry["step"] == "end"]
    found = last_run(entries)
    assert bool(found) == bool(ends)
    if ends:
        assert (found["run"], found["result"]) == (ends[-1]["run"], ends[-1].get("result", ""))


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    """A Docker client that knows two containers."""
    program = tmp_path / "docker"
    records = tmp_path / "records.json"
    records.write_text(json.dumps([BACKEND, DEAD]))
    program.write_text(f'#!/bin/sh\n[ "$1" = ps ] && echo "a b" || cat {records}\n')
    program.chmod(0o755)
    return program


def test_everything_is_told_at_once(run_module: Any, tmp_path: Path, docker: Path) -> None:
    release = tmp_path / "releases/r1"
    release.mkdir(parents=True)
    facts = {"id": "r1", "operator": "ops", "verified": {"tasks": ["health_check"]}}
    (release / "manifest.json").write_text(json.dumps(facts))
    (tmp_path / "current").symlink_to(release)
    for name in ("20261119t030000z", "20261120t030000z", ".draft"):
        (tmp_path / "backups" / name).mkdir(parents=True)
        (tmp_path / "backups" / name / "manifest.json").write_text("{}")
    first = Journal(tmp_path, "one")
    first.acquire(OWNER)
    first.end("done")
    Journal(tmp_path, "two").acquire(OWNER)
    found = run_module(stack_status, root=str(tmp_path), project="demo", docker_cli=str(docker))
    assert found["release"]["id"] == "r1"
    assert (found["release"]["verified"], found["release"]["tasks"]) == (True, ["health_check"])
    assert (found["kept"], found["backup"]) == (1, "20261120t030000z")
    assert (found["lock"]["run"], found["lock"]["step"]) == ("two", "begin")
    assert found["unfinished"]["run"] == "two"
    assert (found["last"]["run"], found["last"]["result"]) == ("one", "done")
    assert [c["name"] for c in found["containers"]] == ["demo-redis-1", "demo-backend-1"]
    assert (found["maintenance"], found["problem"], found["changed"]) == (False, "", False)
    assert found["serving"] == ""
    (tmp_path / "live/nginx").mkdir(parents=True)
    (tmp_path / "live/nginx/serving").symlink_to("upstreams/r1")
    found = run_module(stack_status, root=str(tmp_path), project="demo", docker_cli=str(docker))
    assert found["serving"] == "r1"


def test_a_server_without_anything_is_no_error(run_module: Any, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nodocker")
    found = run_module(stack_status, root=str(tmp_path), project="demo", docker_cli=nowhere)
    assert (found["release"], found["containers"], found["last"]) == ({}, [], {})
    assert "No such file" in found["problem"]


def test_an_engine_that_is_down_is_told(run_module: Any, tmp_path: Path) -> None:
    down = tmp_path / "docker"
    down.write_text("#!/bin/sh\necho Cannot connect to the Docker daemon >&2; exit 1\n")
    down.chmod(0o755)
    found = run_module(stack_status, root=str(tmp_path), project="demo", docker_cli=str(down))
    assert found["problem"] == "“Cannot connect to the Docker daemon”"


def test_a_restore_that_did_not_end_is_told_when_nobody_restores(
    run_module: Any, tmp_path: Path, docker: Path
) -> None:
    arguments = {"root": str(tmp_path), "project": "demo", "docker_cli": str(docker)}
    assert run_module(stack_status, **arguments)["restoring"] == ""
    mark = {"set": "20261120t030000z", "parts": {"postgres": "restored", "redis": "begun"}}
    (tmp_path / "restoring.json").write_text(json.dumps(mark))
    assert "20261120t030000z did not get" in run_module(stack_status, **arguments)["restoring"]
    Journal(tmp_path, "one").acquire({**OWNER, "purpose": "restore"})
    assert run_module(stack_status, **arguments)["restoring"] == ""
