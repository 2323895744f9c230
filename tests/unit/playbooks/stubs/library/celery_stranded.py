"""Stub: as many tasks are stranded as the engine's file says, and can be put back."""

from __future__ import annotations

from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.celery.stranded_report import (
    deed,
    sentence,
)
from ansible_collections.crisper.stack.plugins.module_utils.journal import note
from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import Stub, stub


def act(module: Stub) -> dict[str, Any]:
    """What the real module returns."""
    numbers = (
        "ended",
        "listed",
        "leased",
        "limited",
        "later",
        "unreadable",
        "homeless",
        "acknowledged",
    )
    found: dict[str, Any] = dict.fromkeys((*numbers, "put_back"), 0)
    found |= {"blind": [], "partial": False, "restarted": True, "problem": ""}
    found["tasks"] = [{"id": "1", "task": "nap"}]
    with module.world.engine() as engine:
        found["held"] = found["stranded"] = engine.get("stranded", 0)
        if not module.params["nodes"] or module.params["nodes"] != module.params["same_image"]:
            found["blind"] = ["the names of the workers are wrong"]
        elif module.params["state"] == "put_back":
            note(module.params, "put_back")
            # Of those the results tell that they have ended, where the test says so.
            kind = "acknowledged" if engine.get("ended") else "put_back"
            found[kind] = engine["stranded"]
            engine["stranded"] = 0
            engine["within"] = module.params["restarted_within"]
    return {**found, "text": sentence(found), "done": deed(found)} | {
        "changed": found["put_back"] + found["acknowledged"] > 0
    }


stub("celery_stranded", act)
