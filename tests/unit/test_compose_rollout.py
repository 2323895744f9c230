"""What `retire` does before it lets the old containers go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import compose_rollout
import pytest

SERVICES = {
    "celery-worker": {"kind": "worker", "replicas": 1},
    "celery-beat": {"kind": "single", "replicas": 1},
}


def record(name: str, service: str, release: str, **state: Any) -> dict[str, Any]:
    """A container as the engine tells it; its id is its name."""
    labels = {"com.docker.compose.service": service, "crisper.release": release}
    return {
        "Id": name,
        "Name": f"/{name}",
        "Config": {"Labels": labels},
        "State": {"Status": "running", "ExitCode": 0, **state},
    }


WORKERS = [
    record("old", "celery-worker", "r1", Health={"Status": "healthy"}),
    record("new", "celery-worker", "r2", Health={"Status": "healthy"}),
]


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    """A Docker client whose containers have another state at each look; it writes down commands."""

    def client(looks: list[list[dict[str, Any]]]) -> tuple[str, Path]:
        for number, look in enumerate(looks):
            (tmp_path / f"look{number}").write_text(json.dumps(look))
        (tmp_path / "stopped").write_text(json.dumps(WORKERS[:1]))
        program, told = tmp_path / "docker", tmp_path / "told"
        program.write_text(
            f"""#!/bin/sh
cd {tmp_path}; echo "$*" >>told
case "$1" in
    ps) echo old new beat;;
    container)
        if [ $# -gt 3 ]; then
            n=$(cat n 2>/dev/null || echo 0); [ -e look$n ] || n=$((n - 1)); cat look$n
            echo $((n + 1)) >n
        else
            cat stopped
        fi;;
    logs) echo "the schedule is broken";;
esac
"""
        )
        program.chmod(0o755)
        return str(program), told

    return client


def retire(run_module: Any, client: str, tmp_path: Path, **more: Any) -> dict[str, Any]:
    """The module's answer."""
    given = {"phases": ["retire"], "project_src": str(tmp_path), "project_name": "demo"}
    given |= {"release": "r2", "services": SERVICES, "docker_cli": client, **more}
    return run_module(compose_rollout, **given)


def beat(health: str, **state: Any) -> dict[str, Any]:
    """Beat of the new release."""
    return record("beat", "celery-beat", "r2", Health={"Status": health}, **state)


def test_old_workers_go_when_beat_has_become_healthy(
    run_module: Any, engine: Any, tmp_path: Path
) -> None:
    client, told = engine([[*WORKERS, beat("starting")]] * 3 + [[*WORKERS, beat("healthy")]])
    answer = retire(run_module, client, tmp_path)
    assert answer["stopped"] == {"old": 0}
    commands = told.read_text().splitlines()
    assert commands[: commands.index("stop old")].count("container inspect old new beat") > 3
    assert "rm --force --volumes old" in commands


@pytest.mark.parametrize(
    "state", [{"health": "unhealthy"}, {"health": "starting", "Status": "restarting"}]
)
def test_old_workers_stay_when_beat_does_not_run(
    run_module: Any, engine: Any, tmp_path: Path, state: dict[str, str]
) -> None:
    client, told = engine([[*WORKERS, beat(**state)]])
    answer = retire(run_module, client, tmp_path)
    assert answer["failed"]
    assert "beat of release r2 did not become healthy. The old workers still run." in answer["msg"]
    assert "the schedule is broken" in answer["msg"]
    assert "stop" not in told.read_text()


def test_beat_is_not_waited_for_for_ever(run_module: Any, engine: Any, tmp_path: Path) -> None:
    client, told = engine([[*WORKERS, beat("starting")]])
    answer = retire(run_module, client, tmp_path, wait_timeout=0)
    assert "did not become healthy" in answer["msg"]
    assert "stop" not in told.read_text()


def test_web_containers_do_not_wait_for_beat(run_module: Any, engine: Any, tmp_path: Path) -> None:
    client, told = engine([[*WORKERS, beat("starting")]])
    answer = retire(run_module, client, tmp_path, kinds=["web"])
    assert answer["stopped"] == {}
    assert "logs" not in told.read_text()
