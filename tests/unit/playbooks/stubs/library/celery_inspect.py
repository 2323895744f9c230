"""Stub: every worker is as expected that runs, consumes its queues and has its processes."""

from __future__ import annotations

from typing import Any

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import Stub, stub


def act(module: Stub) -> dict[str, Any]:
    """What the real module returns."""
    with module.world.engine() as engine:
        held, wrong = engine.get("stranded", 0), engine.get("wrong_key", "")
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
    pools = module.params["expect"].get("pools") or {}
    findings += [
        {
            "code": "wrong_concurrency",
            "node": each["name"],
            "message": f"{each['name']} runs {each.get('concurrency')} processes",
        }
        for each in workers
        if pools.get(each["pool"], {}).get("concurrency") not in (None, each.get("concurrency"))
    ]
    canary = {"problem": "", "queues": {}, "findings": []}
    return {"problem": "", "findings": findings, "nodes": {}, "canary": canary, "seconds": 0.1} | {
        "held": held,
        "unreadable": wrong,
    }


stub("celery_inspect", act)
