"""A restore that does not get to its end: what is told, marked, and put in order."""

from __future__ import annotations

import json
import os
import stat

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup import restore as restore_module
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends import (
    postgres,
    psql,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.check import check
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.backup.restore import UntouchedError
from ansible_collections.crisper.stack.plugins.module_utils.backup.restore_mark import (
    read_mark,
    refusal,
)
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker
from backup_stack import RELEASE, quiet, settings, timer


class Services:
    """Data services in memory, and what goes wrong in which of them."""

    def __init__(self, monkeypatch):
        self.data = {}
        self.fails = {}
        self.oid = 1
        monkeypatch.setattr(restore_module, "_restore", self.restore)
        monkeypatch.setattr(restore_module, "_schema", lambda *_: str(self.oid))
        monkeypatch.setattr(psql, "end_postgres_sessions", lambda *_: True)
        monkeypatch.setattr(postgres, "has_postgres_database", lambda *_: self.oid > 0)
        monkeypatch.setattr(postgres, "make_postgres_database", self.make_database)
        monkeypatch.setattr(postgres, "make_template_database", lambda *_: None)
        monkeypatch.setattr(
            restore_module, "STATE", {"postgres": lambda *_: {"rows": {"t": self.rows}}}
        )
        self.rows = 1

    def make_database(self, *_):
        if problem := self.fails.get("database"):
            raise problem
        self.oid = 7

    def restore(self, _settings, _running, manifest, _identity, service):
        if problem := self.fails.get(service):
            raise problem
        self.oid += service == "postgres"
        self.data[service] = manifest["set"]
        return {}


@pytest.fixture
def data_services(monkeypatch):
    return Services(monkeypatch)


def put_back(stack, **changes):
    manifest = check(settings(stack), "")
    return restore_module.restore(settings(stack, **changes), manifest, "", quiet)


def test_a_restore_that_ends_leaves_no_mark(stack, made, data_services):
    assert put_back(stack) == {"left_out": {}, "database_made": False}
    assert data_services.data == dict.fromkeys(["postgres", "qdrant", "redis"], made.name)
    assert not (stack / "restoring.json").exists()


def test_a_database_that_is_missing_is_made_and_told(stack, made, data_services):
    """Regression: its owner had dropped it, and no restore made it again."""
    data_services.oid = 0
    data_services.fails["database"] = BackupError("no room")
    with pytest.raises(UntouchedError, match="no room"):
        put_back(stack)
    del data_services.fails["database"]
    assert put_back(stack)["database_made"]
    assert not put_back(stack)["database_made"]


def test_a_database_that_was_not_replaced_is_told_as_that(stack, made, data_services):
    """It is one transaction: the application may start again, and nothing stands in its way."""
    data_services.fails["postgres"] = BackupError("No space left on device")
    with pytest.raises(UntouchedError, match="No space left"):
        put_back(stack)
    assert not (stack / "restoring.json").exists()


def test_a_full_disk_is_told_before_anything_is_replaced(stack, made, data_services, monkeypatch):
    """Regression: the maintenance page stayed, although nothing had been touched."""
    manifest = check(settings(stack), "")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UntouchedError, match="No space left"):
        restore_module.restore(settings(stack), manifest, "", quiet)
    assert data_services.data == {}
    assert [path.name for path in stack.iterdir() if "restoring" in path.name] == []


def test_a_database_that_may_have_been_replaced_is_not(stack, made, data_services, monkeypatch):
    data_services.fails["postgres"] = BackupError("the engine went away")
    monkeypatch.setattr(psql, "end_postgres_sessions", lambda *_: False)
    with pytest.raises(BackupError, match="begun and not known to be whole") as caught:
        put_back(stack)
    assert not isinstance(caught.value, UntouchedError)
    assert (stack / "restoring.json").exists()


@pytest.mark.parametrize("how", [BackupError("no room"), KeyboardInterrupt(), OSError(28, "full")])
def test_data_of_two_moments_is_neither_served_nor_backed_up(stack, made, data_services, how):
    """Regression: a backup took half of a restore for the stack's data, and expired a good set."""
    data_services.fails["qdrant"] = how
    with pytest.raises((BackupError, KeyboardInterrupt, OSError)):
        put_back(stack)
    mark = stack / "restoring.json"
    assert stat.S_IMODE(mark.stat().st_mode) == 0o600
    told = refusal(stack, read_mark(stack))
    assert f"restore of the backup set {made.name} did not get to its end" in told
    assert "postgres: restored; qdrant: begun and not known to be whole; redis: as before" in told
    assert f"playbooks/restore.yml -e backup={made.name}" in told
    with pytest.raises(BackupError, match=r"No set was made\. The restore of the backup set"):
        timer(stack)
    assert [path.name for path in (stack / "backups").iterdir()] == [made.name]

    # The next one begins anew, and does not take for "as before" what the first one touched.
    data_services.fails = {"postgres": BackupError("no room")}
    with pytest.raises(BackupError, match="postgres, qdrant: begun and not known") as caught:
        put_back(stack)
    assert not isinstance(caught.value, UntouchedError)
    data_services.fails = {}
    put_back(stack)
    assert not mark.exists()


def test_what_is_not_what_the_set_says_keeps_the_mark(stack, made, data_services):
    data_services.rows = 2
    with pytest.raises(BackupError, match=r"rows of t: 2 instead of 1.* The data now: postgres"):
        put_back(stack)
    assert read_mark(stack)["set"] == made.name


@pytest.mark.parametrize("text", ["", "{", "[]", '{"parts": 3}', '{"set": 5, "parts": [1]}'])
def test_a_mark_that_cannot_be_read_is_one_all_the_same(tmp_path, text):
    (tmp_path / "restoring.json").write_text(text)
    assert "did not get to its end" in refusal(tmp_path, read_mark(tmp_path))


def test_what_a_killed_restore_left_is_put_in_order_and_told(stack, made, monkeypatch):
    """Regression: Redis, which the restore had stopped, kept every later restore from beginning."""
    assert restore_module.clean_up(settings(stack), quiet) == []
    manifest = {"id": RELEASE, "model": {"data_services": ["postgres", "redis"]}}
    (stack / "releases" / RELEASE / "manifest.json").write_text(json.dumps(manifest))
    (stack / "restoring.json").write_text(
        json.dumps({"set": made.name, "parts": {"postgres": "restored", "redis": "begun"}})
    )
    asked = []

    def run(_docker, *arguments):
        asked.append(arguments)
        text = " ".join(arguments)
        if "crisper.restore=demo" in text:
            return "left1\nleft2\n"
        if arguments[0] == "ps" and "service=redis" in text:
            return "stopped\n" if "--all" in arguments else ""
        return "running\n" if arguments[0] == "ps" else ""

    monkeypatch.setattr(Docker, "run", run)
    done = restore_module.clean_up(settings(stack), quiet)
    assert "postgres: restored; redis: begun and not known to be whole" in done[0]
    assert done[1:] == [
        "2 container(s) of it are removed.",
        "redis, which it had stopped, runs again.",
    ]
    assert ("rm", "--force", "--volumes", "left1", "left2") in asked
    assert ("start", "stopped") in asked
    assert ("start", "running") not in asked
