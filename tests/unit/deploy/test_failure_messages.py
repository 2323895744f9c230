"""What an operator reads when a migration, a hook or a data service fails: real plays, no engine.

A stand-in for the Docker client answers for Compose; the roles and the rescue are the real ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.deploy.fact import (
    staged_release,
    updated_fact,
)

ROOT = Path(__file__).resolve().parents[3]
DOCKER = """#!/bin/sh
case "$*" in
    *"compose version"*) echo '{{"version": "2.26.1"}}';;
    *" version "*) echo '{{"Server": {{"Version": "26.1.5", "ApiVersion": "1.45"}}}}';;
    *" info "*) echo '{{"ClientInfo": {{"Plugins": [{{"Name": "compose"}}]}}}}';;
    # A detached container: what its command says, and how it ended, is asked for afterwards.
    *"config --format json"*) echo '{{"services": {{}}}}';;
    *" run "*) ({run}) >{folder}/out 2>{folder}/err; echo $? >{folder}/code;;
    "wait "*) cat {folder}/code;;
    "logs {stack}-"*) cat {folder}/out; cat {folder}/err >&2;;
    "container inspect {stack}-"*) sed "s/CODE/$(cat {folder}/code)/" {folder}/ended;;
    *" up "*) {up};;
    *"label=crisper.command"*) ;;
    "ps "*) echo c1;;
    "container inspect"*) cat {folder}/containers;;
    logs*) cat {folder}/logs;;
    *) echo '[]';;
esac
"""
RELEASE = "20261120t221500z-1a2b3c4d"
ENDED = {
    "Config": {"Labels": {"crisper.command": "migrate"}},
    "State": {
        "Status": "exited",
        "ExitCode": "CODE",
        "StartedAt": "2999-01-01T00:00:00.5Z",
        "FinishedAt": "2999-01-01T00:00:01.5Z",
    },
}
PLAY = """
- hosts: localhost
  gather_facts: false
  vars:
    stack_root: {folder}
    stack_name: demo
    stack_model:
      data_services: [postgres, redis]
      hooks: {{after_switch: [{{name: warm, command: [python, -m, warm], timeout: 5}},
                              {{name: later, command: [later], timeout: 5}}]}}
    stack_app: {{migrate: {migrate}}}
    deploy: {deploy}
    hooks_point: after_switch
    hooks_path: {folder}/releases/{release}
    database_backup: false
  tasks:
    - block:
        - ansible.builtin.import_role: {{name: {role}}}
      rescue:
        - ansible.builtin.set_fact:
            told: "{{{{ ansible_failed_result | crisper_failed_task(ansible_failed_task.name) }}}}"
        - ansible.builtin.copy:
            content: "{{{{ told }}}}"
            dest: {folder}/told
"""


class Play:
    """A play of one role on this machine; `told` is what its rescue would say."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, role: str, run: str = "true", up: str = "true", **more: Any) -> str:
        """The message of the rescue; empty when nothing failed."""
        docker, told = self.folder / "docker", self.folder / "told"
        docker.write_text(DOCKER.format(run=run, up=up, folder=self.folder, stack="demo"))
        (self.folder / "ended").write_text(json.dumps([ENDED]).replace('"CODE"', "CODE"))
        docker.chmod(0o755)
        folder = self.folder / "releases" / RELEASE
        (folder / "secrets").mkdir(parents=True, exist_ok=True)
        (folder / "docker-compose.prod.yml").write_text("services: {}\n")
        (folder / "manifest.json").write_text(json.dumps({"id": RELEASE}))
        release = {"id": RELEASE, "path": str(folder), "staged": True}
        staged = {"release": release, "current": "r1", "facts_changed": ["migrate"]}
        staged |= {"images_changed": [], "env_changed": [], "secrets_changed": []}
        staged |= more.pop("staged", {})
        news = {
            "docker_cli": str(docker),
            "state": {"current": more.pop("current", ""), "intact": True},
            "release": staged_release(staged, {}),
        }
        values = {"release": RELEASE, "migrate": more.pop("migrate", {})}
        fact = json.dumps(updated_fact({}, news))
        text = PLAY.format(role=role, folder=self.folder, deploy=fact, **values)
        (self.folder / "play.yml").write_text(text)
        told.unlink(missing_ok=True)
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                *("-i", "localhost,", "-c", "local"),
                *("-e", f"ansible_python_interpreter={sys.executable}"),
                str(self.folder / "play.yml"),
            ],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        self.output = done.stdout + done.stderr
        return told.read_text() if told.exists() else ""


