"""Stub: old workers hold nothing; those that resume take up their queues."""

from __future__ import annotations

from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.journal import note
from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import Stub, stub


def act(module: Stub) -> dict[str, Any]:
    """What the real module returns."""
    params = module.params
    told = {
        "left_at": 1.0,
        "unfinished": [],
        "longest": 0.0,
        "scheduled": 0,
        "silent": [],
        "nodes": {},
        "seconds": 0.0,
        "problem": "",
        "queues": params["queues"] or {},
    }
    if params["state"] == "drained":
        if not module.module.check_mode:
            note(params, "drain")
        module.point("drained")
        return {**told, "drained": params["nodes"]}
    with module.world.engine() as engine:
        for each in engine["containers"]:
            if any(node.endswith(each["id"][:12]) for node in params["queues"]):
                each["consumes"] = True
    return {**told, "changed": True, "resumed": list(params["queues"])}


stub("celery_drain", act)
