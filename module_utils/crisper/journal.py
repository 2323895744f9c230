"""The journal of a stack's deploys, and the lock that lets one of them act at a time.

``<root>/journal.jsonl`` has one line per step: ``{at, run, step, ...}``; a deploy begins with the
step ``begin`` and ends with ``end``, so a last line that is no ``end`` is a deploy that was cut
off. ``<root>/lock`` names the deploy that acts and until when its word counts.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypedDict

from .files import close_folder, make_folder, write_private
from .lock import PATIENCE as GUARD_SECONDS
from .lock import LockedError, exclusive, mode_in, take
from .text import clean

JOURNAL, LOCK, BUSY = "journal.jsonl", "lock", ".busy"
BEGIN, END = "begin", "end"
# Purpose of runs that leave the stack as it is.
BACKUP = "backup"
# Steps of runs that change nothing of what serves.
IDLE_STEPS = frozenset({BEGIN, END, "resume", "wait"})
# Seconds until a deploy that gives no sign of life is taken for dead from another controller.
# Longer than any step without one in between: building images is the longest.
PATIENCE = 3600
# Seconds between two signs of life of a module that acts.
HEARTBEAT = 60.0
TAIL_BYTES = 256 * 1024
LARGEST_BYTES = 8 * 1024 * 1024
# Modes: the lock is its owner's alone, the journal is for its group to read, and the stack's folder
# is closed for everybody else. What containers mount, the engine finds as root.
LOCK_MODE, JOURNAL_MODE, ROOT_MODE = 0o600, 0o640, 0o750
# Characters of a text in an entry.
WIDTH = 2000
# Step of an older edition -> step of this one. Journals of servers have the former.
RENAMED_STEPS = {"leave": "cancel_consumers", "swap": "replace", "retire": "stop_old"}

RUN_SPEC: dict[str, Any] = {
    "type": "dict",
    "options": {
        "root": {"type": "path", "required": True},
        "id": {"type": "str", "required": True},
    },
}


# Open files of this process whose locks last until it ends.
_busy_locks: list[TextIO] = []
# Roots and runs whose locks a thread of this process renews.
_renewed: set[tuple[str, str]] = set()


class NotOwnerError(RuntimeError):
    """The lock is somebody else's by now, or it cannot be renewed."""


def parse_lines(text: str) -> list[dict[str, Any]]:
    """Return the entries of the journal, without a line that a crash cut off."""
    found = []
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "run" in entry and "step" in entry:
            found.append(_readable(entry))
    return found


