"""An upgrade of PostgreSQL's data: what is decided, and where the old data is when a step fails.

`Engine` stands in for Docker: volumes hold a text, and scripts of the module act on them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.database import (
    upgrade,
    upgrade_cluster,
    upgrade_stack,
    upgrade_volumes,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.upgrade_record import (
    RECORD,
    format_record,
    parse_record,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.versions import Misfit

FACTS = {"rows": {"public.items": 3}, "migration_head": ["8"], "extensions": ["hstore"]}


class Engine:
    """Volumes of one host, and the servers that have them open."""

    timeout = 5

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.volumes = {"demo_postgres": "old"}
        self.running = True
        self.psql = "17.6"
        self.fails: list[str] = []  # scripts that fail, the first time

    def container(self, project: str, service: str) -> str:
        return "c1" if self.running else ""

    def inspect(self, container: str) -> dict[str, Any]:
        return {"HostConfig": {"Memory": 1}, "State": {"Status": "running"}}

    def inside(self, container: str, script: str, **environment: str) -> list[str]:
        return ["docker", "exec", script]

    def text(self, what: str, command: list[str]) -> str:
        return "1"

    def run(self, *words: str) -> str:
        """Act on a command of the module."""
        if words[0] in ("stop", "start") and words[-1] == "c1":
            self.running = words[0] == "start"
        if words[:2] == ("volume", "create"):
            self.volumes[words[-1]] = "empty"
        if words[:2] == ("volume", "rm"):
            for name in words[3:]:
                self.volumes.pop(name, None)
        if words[:2] == ("volume", "ls"):
            return " ".join(name for name in self.volumes if name.endswith("_upgrade"))
        if words[:2] == ("volume", "inspect"):
            return json.dumps(str(self.folder))
        if words[:2] == ("run", "--rm"):
            volumes = [word.split(":")[0] for word in words if ":/from:" in word or ":/to" in word]
            return self.copy(words[-1], *volumes)
        return ""

    def copy(self, script: str, source: str, target: str) -> str:
        """Copy a volume; a script that fails has left half of it."""
        if script in self.fails:
            self.fails.remove(script)
            self.volumes[target] = "half"
            raise BackupError("No space left on device")
        self.volumes[target] = self.volumes[source]
        return ""


class Stack(upgrade_stack.Stack):
    """The module's, of an engine that stands in for Docker."""

    docker: Engine  # type: ignore[assignment]

    def versions(self) -> tuple[str, str]:
        known = {"old": "17", "new": "18", "new 17": "17", "half": ""}
        wanted = self.images()["postgres"]["ref"].rpartition(":")[2]
        return known[self.docker.volumes[self.volume]], wanted

    def misfits(self) -> list[Any]:
        old, new = self.versions()
        return [Misfit("postgres", f"{old} -> {new}", "no")] if old and old != new else []


def dump_database(stack: Stack, running: str, path: Path) -> dict[str, Any]:
    path.parent.mkdir(exist_ok=True)
    path.write_text("dump")
    return FACTS


@contextmanager
def server(cluster: upgrade_cluster.NewCluster) -> Iterator[str]:
    """Only fill the scratch volume."""
    stack: Any = cluster.stack
    stack.docker.volumes[stack.scratch] = "new" if stack.versions()[1] == "18" else "new 17"
    yield "scratch"


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: Any) -> Engine:
    monkeypatch.setattr(upgrade_cluster.postgres, "restore_postgres", lambda *_: None)
    monkeypatch.setattr(upgrade_cluster.postgres, "postgres_state", lambda *_: FACTS)
    monkeypatch.setattr(upgrade_cluster, "service_version", lambda docker, *_: docker.psql)
    monkeypatch.setattr(upgrade_cluster.NewCluster, "server", server)
    monkeypatch.setattr(upgrade, "dump_database", dump_database)
    monkeypatch.setattr(upgrade, "refuse_what_a_dump_lacks", lambda *_: ["work_mem = 1MB"])
    for name, version in (("r17", "17"), ("r18", "18"), ("r18b", "18")):
        folder = tmp_path / "releases" / name
        folder.mkdir(parents=True)
        images = {"postgres": {"ref": f"postgres:{version}", "id": version}}
        (folder / "manifest.json").write_text(json.dumps({"id": name, "images": images}))
    return Engine(tmp_path)


