"""Stub: the counting begins and ends."""

from __future__ import annotations

from typing import Any

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import Stub, stub


def act(module: Stub) -> dict[str, Any]:
    """What the real module returns."""
    started = module.params["state"] == "started"
    with module.world.engine() as engine:
        engine["ledger"] = started
    if started:
        return {
            "changed": True,
            "all_known": True,
            "ledger": {"name": "crisper-ledger", "wait": 1.0},
        }
    tasks = {"accepted": 12, "finished": 12, "lost": 0, "waiting": 0, "failed": 0, "twice": 0}
    requests = {"probed": 40, "failed": 0, "errors": {}, "normal": [200]}
    return {"changed": True, "tasks": tasks, "requests": requests, "error": ""}


stub("deploy_ledger", act)
