"""Molecule's connection enters a container's namespaces, or asks the engine where it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "molecule/shared/connection"))
import test_server  # noqa: E402

ID = "4f2a"


def container(pid: int = os.getpid(), folder: str = "") -> dict[str, Any]:
    return {
        "Id": ID,
        "State": {"Pid": pid},
        "Config": {"WorkingDir": folder, "Env": ["PATH=/bin", "container=docker"]},
    }


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found = [f"/sys/fs/cgroup/pids/docker/{ID}/cgroup.procs"]
    monkeypatch.setattr(test_server, "control_groups", lambda leader, name: found)
    return found


def test_a_command_runs_with_the_containers_environment_in_its_groups(groups: list[str]) -> None:
    command = test_server.entrance(container(folder="/srv"))
    assert command[command.index("sh", 1) + 1 : command.index("--")] == groups
    assert command[command.index("nsenter") :] == [
        *("nsenter", "--all", "--target", str(os.getpid()), "--"),
        *("env", "-i", "--chdir=/srv", "HOME=/root", test_server.DEFAULT_PATH),
        *("PATH=/bin", "container=docker"),
    ]


@pytest.mark.parametrize("pid", [os.getpid(), 2**22 + 1])
def test_processes_of_another_machine_are_not_entered(pid: int) -> None:
    assert test_server.entrance(container(pid)) == []


def test_the_groups_are_joined_before_the_command_runs(tmp_path: Path) -> None:
    group = tmp_path / "cgroup.procs"
    command = ["sh", "-c", test_server.JOIN, "sh", str(group), "--", "sh", "-c", "echo $$"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert group.read_text() == told
