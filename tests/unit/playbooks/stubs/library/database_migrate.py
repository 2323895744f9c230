"""The real module, whose commands run on the engine's file; only its dump is a stub."""

from __future__ import annotations

import json
from typing import Any

from ansible.module_utils import crisper_migration
from ansible.module_utils.stub_module import LIBRARY
from ansible.module_utils.stub_world import KILL, World


def dump(docker: Any, container: str, target: Any, name: str = "") -> dict[str, Any]:
    """Write the list of migrations."""
    world = World()
    with world.engine() as engine:
        target.write(json.dumps(engine["database"]).encode())
    answer = world.point("database_migrate:dump")
    if answer and answer != KILL:
        raise crisper_migration.BackupError(answer["msg"])
    return {}


crisper_migration.dump_postgres = dump
crisper_migration.end_sessions = lambda *_: None
exec(compile((LIBRARY / "database_migrate.py").read_bytes(), "database_migrate", "exec"))
