"""Nobody but who may act on a stack can hold its locks, and nobody is waited for without an end."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deploy_begin
import deploy_journal
import pytest
from ansible_collections.crisper.stack.plugins.module_utils import lock
from ansible_collections.crisper.stack.plugins.module_utils.journal import (
    BUSY,
    Journal,
    NotOwnerError,
)
from ansible_collections.crisper.stack.plugins.module_utils.lock import LockedError, holders, take
from ansible_collections.crisper.stack.plugins.module_utils.proxy import tls_hook

OWNER = {"who": "ops", "controller": "laptop", "process": "1@2", "purpose": "deploy"}
NOBODY = 65534
MODULES = str(Path(__file__).resolve().parents[2] / "collections")
# Holds a lock of that kind as that user, and lives until its input ends.
HOLD = """
import fcntl, os, sys
path, user, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3]
if user:
    os.setgroups([]); os.setgid(user); os.setuid(user)
stream = open(path)
fcntl.flock(stream, getattr(fcntl, kind))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A stack's folder that any user can enter, as earlier editions left it."""
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    root = tmp_path / "stack"
    root.mkdir()
    root.chmod(0o755)
    for name in (".lock", ".busy", "lock", "journal.jsonl"):
        (root / name).touch()
        (root / name).chmod(0o644)
    return root


class Holding:
    """A process that holds a lock file."""

    def __init__(self, path: Path, user: int, kind: str = "LOCK_EX") -> None:
        command = [sys.executable, "-c", HOLD, str(path), str(user), kind]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd="/")
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def end(self) -> None:
        """Let it go."""
        self.process.communicate("")


@pytest.fixture
def hold() -> Iterator[Any]:
    """Start processes that hold a lock; all end with the test."""
    started: list[Holding] = []

    def run(*arguments: Any) -> Holding:
        started.append(Holding(*arguments))
        return started[-1]

    yield run
    for each in started:
        each.end()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@needs_root
@pytest.mark.parametrize("kind", ["LOCK_EX", "LOCK_SH"])
def test_a_local_user_hangs_no_deploy(root: Path, hold: Any, kind: str) -> None:
    """Regression: `flock /opt/demo/.lock sleep 1000` of any user hung deploys and backups."""
    hold(root / ".lock", NOBODY, kind)
    hold(root / ".busy", NOBODY, kind)
    journal = Journal(root, "mine")
    began = time.monotonic()
    assert journal.acquire(OWNER) == {}
    journal.note("start")
    assert journal.renew()
    assert journal.end("done")
    assert time.monotonic() - began < 5


@needs_root
def test_a_local_user_hangs_no_renewal(root: Path, hold: Any) -> None:
    hold(root / ".lock", NOBODY)
    began = time.monotonic()
    with tls_hook.between_deploys(root, 30):
        assert time.monotonic() - began < 5


@needs_root
def test_a_stranger_beside_a_deploy_hides_no_deploy(root: Path, hold: Any) -> None:
    hold(root / ".busy", NOBODY, "LOCK_SH")
    ours = hold(root / ".busy", 0, "LOCK_SH")
    journal = Journal(root, "mine")
    assert not journal.quiet(0)
    ours.end()
    assert journal.quiet(0), "and the stranger alone is nobody"