def _readable(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry or a lock with harmless texts, and its step as this edition names it."""
    entry = dict(clean(entry, width=WIDTH))
    if isinstance(step := entry.get("step"), str):
        entry["step"] = RENAMED_STEPS.get(step, step)
    return entry


class UnfinishedRun(TypedDict, total=False):
    """A run that never ended: what it is, its last step, all its steps; empty without one.

    `open` is true if the run has written its end down, but could not be undone.
    """

    run: str
    who: str
    purpose: str
    began: str
    step: str
    at: str
    steps: list[str]
    open: bool


def unfinished(entries: Iterable[Mapping[str, Any]]) -> UnfinishedRun:
    """Return the last deploy if it never ended, else an empty mapping.

    A backup that ended, and a run that failed before it had changed anything, say nothing about
    the deploy before them. A backup that was cut off has left nothing to pick up once a later one
    is done. A deploy whose end says ``open`` failed and could not be undone.
    """
    entries = list(entries)
    ends = {e["run"]: e for e in entries if e["step"] == END}
    backups = {e["run"] for e in entries if e["step"] == BEGIN and e.get("purpose") == BACKUP}
    failed = {run for run, end in ends.items() if end.get("result", "done") == "failed"}
    idle = failed - {e["run"] for e in entries if e["step"] not in IDLE_STEPS}
    over = (set(ends) & backups) | idle | _repeated(entries, backups)
    entries = [
        entry
        for entry in entries
        if entry["run"] not in over and not (entry["step"] == END and entry.get("open"))
    ]
    if not entries or entries[-1]["step"] == END:
        return {}
    last = entries[-1]
    mine = [entry for entry in entries if entry["run"] == last["run"]]
    return {
        "run": last["run"],
        "who": str(mine[0].get("who", "")),
        "purpose": str(mine[0].get("purpose", "")),
        "began": str(mine[0].get("at", "")),
        "step": last["step"],
        "at": str(last.get("at", "")),
        "steps": [entry["step"] for entry in mine],
        "open": last["run"] in ends,
    }


def _repeated(entries: Sequence[Mapping[str, Any]], backups: set[str]) -> set[str]:
    """Return the backups before the last one that is done, however they went.

    Only one run has the lock, and each backup makes a set of its own.
    """
    last = 0
    for number, entry in enumerate(entries):
        done = entry["step"] == END and entry.get("result", "done") == "done"
        last = number if done and entry["run"] in backups else last
    return backups & {entry["run"] for entry in entries[:last]}


def last_host(entries: Iterable[Mapping[str, Any]]) -> str:
    """Return the digest of what the last deploy made of the host; empty if it did not get so far.

    A deploy writes it down when it has staged its release, after it has installed and configured.
    """
    entries = list(entries)
    deploys = [e["run"] for e in entries if e["step"] == BEGIN and e.get("purpose") == "deploy"]
    noted = [e.get("host", "") for e in entries if deploys and e["run"] == deploys[-1]]
    return str(next(filter(None, reversed(noted)), ""))


def steps_of(entries: Iterable[Mapping[str, Any]], run: str) -> list[str]:
    """Return the steps that a run has taken and that change what serves, in their order."""
    return [
        str(entry["step"])
        for entry in entries
        if entry["run"] == run and entry["step"] not in IDLE_STEPS
    ]


def began_at(entries: Iterable[Mapping[str, Any]], run: str) -> float:
    """Return when a run took the lock, Unix seconds; 0 where its entry is gone."""
    begun = (entry for entry in entries if entry["run"] == run and entry["step"] == BEGIN)
    return _seconds(next(begun, {}).get("time"))


def seconds_per_step(
    entries: Iterable[Mapping[str, Any]], run: str, now: float
) -> dict[str, float]:
    """Return seconds from each step of a run to the next; of the last until `now` (Unix time)."""
    mine = [entry for entry in entries if entry["run"] == run and entry["step"] != END]
    times = [float(entry.get("time", now)) for entry in mine] + [now]
    seconds: dict[str, float] = {}
    for entry, begun, ended in zip(mine, times, times[1:]):  # noqa: B905 (Python 3.9 on targets)
        step = str(entry["step"])
        seconds[step] = round(seconds.get(step, 0.0) + max(0.0, ended - begun), 1)
    return seconds


def held_by_other(lock: Mapping[str, Any], run: str, now: float, dead: str = "") -> dict[str, Any]:
    """Return the lock if another deploy has it and may be alive, else an empty mapping."""
    if not lock or lock.get("run") in (run, dead or None):
        return {}
    return {} if now > _seconds(lock.get("until")) else dict(lock)


def _seconds(value: Any) -> float:
    """Return a Unix time from the lock; 0, which is long past, for anything else."""
    return float(value) if isinstance(value, (int, float)) else 0.0


class Journal:
    """Journal and lock of the stack in `root`, as the deploy `run` uses them."""

    def __init__(self, root: str | Path, run: str) -> None:
        self.root = Path(root)
        self.run = run

    def lock(self) -> dict[str, Any]:
        """Return the lock as it stands; empty if there is none."""
        try:
            found = json.loads((self.root / LOCK).read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        return _readable(found) if isinstance(found, dict) else {}

    def entries(self) -> list[dict[str, Any]]:
        """Return the newest entries."""
        try:
            with (self.root / JOURNAL).open("rb") as stream:
                stream.seek(0, os.SEEK_END)
                stream.seek(max(0, stream.tell() - TAIL_BYTES))
                return parse_lines(stream.read().decode(errors="replace"))
        except OSError:
            return []

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Let no other process write the lock meanwhile."""
        with exclusive(self.root / f".{LOCK}", GUARD_SECONDS):
            yield

    def _close(self) -> None:
        """Close the stack's folder and files for other users; earlier editions left them open."""
        close_folder(self.root, ROOT_MODE)
        for name, mode in ((LOCK, LOCK_MODE), (JOURNAL, JOURNAL_MODE)):
            path = self.root / name
            if path.exists() and path.stat().st_uid == os.geteuid():
                path.chmod(mode_in(self.root, mode))

    def acquire(self, owner: Mapping[str, Any], dead: str = "") -> dict[str, Any]:
        """Take the lock; return who holds it when it is not to be had, else nothing.

        A lock that is past its time, or whose owner is dead, is not to be had either while a
        process still acts under it; what is returned has ``busy`` then.

        Args:
            owner: ``{who, controller, process, purpose}``.
            dead: run whose owner is known to be dead.

        Raises:
            OSError: the folder cannot be written, or somebody holds the file that guards the lock.
        """
        make_folder(self.root, ROOT_MODE)
        self._close()
        now = time.time()
        # Two deploys that start at once are told apart by the engine of file locks.
        with self._guarded():
            lock = self.lock()
            if other := held_by_other(lock, self.run, now, dead):
                return other
            if lock.get("run") != self.run and not self.quiet(0):
                return {**lock, "busy": True}
            self._write_lock({**owner, "run": self.run, "since": _iso(now), "step": BEGIN}, now)
        self._trim()
        self._append({**owner, "step": BEGIN}, now)
        return {}

    def note(self, step: str, patience: float = 0, **facts: Any) -> None:
        """Write a step down before it is taken, and keep the lock alive.

        The process holds a file lock until it ends: what a deploy that was cut off still does
        is waited for by the next one. A thread renews the lock until then.

        Args:
            step: its name.
            patience: seconds that what follows may take without a process of the deploy on the
                server.
            facts: anything else that the entry should hold.

        Raises:
            NotOwnerError: another deploy has taken the lock over, or it cannot be written.
        """
        now = time.time()
        try:
            with self._guarded():
                lock = self.lock()
                if lock.get("run") != self.run:
                    raise NotOwnerError(self._lost(lock, step))
                self._write_lock({**lock, "step": step}, now, patience)
                _busy_locks.append(take(self.root / BUSY, fcntl.LOCK_SH, GUARD_SECONDS))
            self._append({"step": step, **facts}, now)
        except LockedError as error:
            raise NotOwnerError(f"Step {step} was not begun: {error}.") from error
        except OSError as error:
            raise NotOwnerError(
                f"Step {step} was not begun, because the journal in {self.root} cannot be written:"
                f" {error}. Make the folder writable (df {self.root}, mount), and deploy again."
            ) from error
        self._keep_alive()

    def renew(self) -> bool:
        """Give a sign of life; return whether this deploy still has the lock."""
        with self._guarded():
            lock = self.lock()
            if lock.get("run") != self.run:
                return False
            now = time.time()
            patience = _seconds(lock.get("until")) - now
            self._write_lock(lock, now, max(0.0, patience - PATIENCE))
        return True

    def _keep_alive(self) -> None:
        """Renew the lock until this process ends, or the lock is somebody else's."""
        key = (str(self.root), self.run)
        if key in _renewed:
            return
        _renewed.add(key)

        def beat() -> None:
            while True:
                time.sleep(HEARTBEAT)
                try:
                    if not self.renew():
                        return
                except OSError:
                    continue  # a full disk may have room again

        threading.Thread(target=beat, name="crisper-lock", daemon=True).start()

    def _lost(self, lock: Mapping[str, Any], step: str) -> str:
        taken = f"deploy {lock['run']} of {lock.get('who')} has it" if lock else "no run has it"
        return (
            f"This deploy ({self.run}) lost its lock in {self.root} before step {step}:"
            f" {taken}. This run stops here; see {self.root / JOURNAL}."
        )

    def quiet(self, seconds: float) -> bool:
        """Wait until no process of an earlier deploy acts any more; return whether none does."""
        try:
            take(self.root / BUSY, fcntl.LOCK_EX, seconds).close()
        except LockedError:
            return False
        return True

    def end(self, result: str, **facts: Any) -> bool:
        """Write the end down and give the lock back; return whether this deploy had it."""
        if self.lock().get("run") != self.run:
            return False
        with self._guarded():
            if self.lock().get("run") != self.run:
                return False
            self._append({"step": END, "result": result, **facts}, time.time())
            (self.root / LOCK).unlink(missing_ok=True)
        return True

    def _write_lock(self, content: Mapping[str, Any], now: float, patience: float = 0) -> None:
        text = json.dumps({**clean(dict(content), width=WIDTH), "until": now + PATIENCE + patience})
        write_private(self.root / LOCK, text + "\n", mode_in(self.root, LOCK_MODE))

    def _append(self, entry: Mapping[str, Any], now: float) -> None:
        entry = clean(dict(entry), width=WIDTH)
        line = json.dumps({"at": _iso(now), "time": round(now, 2), "run": self.run, **entry})
        with self._open_journal() as stream:
            # A crash or a full disk may have left half a line: it must not swallow this one.
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    line = "\n" + line
            stream.write((line + "\n").encode())

    def _open_journal(self) -> BinaryIO:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        mode = mode_in(self.root, JOURNAL_MODE)
        handle = os.open(self.root / JOURNAL, flags, mode)
        if os.fstat(handle).st_uid == os.geteuid():
            os.fchmod(handle, mode)
        return os.fdopen(handle, "ab+")

    def _trim(self) -> None:
        path = self.root / JOURNAL
        if path.exists() and path.stat().st_size > LARGEST_BYTES:
            entries = self.entries()
            text = "".join(json.dumps(entry) + "\n" for entry in entries)
            write_private(path, text, mode_in(self.root, JOURNAL_MODE))


def note(params: Mapping[str, Any], step: str, **facts: Any) -> None:
    """Write a step of the module's option ``run`` down; without that option nothing is.

    Raises:
        NotOwnerError: another deploy has taken the lock over, or it cannot be written.
    """
    if params.get("run"):
        Journal(params["run"]["root"], params["run"]["id"]).note(step, **facts)


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="seconds")
