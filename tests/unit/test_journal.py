"""The journal and the lock: who may act, what was cut off, and what is waited for."""

from __future__ import annotations

import fcntl
import json
import time
from pathlib import Path

import deploy_journal
import pytest
from ansible_collections.crisper.stack.plugins.module_utils import journal as journal_module
from ansible_collections.crisper.stack.plugins.module_utils.journal import (
    Journal,
    NotOwnerError,
    held_by_other,
    last_host,
    parse_lines,
    seconds_per_step,
    unfinished,
)
from hypothesis import given
from hypothesis import strategies as st
from journal_runs import OWNER, acting, end_process

STEPS = st.lists(st.sampled_from(["begin", "stage", "start", "stop_old", "end"]), max_size=12)


@given(st.text())
def test_any_text_is_a_journal(text):
    assert all("run" in entry and "step" in entry for entry in parse_lines(text))


OLDER = [("leave", "cancel_consumers"), ("swap", "replace"), ("retire", "stop_old")]


@pytest.mark.parametrize(("former", "step"), [*OLDER, ("start", "start"), ("promote", "promote")])
def test_steps_of_an_older_edition_are_read_as_those_of_this_one(tmp_path, former, step):
    """A server that is upgraded in the middle of a deploy has the former names in both files."""
    lines = [{"run": "r", "step": name, "time": 5} for name in ("begin", former)]
    (tmp_path / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "lock").write_text(json.dumps({"run": "r", "step": former, "until": 0}))
    journal = Journal(tmp_path, "s")
    assert unfinished(journal.entries())["steps"] == ["begin", step]
    assert journal.lock()["step"] == step
    assert seconds_per_step(journal.entries(), "r", 9) == {"begin": 0.0, step: 4.0}


@given(STEPS)
def test_only_a_last_line_that_is_no_end_is_unfinished(steps):
    entries = [{"run": "r1", "step": step} for step in steps]
    left = unfinished(entries)
    assert bool(left) == bool(steps and steps[-1] != "end")
    if left:
        assert left["step"] == steps[-1]


def test_a_backup_that_ended_hides_no_deploy_that_was_cut_off():
    deploy = [{"run": "d", "step": "begin", "purpose": "deploy"}, {"run": "d", "step": "start"}]
    backup = [{"run": "b", "step": "begin", "purpose": "backup"}, {"run": "b", "step": "end"}]
    assert unfinished([*deploy, *backup])["run"] == "d"
    assert unfinished([*deploy, *backup[:1]])["run"] == "b"
    assert unfinished([*deploy, {"run": "d", "step": "end"}, *backup]) == {}


def test_a_later_backup_takes_the_place_of_one_that_was_cut_off():
    """Regression: three backups later the status still said that a deploy picks it up."""

    def backup(run, **end):
        begun = [{"run": run, "step": "begin", "purpose": "backup"}, {"run": run, "step": "copy"}]
        return begun + ([{"run": run, "step": "end", **end}] if end else [])

    cut = backup("cut")
    assert unfinished(cut)["run"] == "cut"
    assert unfinished([*cut, *backup("later", result="done")]) == {}
    assert unfinished([*cut, *backup("later", result="failed")])["run"] == "cut"
    done = [*backup("first", result="done"), *cut]
    assert unfinished(done)["run"] == "cut", "the one that is done came before"
    again = [*cut, *backup("later", result="done"), *backup("failed", result="failed")]
    assert unfinished(again) == {}
    # Of a deploy that was cut off before them a backup takes no place.
    deploy = [{"run": "d", "step": "begin", "purpose": "deploy"}, {"run": "d", "step": "start"}]
    assert unfinished([*deploy, *cut, *backup("later", result="done")])["run"] == "d"


def test_a_line_that_a_crash_cut_off_is_left_out():
    whole = json.dumps({"run": "a", "step": "begin"})
    assert parse_lines(f'{whole}\n{{"run": "a", "st') == [{"run": "a", "step": "begin"}]


