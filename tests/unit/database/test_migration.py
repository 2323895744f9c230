"""What a module finds of commands that a killed one has left, with a stand-in for the client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import database_migrate
import deploy_begin
import pytest
import release_hooks
from ansible_collections.crisper.stack.plugins.module_utils.release.retention import prune
from ansible_collections.crisper.stack.plugins.module_utils.release.store import ReleaseStore

RELEASE = "20261120t221500z-1a2b3c4d"
OWNER = {"id": "x", "who": "me", "controller": "here", "process": "1"}
LABELS = {"crisper.command": "migrate", "crisper.release": RELEASE, "crisper.command.limit": "5"}
TIMES = {"StartedAt": "2999-01-01T00:00:00Z", "FinishedAt": "2999-01-01T00:00:01Z"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A stack's folder with a release whose migration has begun."""
    folder = tmp_path / "root" / "releases" / RELEASE
    folder.mkdir(parents=True)
    record = {"state": "started", "limit": 5, "irreversible_pattern": "irreversible"}
    manifest = {"id": RELEASE, "irreversible": True, "migration": record}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path / "root"


def client(folder: Path, script: str, **state: Any) -> str:
    """A Docker client; `state` is that of the one container, if there is one."""
    record = {"Config": {"Labels": LABELS, "Cmd": ["timeout", "-k", "5", "migrate"]}}
    record["Name"] = f"/shop-migrate-{RELEASE}"
    record["State"] = {"Status": "exited", **TIMES, **state}
    (folder / "record").write_text(json.dumps([record]))
    path = folder / "docker"
    path.write_text(f'#!/bin/sh\ncd {folder}\necho "$*" >>asked\ncase "$*" in\n{script}\nesac\n')
    path.chmod(0o755)
    return str(path)


LEFT = """
    *"label=crisper.command"*) [ -e removed ] || echo id;;
    "container inspect"*) cat record;;
    logs*) echo Running, irreversible;;
    rm*) touch removed;;
    *version*) echo 26;;
"""


def told(root: Path) -> dict[str, Any]:
    return json.loads((root / "releases" / RELEASE / "manifest.json").read_text())


def test_an_outcome_is_recorded_before_its_container_goes(run_module, root, tmp_path) -> None:
    cli = client(tmp_path, LEFT, ExitCode=0)
    asked = {"state": "collected", "root": str(root), "project": "shop", "docker_cli": cli}
    answer = run_module(database_migrate, **asked)
    assert (answer["changed"], told(root)["migration"]["state"]) == (True, "done")
    assert told(root)["irreversible"] is True
    asks = (tmp_path / "asked").read_text().splitlines()
    assert asks[-1] == f"rm --force --volumes shop-migrate-{RELEASE}"
    assert run_module(database_migrate, **asked)["changed"] is False


def test_an_outcome_that_cannot_be_recorded_keeps_its_container(
    run_module, root, tmp_path, monkeypatch
) -> None:
    def refused(*_arguments: Any) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr(
        "ansible_collections.crisper.stack.plugins.module_utils.release.store.ReleaseStore.annotate",
        refused,
    )
    cli = client(tmp_path, LEFT, ExitCode=0)
    asked = {"state": "collected", "root": str(root), "project": "shop", "docker_cli": cli}
    answer = run_module(database_migrate, **asked)
    assert answer["failed"] is True
    assert "cannot be written: read-only file system" in answer["msg"]
    assert not (tmp_path / "removed").exists()


def test_a_hook_waits_for_what_was_left(run_module, root, tmp_path) -> None:
    cli = client(tmp_path, LEFT, ExitCode=1)
    hooks = {"root": str(root), "project": "shop", "release": RELEASE, "point": "after_switch"}
    assert run_module(release_hooks, **hooks, docker_cli=cli)["changed"] is False
    assert told(root)["migration"]["state"] == "failed"


def test_deploy_begin_gives_its_lock_back_when_it_cannot_look(run_module, root, tmp_path) -> None:
    script = '*"label=crisper.command"*) echo broken >&2; exit 1;; *version*) echo 26;;'
    cli = client(tmp_path, script)
    asked = {"root": str(root), "project": "shop", "owner": OWNER, "docker_cli": cli}
    answer = run_module(deploy_begin, **asked)
    assert answer["failed"] is True
    assert "The engine did not list its containers: “broken”" in answer["msg"]
    assert not (root / "lock").exists()


def test_a_container_of_somebody_else_is_not_taken_for_ones_own(run_module, root, tmp_path) -> None:
    script = """
        *"label=crisper.command"*) ;;
        *" run "*) echo "name is in use" >&2; exit 1;;
        "container inspect"*) echo '[{"Config": {"Labels": {}}}]';;
        rm*) touch removed;;
    """
    cli = client(tmp_path, script)
    hooks = [{"name": "one", "command": ["true"], "timeout": 5}]
    asked = {"root": str(root), "project": "shop", "release": RELEASE, "point": "after_switch"}
    answer = run_module(release_hooks, **asked, hooks=hooks, docker_cli=cli)
    assert answer["failed"] is True
    assert "belongs to no deploy" in answer["msg"]
    assert not (tmp_path / "removed").exists()


def test_nothing_is_done_in_check_mode(run_module, root, tmp_path) -> None:
    cli = client(tmp_path, LEFT, ExitCode=0)
    asked = {"root": str(root), "project": "shop", "release": RELEASE, "docker_cli": cli}
    answer = run_module(database_migrate, check_mode=True, command=["x"], **asked)
    assert answer["changed"] is False
    assert not (tmp_path / "asked").exists()


def test_dumps_go_with_their_release_and_stay_while_somebody_may_go_back_by_them(tmp_path) -> None:
    days = [f"202611{day}t000000z-00000000" for day in (20, 21, 22, 23)]
    facts: list[dict[str, Any]] = [
        {"verified": True},
        {"verified": True},
        {"failed": "x", "irreversible": True},
        {"verified": True},
    ]
    (tmp_path / "backups").mkdir()
    for day, more in zip(days, facts, strict=True):
        folder = tmp_path / "releases" / day
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"id": day, "images": {}, **more}))
        for name in (f"{day}.dump", f"{day}.2.dump"):
            (tmp_path / "backups" / name).touch()
    (tmp_path / "current").symlink_to(f"releases/{days[3]}")
    docker = lambda *_: (0, "", "")  # noqa: E731
    assert prune(ReleaseStore(tmp_path), "shop", 2, docker, False)["pruned"] == days[:1]
    left = {path.name[:19] for path in (tmp_path / "backups").iterdir()}
    assert left == {day[:19] for day in days[1:]}
    # When nobody can go back before it any more, it goes too.
    assert prune(ReleaseStore(tmp_path), "shop", 1, docker, False)["pruned"] == days[1:3]
