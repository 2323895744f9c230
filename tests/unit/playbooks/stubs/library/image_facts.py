"""Stub: every image is here, as pulled from its registry, that is not said to be missing."""

from __future__ import annotations

from typing import Any

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import Stub, stub
from ansible_collections.crisper.stubs.plugins.module_utils.stub_world import image_id


def act(module: Stub) -> dict[str, Any]:
    """What the real module returns."""
    images = {}
    with module.world.engine() as engine:
        for reference in module.params["references"]:
            if any(name in reference for name in engine["missing"]):
                continue
            engine["images"][reference] = image_id(reference)
            images[reference] = {
                "ref": reference,
                "id": image_id(reference),
                "labels": {},
                "moved": "",
            }
    return {"images": images, "digests": {}, "unanswered": {}, "architecture": "x86_64"}


stub("image_facts", act)
