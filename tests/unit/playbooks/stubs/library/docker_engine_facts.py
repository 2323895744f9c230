"""Stub: a fit engine runs."""

from __future__ import annotations

import shutil

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import stub

stub(
    "docker_engine_facts",
    lambda _: {
        "source": "present",
        "install": False,
        "problems": [],
        "engine": {"version": "26.1.5", "compose": "2.26.1", "kind": "distro", "containers": 0},
        "cli": shutil.which("docker"),
        "running": True,
        "enabled": True,
        "manager": "other",
        "pid": 0,
        "flags": [],
        "systemd": False,
        "os": {"id": "debian", "codename": "trixie"},
        "arch": "amd64",
        "mirror": {},
        "security_mirror": {},
        "next_suite_known": True,
        "missing_python": [],
        "python_is_system": True,
    },
)
