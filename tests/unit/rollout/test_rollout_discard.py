"""What a rollout does with new containers when one of them cannot serve."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import compose_rollout
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.rollout.stop import warn_of_killed

SERVICES = {
    "backend": {"kind": "web", "replicas": 1},
    "celery-worker": {"kind": "worker", "replicas": 1},
}
PROGRAM = """#!/usr/bin/env python3
import json, sys
from pathlib import Path
folder, arguments = Path({folder!r}), sys.argv[1:]
with (folder / "told").open("a") as told:
    print(" ".join(arguments), file=told)
records = json.loads((folder / "records").read_text())
if arguments[0] == "ps":
    print(*(name for name in records if name == "old" or (folder / "up").exists()))
elif arguments[:2] == ["container", "inspect"]:
    if (folder / "stopped").exists():
        records["worker"]["State"].update({stopped!r})
    print(json.dumps([records[name] for name in arguments[2:] if name in records]))
elif "up" in arguments and "--dry-run" not in arguments:
    (folder / "up").touch()
elif arguments[0] == "stop":
    (folder / "stopped").touch()
"""


def record(name: str, service: str, release: str, health: str, **labels: str) -> dict[str, Any]:
    """A container as the engine tells it; its id is its name."""
    labels |= {"com.docker.compose.service": service, "crisper.release": release}
    return {
        "Id": name,
        "Name": f"/{name}",
        "Config": {"Labels": labels},
        "State": {"Status": "running", "ExitCode": 0, "Health": {"Status": health}},
    }


@pytest.fixture
def failed_start(run_module: Any, tmp_path: Path) -> Any:
    """Run `start` of a release whose web is unhealthy while its worker works."""

    def run(exit_code: int = 0) -> tuple[dict[str, Any], list[str]]:
        pool = {"crisper.pool": "default"}
        records = [
            record("old", "backend", "r1", "healthy"),
            record("web", "backend", "r2", "unhealthy"),
            record("worker", "celery-worker", "r2", "healthy", **pool),
        ]
        (tmp_path / "records").write_text(json.dumps({r["Id"]: r for r in records}))
        program = tmp_path / "docker"
        stopped = {"Status": "exited", "ExitCode": exit_code}
        program.write_text(PROGRAM.format(folder=str(tmp_path), stopped=stopped))
        program.chmod(0o755)
        given = {"phases": ["start"], "project_src": str(tmp_path), "project_name": "demo"}
        given |= {"release": "r2", "services": SERVICES, "docker_cli": str(program)}
        answer = run_module(compose_rollout, **given)
        return answer, (tmp_path / "told").read_text().splitlines()

    return run


def test_a_worker_of_a_release_that_fails_ends_its_tasks(failed_start: Any) -> None:
    """Regression: it was killed, and what it had acknowledged early was lost."""
    answer, told = failed_start()
    assert answer["failed"]
    assert "They did not become healthy" in answer["msg"]
    acts = [line for line in told if line.split()[0] in ("rm", "stop", "kill")]
    assert acts == [
        "rm --force --volumes web",
        "stop worker",  # by SIGTERM, for as long as stop_grace_period says
        "rm --force --volumes worker",
    ]


def test_a_worker_that_had_to_be_killed_is_told(
    failed_start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(
        compose_rollout.AnsibleModule, "warn", lambda _, text: warnings.append(text)
    )
    failed_start(exit_code=137)
    assert "worker did not stop in time and was killed" in "\n".join(warnings)


@pytest.mark.parametrize(
    ("labels", "remedy"),
    [
        (
            {"crisper.pool": "default"},
            "come back after celery_visibility_timeout. Raise celery_stop_gr",
        ),
        ({}, "requests that it answered were cut off. Raise stop_grace_period of the service"),
    ],
)
def test_the_remedy_of_a_killed_container_is_that_of_its_kind(
    labels: dict[str, str], remedy: str
) -> None:
    """Regression: of a web container it said that its tasks come back."""
    warnings: list[str] = []
    rollout: Any = SimpleNamespace(module=SimpleNamespace(warn=warnings.append))
    killed = {"Id": "a", "State": {"ExitCode": 137}, "Config": {"Labels": labels}}
    ended = {"Id": "b", "State": {"ExitCode": 0}, "Config": {"Labels": labels}}
    assert warn_of_killed(rollout, {"a": "one", "b": "two"}, [killed, ended])["two"] == 0
    (warning,) = warnings
    assert warning.startswith("one did not stop in time")
    assert remedy in warning
