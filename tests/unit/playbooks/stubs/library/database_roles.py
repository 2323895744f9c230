"""Stub: the roles are as they have to be, once nobody holds all connections.

The engine's ``holder`` is the release whose running workers do; ``*`` is a stranger.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import stub


def answer(module: Any) -> dict[str, Any]:
    """Return what the module would."""
    with module.world.engine() as engine:
        holder = engine.get("holder", "")
        workers = [each for each in engine["containers"] if each["pool"]]
    running = {each["release"] for each in workers if each["state"] == "running"}
    full = holder == "*" or holder in running
    postponed = "No connection is left: docker stop x." if full else ""
    return {"done": [], "moved": False, "postponed": postponed, "dangers": []}


stub("database_roles", answer)
