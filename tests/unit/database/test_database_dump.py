"""What the restore of a rollback's dump says of the client that restores it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import database_dump
import pytest


@pytest.mark.parametrize(("version", "warns"), [("17.5", True), ("17.6", False), ("18.0", False)])
def test_a_psql_that_runs_what_a_dump_names_is_told_and_restores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, warns: bool
) -> None:
    path = tmp_path / "a.dump"
    path.write_bytes(b"dump")
    restored: list[bytes] = []
    monkeypatch.setattr(database_dump.Docker, "container", lambda *_: "c1")
    monkeypatch.setattr(database_dump, "service_version", lambda *_: version)
    monkeypatch.setattr(database_dump, "end_postgres_sessions", lambda *_: True)

    def restore(_docker: Any, _container: str, stream: Any, _name: str) -> None:
        restored.append(stream.read())

    monkeypatch.setattr(database_dump, "restore_postgres", restore)
    params = {"path": str(path), "project": "shop", "service": "postgres"}
    warnings: list[str] = []
    result = database_dump.act({**params, "docker_cli": "docker", "timeout": 5}, warnings.append)
    assert (result, restored) == ({"changed": True}, [b"dump"])
    assert ["CVE-2025-8714" in warning for warning in warnings] == [True] * warns
