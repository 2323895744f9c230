"""Sets on the disk: whole or not there, refused when damaged, under the lock, through a cipher."""

from __future__ import annotations

import stat
import subprocess

import backup_set
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup import set as set_module
from ansible_collections.crisper.stack.plugins.module_utils.backup.check import check
from ansible_collections.crisper.stack.plugins.module_utils.backup.cipher import (
    opened,
    written,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.backup.set import (
    copy_away,
    expire,
    make,
)
from ansible_collections.crisper.stack.plugins.module_utils.journal import Journal
from backup_stack import RELEASE, quiet, settings, timer


def test_a_set_is_whole_private_and_told(stack):
    steps = []
    made = make(settings(stack), steps.append)
    folder = stack / "backups" / made["set"]
    assert made["path"] == str(folder)
    assert made["release"] == RELEASE
    assert list(made["parts"]) == ["redis", "postgres", "qdrant"]
    assert steps == ["back up redis", "back up postgres", "back up qdrant"]
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder)
    assert done.returncode == 0
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert check(settings(stack), "")["set"] == made["set"]


def test_what_fails_leaves_no_set_and_no_draft(stack, monkeypatch):
    def broken(*_):
        raise BackupError("no room")

    monkeypatch.setitem(set_module.DUMP, "qdrant", broken)
    with pytest.raises(BackupError, match="no room"):
        make(settings(stack), quiet)
    assert list((stack / "backups").iterdir()) == []


def test_what_a_killed_backup_left_goes_with_the_next(stack):
    (stack / "backups" / ".draft-20260101t000000z").mkdir(parents=True)
    made = make(settings(stack), quiet)
    assert [path.name for path in (stack / "backups").iterdir()] == [made["set"]]


def test_damage_is_refused_with_the_file(stack):
    made = make(settings(stack), quiet)
    (stack / "backups" / made["set"] / "qdrant.jsonl.gz").write_bytes(b"qdranT")
    with pytest.raises(BackupError, match=r"checksum of qdrant\.jsonl\.gz .* Nothing was touched"):
        check(settings(stack), made["set"])


def test_a_set_that_is_not_there_is_told_with_those_that_are(stack):
    with pytest.raises(BackupError, match=r"no backup set at all .* There: none"):
        check(settings(stack), "")
    made = make(settings(stack), quiet)
    with pytest.raises(BackupError, match=f"no backup set x .* There: {made['set']}"):
        check(settings(stack), "x")


def test_dumps_before_migrations_are_no_sets_and_stay(stack):
    make(settings(stack), quiet)
    dump = stack / "backups" / f"{RELEASE}.dump"
    dump.write_text("of role database")
    assert expire(settings(stack, keep=1)) == []
    assert dump.exists()


def test_an_encrypted_set_needs_its_key(stack, age):
    made = make(settings(stack, encryption="age", recipient=str(age / "right")), quiet)
    folder = stack / "backups" / made["set"]
    names = {path.name for path in folder.iterdir()}
    assert {"postgres.dump.age", "release.json.age", "manifest.json", "SHA256SUMS"} < names
    assert b"postgres" not in (folder / "postgres.dump.age").read_bytes()
    assert check(settings(stack), "", str(age / "right"))["encryption"] == "age"
    with pytest.raises(BackupError, match=r"release\.json\.age cannot be decrypted .* no identity"):
        check(settings(stack), "", str(age / "wrong"))
    with pytest.raises(BackupError, match="key file for age is not there: none was given"):
        check(settings(stack), "")


def test_a_refused_recipient_leaves_no_set(stack, age):
    with pytest.raises(BackupError, match=r"age could not encrypt .* no identity matched"):
        make(settings(stack, encryption="age", recipient=str(age / "wrong")), quiet)
    assert list((stack / "backups").iterdir()) == []


def test_a_missing_tool_is_told_with_its_package(stack, tmp_path, monkeypatch):
    (tmp_path / "key").write_text("x")
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(BackupError, match=r"gpg is not installed .* apt-get install gnupg"),
        written(tmp_path / "file", "gpg", str(tmp_path / "key")),
    ):
        pass


