"""Stub: the database is another one when its list of migrations is."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import Stub, stub


def act(module: Stub) -> dict[str, Any]:
    """What the real module returns."""
    with module.world.engine() as engine:
        up, database = engine["up"], json.dumps(engine["database"])
    if not up:
        return {"identity": "", "state": "unknown", "error": "PostgreSQL did not answer."}
    identity, before = hashlib.sha256(database.encode()).hexdigest(), module.params["before"]
    state = ("untouched" if identity == before else "restored") if before else "unknown"
    return {"identity": identity, "state": state, "error": ""}


stub("database_identity", act)
