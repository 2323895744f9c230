"""Stub: the database is a list of migrations in the engine's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.files import make_folder
from ansible_collections.crisper.stack.plugins.module_utils.journal import note
from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import Stub, stub


def act(module: Stub) -> dict[str, Any]:
    """What the real module returns."""
    path = Path(module.params["path"])
    with module.world.engine() as engine:
        if module.params["state"] == "dumped":
            make_folder(path.parent, 0o700)
            path.write_text(json.dumps(engine["database"]))
            return {
                "changed": True,
                "backup": {"path": str(path), "bytes": path.stat().st_size, "sha256": ""},
            }
    note(module.params, "restore_database", backup=str(path))
    module.point("restored")
    with module.world.engine() as engine:
        engine["database"] = json.loads(path.read_text())
    return {"changed": True}


stub("database_dump", act)