def of(engine: Engine, release: str) -> upgrade.Upgrade:
    """What the module does for a release."""
    path = engine.folder / "releases" / release
    return upgrade.Upgrade(Stack(engine.folder, "demo", path, engine, lambda step: None))


def test_without_being_asked_nothing_is_upgraded(engine: Engine) -> None:
    with pytest.raises(BackupError, match="The data was not touched"):
        of(engine, "r18").prepare(False)
    assert of(engine, "r18").prepare(True)["needed"]
    assert not of(engine, "r17").prepare(True)["needed"]
    assert engine.volumes == {"demo_postgres": "old"}


def test_the_old_data_stays_in_a_volume_of_its_own(engine: Engine) -> None:
    told = of(engine, "r18").upgrade()
    assert engine.volumes == {"demo_postgres": "new", told["kept"]: "old"}
    assert told["kept"].startswith("demo_postgres_17_")
    assert told["rows"] == FACTS["rows"]
    assert Path(told["dump"]).read_text() == "dump"
    assert not of(engine, "r18").prepare(True)["needed"], "run again, nothing is to be done"


def test_a_release_that_is_given_up_gives_the_old_data_back(engine: Engine) -> None:
    kept = of(engine, "r18").upgrade()["kept"]
    assert of(engine, "r17").prepare(False)["put_back"] == kept
    assert engine.volumes == {"demo_postgres": "old"}
    assert not (engine.folder / RECORD).exists()


@pytest.mark.parametrize("how", ["manifest", "current"])
def test_after_a_proved_release_old_data_never_comes_back_by_itself(
    engine: Engine, how: str
) -> None:
    of(engine, "r18").upgrade()
    folder = engine.folder / "releases" / "r18"
    if how == "manifest":
        (folder / "manifest.json").write_text(json.dumps({"verified": {}, "images": {}}))
    else:
        (engine.folder / "current").symlink_to("releases/r18")
    with pytest.raises(BackupError, match="18 -> 17"):
        of(engine, "r17").prepare(True)
    assert engine.volumes["demo_postgres"] == "new"


def test_another_release_of_the_same_version_takes_the_upgrade_over(engine: Engine) -> None:
    kept = of(engine, "r18").upgrade()["kept"]
    assert of(engine, "r18b").prepare(False)["put_back"] == ""
    (engine.folder / "current").symlink_to("releases/r18b")
    with pytest.raises(BackupError):
        of(engine, "r17").prepare(False)
    assert engine.volumes == {"demo_postgres": "new", kept: "old"}


@pytest.mark.parametrize("script", ["COPY", "REPLACE"])
def test_a_step_that_fails_leaves_the_old_data_in_its_place(engine: Engine, script: str) -> None:
    engine.fails = [getattr(upgrade_volumes, script)]
    with pytest.raises(BackupError) as failure:
        of(engine, "r18").upgrade()
    assert "No space left on device. The data is PostgreSQL 17" in str(failure.value)
    assert engine.volumes == {"demo_postgres": "old"}
    assert engine.running
    assert not (engine.folder / RECORD).exists()


def test_when_the_old_data_cannot_be_put_back_it_is_told_where_it_is(engine: Engine) -> None:
    engine.fails = [upgrade_volumes.REPLACE] * 2
    with pytest.raises(BackupError, match="It is whole in the volume demo_postgres_17_"):
        of(engine, "r18").upgrade()
    assert engine.volumes["demo_postgres"] == "half"
    # Whatever is deployed next begins with the old data in its place.
    assert of(engine, "r17").prepare(False)["put_back"]
    assert engine.volumes == {"demo_postgres": "old"}