def test_who_may_act_is_waited_for_and_named(
    root: Path, hold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = hold(root / ".lock", 0)
    monkeypatch.setattr(
        "ansible_collections.crisper.stack.plugins.module_utils.journal.GUARD_SECONDS", 0.3
    )
    with pytest.raises(LockedError) as caught:
        Journal(root, "mine").acquire(OWNER)
    assert f"is held by process {held.process.pid} ({sys.executable}" in str(caught.value)
    assert "was not free within 0.3 s" in str(caught.value)
    held.end()
    assert Journal(root, "mine").acquire(OWNER) == {}


def test_deploy_begin_names_who_holds_its_lock(
    run_module: Any, root: Path, hold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = hold(root / ".lock", 0)
    monkeypatch.setattr(
        "ansible_collections.crisper.stack.plugins.module_utils.journal.GUARD_SECONDS", 0.1
    )
    owner = {"id": "mine", "who": "ops", "controller": "c", "process": "1@2"}
    told = run_module(
        deploy_begin, root=str(root), project="demo", owner=owner, docker_cli="/nowhere/docker"
    )
    assert told["failed"]
    assert f"process {held.process.pid}" in told["msg"]
    assert told["msg"].endswith("This run has changed nothing.")


def test_deploy_begin_names_a_process_that_still_acts(
    run_module: Any, root: Path, hold: Any
) -> None:
    held = hold(root / ".busy", 0, "LOCK_SH")
    owner = {"id": "mine", "who": "ops", "controller": "c", "process": "1@2"}
    options = {"root": str(root), "project": "demo", "owner": owner, "quiet_timeout": 0}
    told = run_module(deploy_begin, docker_cli="/nowhere/docker", **options)
    assert f"process {held.process.pid} (" in told["msg"]


def test_a_step_is_not_begun_while_its_lock_is_held(
    root: Path, hold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(root, "mine")
    assert journal.acquire(OWNER) == {}
    held = hold(root / BUSY, 0)
    monkeypatch.setattr(
        "ansible_collections.crisper.stack.plugins.module_utils.journal.GUARD_SECONDS", 0.1
    )
    with pytest.raises(NotOwnerError, match=rf"not begun: .*process {held.process.pid} "):
        journal.note("start")
    assert [entry["step"] for entry in journal.entries()] == ["begin"]


def modes(root: Path) -> dict[str, str]:
    """Modes of a stack's folder and files."""
    names = (".", ".lock", ".busy", "lock", "journal.jsonl")
    return {n: oct(stat.S_IMODE((root / n).stat().st_mode)) for n in names if (root / n).exists()}


CLOSED = {".": "0o750", ".lock": "0o600", ".busy": "0o600", "lock": "0o600"}
CLOSED["journal.jsonl"] = "0o640"


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o000])
@pytest.mark.parametrize("new", [True, False])
def test_a_stack_is_closed_for_others(tmp_path: Path, root: Path, umask: int, new: bool) -> None:
    where = tmp_path / "other" if new else root
    before = os.umask(umask)
    try:
        journal = Journal(where, "mine")
        journal.acquire(OWNER)
        journal.note("start")
    finally:
        os.umask(before)
    assert modes(where) == CLOSED


def test_a_group_that_shares_a_stack_keeps_it(root: Path) -> None:
    root.chmod(0o2775)
    Journal(root, "mine").acquire(OWNER)
    assert modes(root)["."] == "0o2770"
    assert modes(root)[".lock"] == "0o660"


def test_a_link_in_the_place_of_a_lock_is_not_followed(root: Path, tmp_path: Path) -> None:
    (root / ".lock").unlink()
    (root / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match=r"\.lock"):
        Journal(root, "mine").acquire(OWNER)
    assert not (tmp_path / "victim").exists()


def test_a_lock_on_a_file_that_was_replaced_is_none(tmp_path: Path) -> None:
    """Two would hold it at once, each its own file."""
    path, taken = tmp_path / ".lock", []
    first = take(path, fcntl.LOCK_EX, 0)
    waiting = threading.Thread(target=lambda: taken.append(take(path, fcntl.LOCK_EX, 20)))
    waiting.start()
    (tmp_path / "new").touch()
    (tmp_path / "new").replace(path)  # as a run of an older edition does
    first.close()
    waiting.join()
    assert os.fstat(taken[0].fileno()).st_ino == path.stat().st_ino
    with pytest.raises(LockedError):
        take(path, fcntl.LOCK_EX, 0)
    taken[0].close()


def test_the_command_of_a_holder_is_printable(tmp_path: Path, hold: Any) -> None:
    name = tmp_path / "a\x1b[2J\nSUMMARY"
    name.symlink_to(sys.executable)
    path = tmp_path / ".lock"
    path.touch()
    command = [str(name), "-c", HOLD, str(path), "0", "LOCK_EX"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        (found,) = holders(path)
        assert found.pid == process.pid
        assert str(found).isprintable()
        with pytest.raises(LockedError):
            take(path, fcntl.LOCK_SH, 0)
    finally:
        process.communicate("")


def test_an_end_that_cannot_be_written_says_who_holds_the_lock(
    run_module: Any, root: Path, hold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Journal(root, "mine").acquire(OWNER) == {}
    held = hold(root / ".lock", 0)
    monkeypatch.setattr(
        "ansible_collections.crisper.stack.plugins.module_utils.journal.GUARD_SECONDS", 0.1
    )
    run = {"root": str(root), "id": "mine"}
    told = run_module(deploy_journal, run=run, state="ended")
    assert told["failed"]
    assert f"process {held.process.pid}" in told["msg"]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let something happen once, right after a run has judged who holds a lock."""
    real, events = lock._all_strangers, []

    def judge(path: Path, found: list[Any]) -> bool:
        verdict = real(path, found)
        if events:
            events.pop()()
        return verdict

    monkeypatch.setattr(lock, "_all_strangers", judge)
    return events.append


@needs_root
def test_two_runs_that_judge_at_once_do_not_both_get_the_lock(
    root: Path, hold: Any, judged: Any
) -> None:
    """Regression: the second replaced the file that the first had put there and locked."""
    path, first = root / ".lock", []
    hold(path, NOBODY)
    judged(lambda: first.append(take(path, fcntl.LOCK_EX, 5)))
    with pytest.raises(LockedError, match=f"process {os.getpid()} "):
        take(path, fcntl.LOCK_EX, 0)
    assert os.fstat(first[0].fileno()).st_ino == path.stat().st_ino
    first[0].close()
    take(path, fcntl.LOCK_EX, 5).close()


@needs_root
def test_a_lock_that_a_stranger_gives_back_meanwhile_is_not_replaced(
    root: Path, hold: Any, judged: Any
) -> None:
    path, first = root / ".lock", []
    held = hold(path, NOBODY)

    def taken() -> None:
        held.end()
        first.append(take(path, fcntl.LOCK_EX, 5))

    judged(taken)
    with pytest.raises(LockedError, match=f"process {os.getpid()} "):
        take(path, fcntl.LOCK_EX, 0)
    assert os.fstat(first[0].fileno()).st_ino == path.stat().st_ino
    first[0].close()


@needs_root
def test_nobody_locks_a_file_while_it_is_judged_and_replaced(
    root: Path, hold: Any, judged: Any
) -> None:
    path, taken = root / ".lock", []
    held = hold(path, NOBODY)
    other = threading.Thread(target=lambda: taken.append(take(path, fcntl.LOCK_EX, 20)))

    def second() -> None:
        held.end()
        other.start()
        other.join(0.3)
        assert not taken

    judged(lambda: judged(second))  # the second judgement is the one under the guard
    first = take(path, fcntl.LOCK_EX, 5)
    assert not taken
    first.close()
    other.join()
    assert os.fstat(taken[0].fileno()).st_ino == path.stat().st_ino
    taken[0].close()


# Enters the lock many times; whoever finds another one inside says so.
ENTER = """
import fcntl, os, sys, time
from pathlib import Path
from ansible_collections.crisper.stack.plugins.module_utils.lock import take
path, inside, until = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
entered = 0
while time.time() < until or not entered:
    lock = take(path, fcntl.LOCK_EX, 30)
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
    os.unlink(inside)
    entered += 1
    lock.close()
print(entered)
"""
# Takes the lock by its old descriptor whenever it can.
DISTURB = """
import fcntl, os, sys
stream = open(sys.argv[1])
os.setgroups([]); os.setgid(65534); os.setuid(65534)
while True:
    fcntl.flock(stream, fcntl.LOCK_EX)
    print("held", flush=True)
    fcntl.flock(stream, fcntl.LOCK_UN)
"""


@needs_root
def test_one_at_a_time_whatever_strangers_do(root: Path, tmp_path: Path) -> None:
    path, inside = root / ".lock", tmp_path / "inside"
    program = f"import sys; sys.path.insert(0, {MODULES!r})\n{ENTER}"
    words = [sys.executable, "-c", program, str(path), str(inside), str(time.time() + 2.5)]
    disturb = [sys.executable, "-c", DISTURB, str(path)]
    strangers = [subprocess.Popen(disturb, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for each in strangers:
            assert each.stdout is not None
            assert each.stdout.readline() == b"held\n"
        runs = [
            subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        told = [run.communicate(timeout=60) for run in runs]
    finally:
        for each in strangers:
            each.kill()
            each.communicate()
    assert [run.returncode for run in runs] == [0] * 4, told
    assert all(int(out) > 0 for out, _ in told)
    assert not (root / ".lock.new").exists()


def test_who_holds_the_guard_is_named(
    root: Path, hold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "GUARD_SECONDS", 0.2)
    take(root / ".lock", fcntl.LOCK_EX, 0).close()
    guard = root / lock.GUARD
    assert stat.S_IMODE(guard.stat().st_mode) == 0o600
    held = hold(guard, 0)
    with pytest.raises(LockedError, match=rf"lock-guard is held by process {held.process.pid} "):
        take(root / ".lock", fcntl.LOCK_EX, 0)


@needs_root
@pytest.mark.parametrize("name", [".lock", lock.GUARD, ".lock.new"])
def test_other_names_of_files_are_left_alone(
    root: Path, tmp_path: Path, hold: Any, name: str
) -> None:
    """A hard link in the place of a lock file got the mode of a lock file, and its target, too."""
    victim = tmp_path / "victim"
    victim.write_text("kept")
    victim.chmod(0o644)
    hold(root / ".lock", NOBODY)
    (root / name).unlink(missing_ok=True)
    os.link(victim, root / name)
    take(root / ".lock", fcntl.LOCK_EX, 5).close()
    assert victim.read_text() == "kept"
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644


@pytest.mark.parametrize("name", [".lock", lock.GUARD])
def test_what_is_no_file_is_no_lock(root: Path, name: str) -> None:
    (root / name).unlink(missing_ok=True)
    os.mkfifo(root / name)
    with pytest.raises(OSError, match="no regular file: remove it, and run again"):
        take(root / ".lock", fcntl.LOCK_EX, 0)


@needs_root
def test_a_guard_of_a_stranger_is_refused(root: Path) -> None:
    (root / lock.GUARD).touch()
    os.chown(root / lock.GUARD, NOBODY, -1)
    with pytest.raises(PermissionError, match="belongs to the user 65534"):
        take(root / ".lock", fcntl.LOCK_EX, 0)


@needs_root
def test_a_group_that_shares_a_stack_is_waited_for_and_others_are_not(
    root: Path, hold: Any
) -> None:
    root.chmod(0o2775)
    hold(root / ".lock", NOBODY)
    take(root / ".lock", fcntl.LOCK_EX, 5).close()
    (root / ".lock").chmod(0o644)
    os.chown(root, -1, NOBODY)
    hold(root / ".lock", NOBODY)
    with pytest.raises(LockedError, match="user nobody"):
        take(root / ".lock", fcntl.LOCK_EX, 0)


@needs_root
def test_locks_that_root_makes_are_the_folders_owners(root: Path, hold: Any) -> None:
    """Else the owner of the stack could not deploy any more once root's timer had run."""
    for name in (".lock", ".busy"):
        (root / name).unlink()
    os.chown(root, 12345, 12345)
    (root / ".lock").touch(0o644)
    hold(root / ".lock", NOBODY)
    for name in (".lock", ".busy"):
        take(root / name, fcntl.LOCK_EX, 5).close()
    names = (".lock", ".busy", lock.GUARD)
    assert {(root / name).stat().st_uid for name in names} == {12345}
    assert {stat.S_IMODE((root / name).stat().st_mode) for name in names} == {0o600}
