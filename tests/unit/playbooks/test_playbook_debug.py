"""No secret is printed, however much Ansible is asked to tell."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.playbook.debug import (
    LONGEST,
    install,
    without_secrets,
)
from harness import ROOT, Site, settings, temporary_site

FILE = "a-file-of-the-tests"  # in a service's files
GIVEN = "a-secret-of-the-tests"  # all secrets of the harness's inventory


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with temporary_site("one") as site:
        yield site


def run(site: Site, log: Path, *arguments: str, **variables: object) -> str:
    """Everything that a deploy prints and logs, with as much as Ansible tells."""
    environment = {**os.environ, **settings(), "ANSIBLE_DEBUG": "1", "ANSIBLE_LOG_PATH": str(log)}
    command = [str(Path(sys.executable).with_name("ansible-playbook")), str(ROOT / "deploy.yml")]
    command += ["-i", str(site.folder / "inventory"), "-vvvvv", "--diff", *arguments]
    given = site.folder / "given.json"
    given.write_text(json.dumps(variables))
    command += ["-e", f"@{given}"]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    printed = done.stdout + done.stderr + log.read_text()
    assert "_low_level_execute_command() done: rc=" in printed, printed[-3000:]
    return f"exit code {done.returncode}\n{printed}"


def test_nothing_that_ansible_can_tell_holds_a_secret(site: Site, tmp_path: Path) -> None:
    """Regression: ANSIBLE_DEBUG=1 printed secrets.json, and every file of the release."""
    # One of the secrets is made on the server, the others are given.
    less = {"redis_password": "", "postgres_password": GIVEN, "secret_key": GIVEN}
    less |= {"qdrant_api_key": GIVEN, "admin_password": GIVEN}
    app = site.application("web", files=[{"path": "/run/key", "content": FILE}])
    made = {"stack_secrets": less, "stack_secrets_generate": True, "stack_app": app}
    # It fails late, so that one run goes the whole way, and back.
    site.script({"point": "compose_rollout:verify", "do": "fail", "answer": {"msg": "no room"}})
    printed = run(site, tmp_path / "log", **made)
    assert "no room" in printed, printed[-3000:]
    secrets = json.loads((site.one.root / "secrets.json").read_text())
    assert secrets["redis_password"]
    for secret in (GIVEN, FILE, b64encode(FILE.encode()).decode(), *secrets.values()):
        where = [line[:200] for line in printed.splitlines() if secret in line]
        assert not where, f"{len(where)} lines: {where[:3]}"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            '_low_level_execute_command() done: rc=0, stdout={"a": "hunter2"}\n, stderr=',
            "_low_level_execute_command() done: rc=0 …",
        ),
        (
            "done with _execute_module (release, {'files': 'hunter2'})",
            "done with _execute_module (",
        ),
        ("stdout chunk (state=3):\n>>>hunter2<<<\n", "stdout chunk (state=3): …"),
        ("_low_level_execute_command(): executing: /bin/sh -c 'A=hunter2 x'", "_low_level"),
        ("A message of tomorrow:\n" + "x" * LONGEST + "hunter2", "A message of tomorrow: …"),
        ("entering _queue_task() for one/copy", "entering _queue_task() for one/copy"),
    ],
)
def test_messages_that_quote_say_only_how_long_it_was(message: str, shown: str) -> None:
    told = without_secrets(message)
    assert told.startswith(shown)
    assert "hunter2" not in told
    assert re.search(r"\(\d+ characters are not shown", told) or told == message
    assert without_secrets(told) == told or "not shown" in without_secrets(told)


def test_it_is_installed_once() -> None:
    told: list[str] = []

    class Display:
        def debug(self, msg: str, host: str | None = None) -> None:
            told.append(f"{host}: {msg}")

    install(Display)
    kept = Display.debug
    install(Display)
    assert Display.debug is kept
    Display().debug("become_error: (source=stderr, state=awaiting): 'hunter2'", host="one")
    assert len(told) == 1
    assert told[0].startswith("one: become_error: (source=stderr, state=awaiting): …")
