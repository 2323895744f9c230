"""Whether a kept release can be put back, told with everything that is in the way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import release
from ansible_collections.crisper.stack.plugins.module_utils.journal import Journal
from ansible_collections.crisper.stack.plugins.module_utils.release.rollback_check import (
    check_rollback,
    damaged,
    known_images,
)
from ansible_collections.crisper.stack.plugins.module_utils.release.store import ReleaseStore

OLD, NEW = "20261120t221500z-1a2b3c4d", "20261121t221500z-5e6f7a8b"
BACKEND, REDIS = "sha256:" + "1" * 64, "sha256:" + "2" * 64
IMAGES = {
    "backend": {"ref": "demo/backend:app", "id": BACKEND},
    "redis": {"ref": "docker.io/library/redis:8.0", "id": REDIS},
}
HERE = f"{BACKEND} demo/backend:{OLD}\n{REDIS} redis:8.0\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two proved releases, of which the newer one serves."""
    for name in (OLD, NEW):
        folder = tmp_path / "releases" / name
        folder.mkdir(parents=True)
        (folder / "docker-compose.prod.yml").write_text(name)
        sums = {"docker-compose.prod.yml": hashlib.sha256(name.encode()).hexdigest()}
        manifest = {"id": name, "fingerprint": name[-8:], "created": "2026", "images": IMAGES}
        manifest |= {"checksums": sums, "verified": {"tasks": ["a"]}}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "current").symlink_to(f"releases/{NEW}")
    return tmp_path


def engine(images: str) -> Callable[..., tuple[int, str, str]]:
    """A Docker client that has these images."""
    return lambda *_: (0, images, "")


def annotate(root: Path, name: str, **facts: Any) -> None:
    """Add to a manifest."""
    path = root / "releases" / name / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def test_the_release_before_the_current_one_is_fit(root: Path) -> None:
    found, problem = check_rollback(ReleaseStore(root), "demo", "", False, engine(HERE))
    assert problem == ""
    assert (found["id"], found["tasks"], found["named"]) == (OLD, ["a"], True)
    renamed = HERE.replace(f"demo/backend:{OLD}", "demo/backend:other")
    found, problem = check_rollback(ReleaseStore(root), "demo", OLD, False, engine(renamed))
    assert (problem, found["named"]) == ("", False)


def test_everything_in_the_way_is_told_at_once(root: Path) -> None:
    (root / "releases" / OLD / "docker-compose.prod.yml").write_text("other")
    annotate(root, NEW, irreversible=True)
    found, problem = check_rollback(
        ReleaseStore(root), "demo", OLD, False, engine(HERE.splitlines()[0])
    )
    assert found == {}
    for text in (
        f"Release {OLD} cannot be put back",
        "docker-compose.prod.yml was altered",
        "the image of redis (sha256:222222222222) is gone",
        "-e restore_database=true",
        "Kept: ",
    ):
        assert text in problem


def test_the_database_goes_back_only_to_a_backup_that_is_there(root: Path) -> None:
    annotate(root, NEW, irreversible=True)
    assert (
        "none was taken" in check_rollback(ReleaseStore(root), "demo", OLD, True, engine(HERE))[1]
    )
    dump = root / "a.dump"
    annotate(root, NEW, backup={"path": str(dump)})
    assert (
        f"is gone ({dump})"
        in check_rollback(ReleaseStore(root), "demo", OLD, True, engine(HERE))[1]
    )
    dump.touch()
    assert check_rollback(ReleaseStore(root), "demo", OLD, True, engine(HERE))[1] == ""


def test_a_dump_that_was_altered_or_damaged_is_not_put_back(root: Path) -> None:
    """Regression: its checksum was kept and never looked at."""
    dump = root / "a.dump"
    dump.write_bytes(b"as it was")
    digest = hashlib.sha256(b"as it was").hexdigest()
    annotate(root, NEW, irreversible=True, backup={"path": str(dump), "sha256": digest})
    found, problem = check_rollback(ReleaseStore(root), "demo", OLD, True, engine(HERE))
    assert problem == ""
    assert found["irreversible"][0]["dump"]["sha256"] == digest
    dump.write_bytes(b"as it is")
    problem = check_rollback(ReleaseStore(root), "demo", OLD, True, engine(HERE))[1]
    assert f"the backup {dump} is not the one that was made: its SHA-256 differs" in problem


def test_a_release_that_is_not_kept_is_refused_with_those_that_are(root: Path) -> None:
    problem = check_rollback(ReleaseStore(root), "demo", "nonsense", False, engine(HERE))[1]
    assert problem.startswith("Release nonsense is not kept on this server. Kept: " + OLD)
    (root / "current").unlink()
    (root / "current").symlink_to(f"releases/{OLD}")
    assert (
        "There is no verified release before"
        in check_rollback(ReleaseStore(root), "demo", "", False, engine(""))[1]
    )


def test_a_release_that_was_never_proved_is_not_put_back(root: Path) -> None:
    """Regression: `-e release=<failed one>` put a release live that had failed."""
    annotate(root, OLD, verified={}, failed="the migration failed\nLast lines: …")
    found, problem = check_rollback(ReleaseStore(root), "demo", OLD, False, engine(HERE))
    assert found == {}
    assert f"Release {OLD} cannot be put back: it was never verified: the migr" in problem
    assert "Last lines" not in problem
    assert "Kept: none." in problem