def test_half_a_line_swallows_no_other(tmp_path):
    """Regression: a backup's begin was lost with it, and its end hid an earlier cut-off deploy."""
    journal = Journal(tmp_path, "d")
    assert journal.acquire(OWNER) == {}
    journal.note("start")
    with (tmp_path / "journal.jsonl").open("a") as stream:
        stream.write('{"at": "2026-11-27T19:00:00+00:00", "ru')
    end_process()
    backup = Journal(tmp_path, "b")
    assert backup.acquire({**OWNER, "purpose": "backup"}, dead="d") == {}
    backup.end("done")
    assert unfinished(backup.entries())["run"] == "d"
    assert [entry["step"] for entry in backup.entries()] == ["begin", "start", "begin", "end"]


@pytest.mark.parametrize("until", ["soon", None, [], {}])
def test_a_lock_whose_time_cannot_be_read_is_past_it(tmp_path, until):
    """Regression: every deploy ended with a traceback."""
    (tmp_path / "lock").write_text(json.dumps({"run": "x", "until": until}))
    with (tmp_path / ".busy").open("a") as acting:
        fcntl.flock(acting, fcntl.LOCK_SH)
        assert Journal(tmp_path, "mine").acquire(OWNER)["busy"]
    assert Journal(tmp_path, "mine").acquire(OWNER) == {}


def test_seconds_are_those_between_steps_of_the_run():
    entries = [
        {"run": "a", "step": "begin", "time": 10.0},
        {"run": "b", "step": "begin", "time": 11.0},
        {"run": "a", "step": "start", "time": 14.5},
        {"run": "a", "step": "end", "time": 15.0},
    ]
    assert seconds_per_step(entries, "a", 20.0) == {"begin": 4.5, "start": 5.5}


@pytest.mark.parametrize(
    ("lock", "dead", "held"),
    [
        ({}, "", False),
        ({"run": "mine", "until": 100}, "", False),
        ({"run": "other", "until": 100}, "", True),
        ({"run": "other", "until": 99}, "", False),
        ({"run": "other", "until": 100}, "other", False),
        ({"run": "other", "until": 100}, "third", True),
    ],
)
def test_a_lock_is_held_while_its_owner_may_live(lock, dead, held):
    assert bool(held_by_other(lock, "mine", 99.5, dead)) == held


def test_one_acts_and_the_other_is_told_who(tmp_path):
    first, second = Journal(tmp_path, "first"), Journal(tmp_path, "second")
    assert first.acquire(OWNER) == {}
    first.note("start")
    other = second.acquire(OWNER)
    assert (other["run"], other["who"], other["step"]) == ("first", "ops", "start")
    assert first.end("done")
    end_process()
    assert second.acquire(OWNER) == {}
    assert [e["step"] for e in first.entries()] == ["begin", "start", "end", "begin"]


def test_who_lost_the_lock_stops(tmp_path):
    first, second = Journal(tmp_path, "first"), Journal(tmp_path, "second")
    first.acquire(OWNER)
    assert second.acquire(OWNER, dead="first") == {}
    with pytest.raises(NotOwnerError, match="second of ops has it"):
        first.note("stop_old")
    assert not first.end("done")
    assert second.lock()["run"] == "second"


def test_what_a_cut_off_deploy_still_does_is_waited_for(tmp_path):
    actor = acting(tmp_path, "first")
    try:
        second = Journal(tmp_path, "second")
        assert not second.quiet(0.5)
        actor.kill()
        actor.wait()
        assert second.quiet(5)
    finally:
        actor.kill()
        actor.wait()


def write_lock(root: Path, **facts: object) -> None:
    """Change what the lock says."""
    path = root / "lock"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))


def test_a_lock_past_its_time_stays_with_whoever_acts(tmp_path):
    """Regression: a second deploy took the lock of one that migrated for more than an hour."""
    actor = acting(tmp_path, "first")
    try:
        write_lock(tmp_path, until=0)
        second = Journal(tmp_path, "second")
        refused = second.acquire(OWNER)
        assert (refused["run"], refused["busy"]) == ("first", True)
        assert second.acquire(OWNER, dead="first")["busy"]
        assert [entry["run"] for entry in second.entries()] == ["first", "first"]
    finally:
        actor.kill()
        actor.wait()
    assert second.acquire(OWNER) == {}