def test_a_reader_that_fails_for_its_own_reasons_is_not_blamed_on_the_key(tmp_path, age):
    path = tmp_path / "file"
    with written(path, "age", str(age / "right")) as stream:
        stream.write(b"x" * 1_000_000)

    def fed():
        with opened(path, "age", str(age / "right")) as stream:
            stream.read(10)
            raise BackupError("the database said no")

    with pytest.raises(BackupError, match="the database said no"):
        fed()


def test_a_copy_lands_where_it_should_and_its_failure_is_told(stack, tmp_path, monkeypatch):
    tools = tmp_path / "copiers"
    tools.mkdir()
    (tools / "rsync").write_text('#!/bin/sh\n[ "$2" = --quiet ] && cp -r "$3" "$4"\n')
    (tools / "rsync").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    made = make(settings(stack), quiet)["set"]
    there = tmp_path / "elsewhere"
    there.mkdir()
    remote = {"remote_tool": "rsync", "remote_target": f"{there}/"}
    copy_away(settings(stack, **remote, remote_options=["--quiet"]), made)
    assert (there / made / "manifest.json").is_file()
    with pytest.raises(BackupError, match=f"The set {made} was made, but not copied to {there}"):
        copy_away(settings(stack, **remote, remote_options=["--loud"]), made)


# --- the timer ---
def test_the_timer_makes_a_set_and_gives_the_lock_back(stack):
    told = timer(stack)
    assert str(stack / "backups") in told
    entries = Journal(stack, "x").entries()
    assert (entries[0]["step"], entries[0]["purpose"]) == ("begin", "backup")
    assert (entries[-1]["step"], entries[-1]["result"]) == ("end", "done")
    assert not (stack / "lock").exists()


def test_the_timer_does_not_act_while_somebody_deploys(stack):
    owner = {"who": "ops", "controller": "laptop", "process": "1@2", "purpose": "deploy"}
    assert Journal(stack, "theirs").acquire(owner) == {}
    with pytest.raises(BackupError, match="deploy theirs of ops has had the stack"):
        timer(stack)
    assert Journal(stack, "x").lock()["run"] == "theirs"
    assert not (stack / "backups").exists()


def test_a_timer_that_fails_says_so_in_the_journal(stack, monkeypatch):
    def broken(*_):
        raise BackupError("no room")

    monkeypatch.setitem(set_module.DUMP, "redis", broken)
    with pytest.raises(BackupError, match="no room"):
        timer(stack)
    assert Journal(stack, "x").entries()[-1]["result"] == "failed"
    assert not (stack / "lock").exists()


# --- the module ---
def test_the_module_tells_that_nothing_is_deployed(run_module, tmp_path):
    result = run_module(backup_set, root=str(tmp_path), project="demo")
    assert result["failed"]
    assert "deploy first" in result["msg"]


def test_the_module_plans_without_touching(run_module, stack):
    result = run_module(backup_set, check_mode=True, root=str(stack), project="demo")
    assert result["changed"]
    assert not (stack / "backups").exists()


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_copy_in_plain_is_warned_of_before_it_is_made(stack, monkeypatch, check_mode):
    """By `--check`, which is the plan of a backup, too."""
    monkeypatch.setattr(backup_set, "copy_away", lambda *_: [])
    given = dict.fromkeys(backup_set.ARGUMENT_SPEC, "") | {
        **{"root": str(stack), "project": "demo", "state": "made", "keep": 7, "keep_days": 0},
        **{"timeout": 60, "run": None, "remote_encrypted": False},
        **{"remote_tool": "rsync", "remote_target": "backup@elsewhere:/srv"},
    }
    warned = []
    backup_set.act(given, check_mode, warned.append)
    assert "copied to backup@elsewhere:/srv by rsync without encryption" in warned[0]
    backup_set.act({**given, "remote_encrypted": True}, True, warned.append)
    assert len(warned) == 1
