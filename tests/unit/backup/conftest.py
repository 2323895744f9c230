"""Fixtures of the tests of backup sets."""

from __future__ import annotations

import json

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup import restore as restore_module
from ansible_collections.crisper.stack.plugins.module_utils.backup import set as set_module
from ansible_collections.crisper.stack.plugins.module_utils.backup.set import make
from backup_stack import KEY, RELEASE, quiet, settings

# Stands for age: what it says is told apart from what went in, and a wrong key is refused.
AGE = """#!/bin/sh
grep -q right "$3" || { echo "no identity matched" >&2; exit 1; }
case $1 in --encrypt) base64 ;; --decrypt) base64 -d ;; esac
"""


@pytest.fixture
def stack(tmp_path, monkeypatch):
    """A stack with a current release, whose services hand out their names."""
    release = tmp_path / "releases" / RELEASE
    release.mkdir(parents=True)
    (release / "manifest.json").write_text(json.dumps({"id": RELEASE}))
    (tmp_path / "current").symlink_to(f"releases/{RELEASE}")
    (tmp_path / "secrets.json").write_text(json.dumps({"backup_signing_key": KEY}))
    running = {"postgres": "p", "redis": "r", "qdrant": "q"}
    for module in (set_module, restore_module):
        monkeypatch.setattr(module, "services", lambda _: running)
    monkeypatch.setattr(set_module, "service_version", lambda *_: "1.2.3")

    def dump(service):
        def write(_docker, _container, target):
            target.write(service.encode())
            return {"rows": {"t": 1}}

        return write

    monkeypatch.setattr(set_module, "DUMP", {n: dump(n) for n in set_module.DUMP})
    return tmp_path


@pytest.fixture
def age(tmp_path, monkeypatch):
    """A stand-in for age on the path, a right key and a wrong one."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "age").write_text(AGE)
    (tools / "age").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    for name in ("right", "wrong"):
        (tools / name).write_text(name)
    return tools


@pytest.fixture
def made(stack):
    """The folder of a set that this stack has made."""
    return stack / "backups" / make(settings(stack), quiet)["set"]