def test_a_module_that_acts_renews_the_lock_until_it_is_lost(tmp_path):
    actor = acting(
        tmp_path, "first", "c.HEARTBEAT = 0.05; c.PATIENCE = 0.3; j.acquire(dict(who=str(1)))"
    )
    try:
        first = Journal(tmp_path, "first").lock()["until"]
        deadline = time.monotonic() + 5
        while Journal(tmp_path, "first").lock()["until"] == first:
            assert time.monotonic() < deadline
        # Another deploy's lock is never written.
        write_lock(tmp_path, run="second", until=1)
        time.sleep(0.3)
        assert Journal(tmp_path, "x").lock()["until"] == 1
    finally:
        actor.kill()
        actor.wait()


def test_a_step_without_a_process_on_the_server_may_take_its_time(tmp_path):
    journal = Journal(tmp_path, "first")
    journal.acquire(OWNER)
    journal.note("hooks", patience=5000)
    assert journal.lock()["until"] - time.time() > 8000
    assert journal.renew()
    assert journal.lock()["until"] - time.time() > 8000


def test_a_journal_that_cannot_be_written_stops_the_deploy(tmp_path, monkeypatch):
    journal = Journal(tmp_path, "first")
    journal.acquire(OWNER)

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(journal, "_append", refuse)
    with pytest.raises(NotOwnerError, match=r"Step start was not begun.*Read-only"):
        journal.note("start")


def test_a_run_that_changed_nothing_hides_no_deploy_that_was_cut_off():
    cut = [{"run": "d", "step": "begin", "purpose": "deploy"}, {"run": "d", "step": "start"}]
    idle = [{"run": "e", "step": "begin", "purpose": "deploy"}]
    failed = {"run": "e", "step": "end", "result": "failed"}
    assert unfinished([*cut, *idle, failed])["run"] == "d"
    assert unfinished([*cut, *idle, {"run": "e", "step": "stage"}, failed]) == {}
    assert unfinished([*cut, *idle, {**failed, "result": "done"}]) == {}


def test_a_deploy_that_could_not_be_undone_is_unfinished():
    entries = [{"run": "d", "step": "begin", "who": "ops"}, {"run": "d", "step": "start"}]
    end = {"run": "d", "step": "end", "result": "failed"}
    assert unfinished([*entries, end]) == {}
    left = unfinished([*entries, {**end, "open": True}])
    assert (left["run"], left["step"], left["who"], left["open"]) == ("d", "start", "ops", True)


def test_a_long_journal_is_cut_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "LARGEST_BYTES", 2000)
    monkeypatch.setattr(journal_module, "TAIL_BYTES", 1000)
    journal = Journal(tmp_path, "r")
    journal.acquire(OWNER)
    for number in range(60):
        journal.note(f"step{number}")
    journal.end("done")
    end_process()
    journal.acquire(OWNER)
    assert (tmp_path / "journal.jsonl").stat().st_size < 1500
    assert journal.entries()[-1]["step"] == "begin"


def begun(run, host="", purpose="deploy"):
    """The journal's lines of a run; `host` is written down when it has staged."""
    lines = [{"run": run, "step": "begin", "purpose": purpose}]
    return lines + ([{"run": run, "step": "stage", "host": host}] if host else [])


@pytest.mark.parametrize(
    ("entries", "digest"),
    [
        ([], ""),
        (begun("a", "one"), "one"),
        (begun("a", "one") + begun("b", "two"), "two"),
        # cut off before it had staged: nobody knows what it did to the host
        (begun("a", "one") + begun("b"), ""),
        # a rollback and a backup leave the host alone
        (begun("a", "one") + begun("b", purpose="rollback") + begun("c", purpose="backup"), "one"),
    ],
)
def test_what_the_last_deploy_made_of_the_host_is_known(entries, digest):
    assert last_host(entries) == digest


def test_steps_and_the_end_are_written_by_the_module(run_module, tmp_path):
    run = {"root": str(tmp_path), "id": "first"}
    Journal(tmp_path, "first").acquire(OWNER)
    run_module(deploy_journal, run=run, state="step", step="database")
    run_module(deploy_journal, run=run, state="ended", result="reverted", facts={"failure": "x"})
    entries = run_module(deploy_journal, run=run)["entries"]
    assert [entry["step"] for entry in entries] == ["begin", "database", "end"]
    assert (entries[-1]["result"], entries[-1]["failure"]) == ("reverted", "x")
    refused = run_module(deploy_journal, run=run, state="step", step="start")
    assert refused["failed"]
    assert "lost its lock" in refused["msg"]
    assert time.time() - entries[0]["time"] < 60