def test_another_content_is_not_put_in_place(engine: Engine, monkeypatch: Any) -> None:
    state = {**FACTS, "rows": {"public.items": 2}}
    monkeypatch.setattr(upgrade_cluster.postgres, "postgres_state", lambda *_: state)
    with pytest.raises(BackupError, match=r"rows of public\.items: 2 instead of 3"):
        of(engine, "r18").upgrade()
    assert engine.volumes == {"demo_postgres": "old"}


def test_a_database_that_does_not_run_is_not_upgraded(engine: Engine) -> None:
    engine.running = False
    with pytest.raises(BackupError, match="does not run"):
        of(engine, "r18").upgrade()
    assert engine.volumes == {"demo_postgres": "old"}


def test_a_full_disk_is_told_before_anything_is_done(engine: Engine, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine, "text", lambda *_: str(1 << 60))
    with pytest.raises(BackupError, match="free space, then run it again"):
        of(engine, "r18").upgrade()


def test_a_new_cluster_of_the_same_version_is_made_when_it_is_asked_for(engine: Engine) -> None:
    assert not of(engine, "r17").prepare(True)["needed"]
    assert not of(engine, "r17").prepare(False, True)["needed"], "the playbook alone shows the page"
    assert of(engine, "r17").prepare(True, True)["needed"]
    told = of(engine, "r17").upgrade()
    assert engine.volumes == {"demo_postgres": "new 17", told["kept"]: "old"}
    assert Path(told["dump"]).name.startswith("rebuild-17-")
    assert told["settings"] == ["work_mem = 1MB"]


def test_a_new_cluster_of_the_same_version_stays_whatever_fails_then(engine: Engine) -> None:
    """What is written from now on is in it alone, and every release can open it."""
    of(engine, "r17").upgrade()
    assert of(engine, "r17").prepare(False)["put_back"] == ""
    assert engine.volumes["demo_postgres"] == "new 17"
    assert not (engine.folder / RECORD).exists()


@pytest.mark.parametrize("script", ["COPY", "REPLACE"])
def test_a_rebuild_that_fails_leaves_the_old_cluster(engine: Engine, script: str) -> None:
    engine.fails = [getattr(upgrade_volumes, script)]
    with pytest.raises(BackupError, match="No space left"):
        of(engine, "r17").upgrade()
    assert engine.volumes == {"demo_postgres": "old"}
    assert engine.running


@pytest.mark.parametrize("version", ["13.21", "15.13", "17.5", "17"])
def test_a_psql_that_runs_what_a_dump_names_rebuilds_nothing(engine: Engine, version: str) -> None:
    engine.psql = version
    with pytest.raises(BackupError, match=r"CVE-2025-8714.*take an image of 1\d\.\d+ or newer"):
        of(engine, "r17").upgrade()
    assert engine.volumes == {"demo_postgres": "old"}
    assert of(engine, "r18").upgrade()["to"] == "18", "another version is the operator's wish"


def test_a_rebuild_is_refused_before_the_page_is_shown(engine: Engine, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine, "text", lambda *_: str(1 << 60))
    with pytest.raises(BackupError, match="free space, then run it again"):
        of(engine, "r17").prepare(True, True)


def test_a_record_of_an_earlier_edition_is_read_and_written_the_same() -> None:
    """The file lies on servers: an upgrade that was cut off is settled by the next edition."""
    text = (
        '{"old": "17", "new": "18", "release": "r18", "dump": "a.dump", "step": "replaced",'
        ' "kept": "demo_postgres_17_a"}'
    )
    record = parse_record(text)
    assert record.old_volume == "demo_postgres_17_a"
    assert json.loads(format_record(record)) == json.loads(text)
    for damaged in ("", "[]", '"kept"', "{}", '{"kept": "a"}', '{"kept": "a", "other": 1}'):
        with pytest.raises((ValueError, TypeError, KeyError, AttributeError)):
            parse_record(damaged)