@pytest.fixture
def play(tmp_path: Path) -> Play:
    return Play(tmp_path)


MIGRATE = json.dumps({"command": ["alembic", "upgrade", "head"], "timeout": 7})


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ("echo 'Multiple head revisions are present' >&2; exit 255", "failed with exit code 255."),
        ("echo 'Running upgrade 7 -> 8'; exit 124", "did not end within its time limit of 7 s"),
    ],
)
def test_a_migration_says_what_failed_and_names_the_variable(play: Play, run: str, told: str):
    message = play.run("database", run, migrate=MIGRATE)
    assert "The migration (alembic upgrade head) " + told in message
    assert "stack_app.migrate.timeout (now 7 s)" in message
    assert "Multiple head revisions" in message or "Running upgrade 7 -> 8" in message
    assert "Unknown error" not in play.output


def test_a_check_that_cannot_run_is_not_taken_for_pending_migrations(play: Play):
    migrate = json.dumps({"command": ["alembic"], "check_command": ["alembik", "check"]})
    staged = {"facts_changed": [], "images_changed": ["backend"]}
    more = {"migrate": migrate, "current": "r1", "staged": staged}
    message = play.run("database", "echo no such file >&2; exit 127", **more)
    assert "The check for pending migrations (alembik check) failed with exit code 127." in message
    assert "stack_app.migrate.check_command" in message


@pytest.mark.parametrize(("facts", "runs"), [(["migrate"], True), ([], False)])
def test_a_changed_migration_command_runs_whatever_the_check_says(
    play: Play, facts: list[str], runs: bool
):
    migrate = json.dumps({"command": ["seed"], "check_command": ["alembic", "check"]})
    staged = {"facts_changed": facts, "images_changed": ["backend"]}
    ran = f'echo "$*" >>{play.folder}/ran'
    play.run("database", ran, migrate=migrate, current="r1", staged=staged)
    commands = (play.folder / "ran").read_text()
    assert ("600 seed" in commands) is runs
    assert ("alembic check" in commands) is not runs


def test_the_first_hook_that_fails_is_told_and_the_next_does_not_run(play: Play):
    message = play.run("hooks", f'echo "$*" >>{play.folder}/ran; echo cold; exit 3')
    assert "The hook 'warm' of rollout_hooks.after_switch (python -m warm) failed" in message
    assert "exit code 3" in message
    assert "(rollout_hooks.after_switch, now 5 s)" in message
    assert message.endswith("cold")
    assert "later" not in (play.folder / "ran").read_text()


def test_a_data_service_that_is_not_healthy_says_why(play: Play):
    labels = {"com.docker.compose.service": "redis"}
    health = {"Status": "unhealthy", "Log": [{"ExitCode": 1, "Output": "no connection"}]}
    state = {"Status": "restarting", "ExitCode": 1, "Health": health}
    record = {"Id": "c1", "Name": "/demo-redis-1", "Config": {"Labels": labels}, "State": state}
    (play.folder / "containers").write_text(json.dumps([record]))
    (play.folder / "logs").write_text("Bad file format reading the append only file x.aof\n")
    up = "echo 'container demo-redis-1 is unhealthy' >&2; exit 1"
    message = play.run("database", up=up, staged={"facts_changed": ["data"]})
    assert "The start of the data services (postgres, redis) failed" in message
    assert "--- demo-redis-1 (restarting, exit code 1)" in message
    assert "Last health checks: exit code 1: no connection" in message
    assert "Bad file format reading the append only file x.aof" in message
    assert "redis-check-aof --fix" in message
