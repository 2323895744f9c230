"""Stub: one set of the release that serves, which is always whole."""

from __future__ import annotations

from typing import Any

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import Stub, stub


def act(module: Stub) -> dict[str, Any]:
    """What the real module returns."""
    state = module.params["state"]
    module.point(state)
    release = (module.world.root / "current").resolve().name
    found = {"set": "20261101t030000z", "made_at": "2026-11-01", "release": release}
    found |= {"path": "/backups/20261101t030000z", "made_by": "kim", "parts": ["redis"]}
    return {"changed": state == "restored", "set": found, "report": {}}


stub("backup_set", act)
