"""The real module, whose commands run on the engine's file; only its dump is a stub."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.database import interrupted, migration
from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import LIBRARY
from ansible_collections.crisper.stubs.plugins.module_utils.stub_world import KILL, World


def dump(docker: Any, container: str, target: Any, name: str = "") -> dict[str, Any]:
    """Write the list of migrations."""
    world = World()
    with world.engine() as engine:
        target.write(json.dumps(engine["database"]).encode())
    answer = world.point("database_migrate:dump")
    if answer and answer != KILL:
        raise migration.BackupError(answer["msg"])
    return {}


migration.dump_postgres = dump
interrupted.end_sessions = lambda *_: None
exec(compile((LIBRARY / "database_migrate.py").read_bytes(), "database_migrate", "exec"))