def test_a_rollback_across_a_major_version_of_postgresql_is_refused(
    root: Path, tmp_path: Path
) -> None:
    """Regression: it was refused when the data services had been stopped already."""
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "PG_VERSION").write_text("18\n")
    postgres = {"ref": "docker.io/library/postgres:17", "id": "sha256:" + "3" * 64}
    annotate(root, OLD, images={**IMAGES, "postgres": postgres})

    def docker(*words: str) -> tuple[int, str, str]:
        if words[:2] == ("volume", "inspect"):
            return 0, json.dumps(str(volume)), ""
        if "{{json .Config.Env}}" in words:
            return 0, json.dumps(["PG_MAJOR=17"]), ""
        return 0, f"{HERE}{postgres['id']} postgres:17\n", ""

    found, problem = check_rollback(ReleaseStore(root), "demo", OLD, False, docker)
    assert found == {}
    assert "PostgreSQL 17, and the data in the volume demo_postgres is of PostgreSQL 18" in problem
    assert "docs/BACKUP.md" in problem
    # After an upgrade that was cut off the old data is there still, and is put back first.
    (root / "upgrade.json").write_text("{}")
    assert check_rollback(ReleaseStore(root), "demo", OLD, False, docker)[1] == ""


def test_a_release_that_is_put_back_takes_the_place_of_a_staged_one(
    run_module: Any, root: Path
) -> None:
    """Regression: a rollback left `next`, and the next run took it for what was wanted."""
    staged = "20261122t221500z-aaaaaaaa"
    folder = root / "releases" / staged
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"id": staged}))
    (root / "next").symlink_to(f"releases/{staged}")
    seen = run_module(release, root=str(root), stack="demo", state="put_back", id=OLD)
    assert seen["changed"]
    assert not (root / "next").is_symlink()
    failed = json.loads((folder / "manifest.json").read_text())["failed"]
    assert failed == f"given up: release {OLD} was put back"


def test_files_are_missing_or_altered(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    right = hashlib.sha256(b"a").hexdigest()
    assert damaged(tmp_path, {"a": right}) == []
    told = ["a was altered", "b is missing"]
    assert damaged(tmp_path, {"a": "0", "b": right}) == told


def test_the_engine_tells_names_without_what_docker_takes_for_granted() -> None:
    wanted = ["docker.io/library/redis:8.0", "registry.example/redis:8.0"]
    assert known_images(engine(HERE), wanted) == {"docker.io/library/redis:8.0": (REDIS, REDIS)}


@pytest.fixture
def client(tmp_path: Path) -> tuple[str, Path]:
    """A Docker client whose ledger has counted, and the commands it got."""
    program, told = tmp_path / "docker", tmp_path / "told"
    reply = json.dumps({"tasks": {"lost": 0}, "requests": {"failed": 0}})
    program.write_text(
        f'#!/bin/sh\necho "$*" >>{told}\n'
        f"[ \"$1\" != logs ] || echo 'CRISPER-SHIPPED-REPLY:{reply}'\n"
    )
    program.chmod(0o755)
    return str(program), told


def test_a_rollback_ends_with_the_promotion(run_module: Any, root: Path, client: Any) -> None:
    cli, told = client
    journal = Journal(root, "a-run")
    owner = {"who": "ops", "controller": "c", "process": "1@2", "purpose": "rollback"}
    journal.acquire(owner)
    given = {"root": str(root), "stack": "demo", "state": "put_back", "docker_cli": cli}
    given |= {"id": OLD, "run": {"root": str(root), "id": "a-run"}}
    given |= {"ledger": {"name": "demo-ledger", "wait": 3}, "ends": True}
    seen = run_module(release, check_mode=True, **given)
    assert (seen["changed"], seen["ended"], "counted" in seen) == (True, False, False)
    assert not told.exists()
    seen = run_module(release, **given)
    assert (root / "current").resolve().name == OLD
    assert seen["counted"] == {"tasks": {"lost": 0}, "requests": {"failed": 0}, "error": ""}
    assert told.read_text().splitlines()[0] == "stop --time 23 demo-ledger"
    assert "rm --force --volumes demo-ledger" in told.read_text()
    assert seen["ended"]
    assert [entry["step"] for entry in journal.entries()] == ["begin", "promote", "end"]
    assert journal.lock() == {}


def test_the_manifest_gets_what_was_counted(run_module: Any, root: Path, client: Any) -> None:
    cli, _told = client
    (root / "next").symlink_to(f"releases/{OLD}")
    given = {"root": str(root), "stack": "demo", "state": "current", "docker_cli": cli}
    given |= {"facts": {"deploy": {"longest_task": 2.0}}, "ledger": {"name": "demo-ledger"}}
    seen = run_module(release, **given)
    assert seen["counted"]["error"] == ""
    kept = json.loads((root / "current" / "manifest.json").read_text())["deploy"]
    counted = {"longest_task": 2.0, "tasks": {"lost": 0}, "requests": {"failed": 0}}
    assert kept == counted


def test_a_ledger_that_is_gone_is_told_and_fails_nothing(run_module: Any, root: Path) -> None:
    given = {"root": str(root), "stack": "demo", "state": "put_back", "docker_cli": "false"}
    seen = run_module(release, id=OLD, ledger={"name": "demo-ledger"}, **given)
    assert "it was not running" in seen["counted"]["error"]
    assert (root / "current").resolve().name == OLD
