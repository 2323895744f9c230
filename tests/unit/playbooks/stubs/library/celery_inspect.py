"""Stub: every worker is as expected that runs and consumes its queues."""

from __future__ import annotations

from typing import Any

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import Stub, stub


def act(module: Stub) -> dict[str, Any]:
    """What the real module returns."""
    with module.world.engine() as engine:
        held = engine.get("stranded", 0)
        workers = [c for c in engine["containers"] if c["pool"] and c["state"] == "running"]
    findings = [
        {
            "code": "queues_differ",
            "node": each["name"],
            "message": f"{each['name']} consumes nothing",
        }
        for each in workers
        if not each["consumes"]
    ]
    canary = {"problem": "", "queues": {}, "findings": []}
    return {"problem": "", "findings": findings, "nodes": {}, "canary": canary, "seconds": 0.1} | {
        "held": held
    }


stub("celery_inspect", act)
