"""Stub: nothing is listed; tests/unit/images/test_sbom.py is about the real one."""

from __future__ import annotations

from typing import Any

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import Stub, stub


def act(module: Stub) -> dict[str, Any]:
    """What the real module returns where there is nothing to do."""
    return {"sbom": {}, "read": []}


stub("release_sbom", act)
