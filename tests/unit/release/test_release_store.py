"""The one store of releases: what it reads, and what it leaves when it is stopped half-way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import release
from ansible_collections.crisper.stack.plugins.module_utils.release.manifest import DRAFT, MANIFEST
from ansible_collections.crisper.stack.plugins.module_utils.release.store import (
    ReleaseError,
    ReleaseStore,
)

OLD, NEW = "20261120t221500z-1a2b3c4d", "20261121t221500z-5e6f7a8b"
FILES = [
    {"path": ".env", "content": "A=1\n", "mode": "0644", "owner": 0},
    {"path": "secrets/x", "content": "ü", "mode": "0600", "owner": 0},
]


@pytest.fixture
def store(tmp_path):
    """One release, which serves."""
    store = ReleaseStore(tmp_path)
    store.add({"id": OLD, "verified": {"tasks": ["a"]}}, FILES, lambda _folder: None)
    store.link("current", OLD)
    return store


def test_a_release_is_written_whole(store):
    folder = store.folder / OLD
    assert (folder / ".env").read_text() == f"A=1\nRELEASE={OLD}\n"
    assert (folder / "secrets/x").stat().st_mode & 0o777 == 0o600
    assert (folder / "secrets").stat().st_mode & 0o777 == 0o700
    assert (folder / MANIFEST).stat().st_mode & 0o777 == 0o600
    assert set(store.manifests[OLD]["checksums"]) == {".env", "secrets/x"}
    assert (store.current, store.staged) == (OLD, "")
    assert store.releases[0]["current"]


def test_of_one_that_is_refused_nothing_stays(store):
    def refuse(_folder):
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        store.add({"id": NEW}, FILES, refuse)
    assert [path.name for path in store.folder.iterdir()] == [OLD]


def test_what_a_killed_deploy_left_goes(store):
    (store.folder / f"{DRAFT}x").mkdir()
    store.add({"id": NEW}, FILES, lambda _folder: None)
    store.link("next", NEW)
    assert sorted(store.manifests) == [OLD, NEW]
    assert len(list(store.folder.iterdir())) == 2
    store.take_back(NEW)
    assert (store.staged, sorted(store.manifests)) == ("", [OLD])


def test_facts_are_added_and_a_damaged_manifest_is_kept(store):
    store.annotate(OLD, {"failed": "x"})
    assert (store.manifests[OLD]["failed"], store.proved([OLD, NEW])) == ("x", [OLD])
    path = store.folder / OLD / MANIFEST
    path.write_text("{")
    with pytest.raises(ValueError, match="Expecting"):
        store.annotate(OLD, {"failed": "y"})
    assert path.read_text() == "{"
    with pytest.raises(ReleaseError, match="cannot be read"):
        store.linked_manifest("current")
    with pytest.raises(ReleaseError, match="no verified release before"):
        store.find()


def test_the_states_of_kept_releases(run_module, store):
    """They were those of a module of their own."""
    given = {"root": str(store.root), "stack": "demo", "docker_cli": "false"}
    assert [one["id"] for one in run_module(release, state="listed", **given)["releases"]] == [OLD]
    facts = {"database_behind": "x"}
    for check_mode, changed in ((True, True), (False, True), (False, False)):
        answer = run_module(release, check_mode, state="annotated", facts=facts, **given)
        assert answer["changed"] is changed
    assert not run_module(release, state="abandoned", **given)["changed"]
    store.add({"id": NEW}, FILES, lambda _folder: None)
    store.link("next", NEW)
    assert run_module(release, state="abandoned", reason="why", **given)["changed"]
    assert (store.staged, store.manifests[NEW]["failed"]) == ("", "why")
    gone = run_module(release, state="pruned", keep=1, **given)
    assert (gone["pruned"], list(store.manifests)) == ([NEW], [OLD])
    wrong = run_module(release, state="put_back", id="nonsense", **given)
    assert "Release nonsense is not kept on this server" in wrong["msg"]
    assert json.loads((Path(store.root) / "current" / MANIFEST).read_text())["id"] == OLD
