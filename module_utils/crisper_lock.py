"""Lock files that no other user of the server can hold, and that nobody waits for without an end.

``flock`` asks for nothing but an open file: who could read ``.lock`` (any user) could hang
deploys and backups for ever. So the files are for their owner alone, waiting has a deadline, the
message names who holds the lock, and a lock that only strangers hold is replaced.

Standard library only, Python 3.8: the backup timer and the hook of ACME clients run it on the
server, beside ``crisper_text``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

try:
    from .crisper_text import printable
except ImportError:  # in the folder of the hook, which is no package
    from crisper_text import printable

# Seconds to wait for who writes the lock: a moment as a rule. The hook of an ACME client holds it
# while nginx cannot be reached, for two minutes.
PATIENCE = 180.0
# Seconds between two attempts, and until strangers are looked for.
PAUSE = 0.1
PRIVATE = 0o600


class LockedError(OSError):
    """A lock file was not to be had in time; the message says who holds it."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock file; `uid` is its real one: a setuid program has another."""

    pid: int
    uid: int
    command: str

    def __str__(self) -> str:
        """Return what an operator needs to find it."""
        try:
            user = pwd.getpwuid(self.uid).pw_name
        except KeyError:
            user = str(self.uid)
        return f"process {self.pid} ({printable(self.command, 80)}, user {printable(user, 40)})"


def open_private(path: Path) -> int:
    """Open a lock file, which is made for its owner alone; an open one is closed for others.

    A folder whose group shares the stack (set-group-id) keeps it for that group.

    Raises:
        OSError: it cannot be opened, or a symbolic link stands there.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(path, flags, PRIVATE)
    try:
        wanted = mode_in(path.parent, PRIVATE)
        found = os.fstat(handle)
        if stat.S_IMODE(found.st_mode) != wanted and found.st_uid == os.geteuid():
            os.fchmod(handle, wanted)
    except BaseException:
        os.close(handle)
        raise
    return handle


def mode_in(folder: Path, mode: int) -> int:
    """Return a file's mode in that folder; a group that shares it may what the owner may."""
    return mode | (mode & 0o600) >> 3 if folder.stat().st_mode & stat.S_ISGID else mode


def take(path: Path, operation: int, seconds: float) -> TextIO:
    """Return a lock file, locked with LOCK_SH or LOCK_EX until it is closed.

    Raises:
        LockedError: somebody else held it for so many seconds.
        OSError: it cannot be opened.
    """
    deadline = time.monotonic() + seconds
    while True:
        handle = open_private(path)
        try:
            fcntl.flock(handle, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
        except BaseException:
            os.close(handle)
            raise
        else:
            if _is_at(handle, path):
                return os.fdopen(handle, "a")
            os.close(handle)  # it was replaced meanwhile
            continue
        found = holders(path)
        if found and _all_strangers(path, found):
            replace(path)
            continue
        if time.monotonic() >= deadline:
            raise LockedError(held_by(path, found, seconds))
        time.sleep(PAUSE)


@contextlib.contextmanager
def exclusive(path: Path, seconds: float = PATIENCE) -> Iterator[None]:
    """Hold a lock file alone meanwhile; raises as `take` does."""
    with take(path, fcntl.LOCK_EX, seconds):
        yield


def held_by(path: Path, found: list[Holder], seconds: float) -> str:
    """Return why a lock was not to be had, and what to do."""
    names = ", ".join(map(str, found[:3])) or "a process that cannot be seen from here"
    return (
        f"{path} is held by {names}, and was not free within {seconds:g} s. Wait until it has"
        " ended, or end it; `lslocks` lists who holds what"
    )


def holders(path: Path) -> list[Holder]:
    """Return the processes that hold a lock file; none where the kernel tells nothing.

    The kernel lists the locks of an open file beside it: its number of a process may be that of
    another container, and its number of a device another one than that of the file.
    """
    try:
        wanted = os.stat(path)
    except OSError:
        return []
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            for entry in os.scandir(process / "fd"):
                with contextlib.suppress(OSError):
                    there = os.stat(entry.path)
                    if (there.st_dev, there.st_ino) != (wanted.st_dev, wanted.st_ino):
                        continue
                    info = (process / "fdinfo" / entry.name).read_text()
                    if "FLOCK" in info:
                        found.append(_holder(process))
                        break
    return found


def replace(path: Path) -> None:
    """Put a new file in the place of a lock file that strangers hold: theirs is nobody's then."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    os.close(open_private(draft))
    draft.replace(path)


def _holder(process: Path) -> Holder:
    lines = (process / "status").read_text().splitlines()
    uid = next(int(line.split()[1]) for line in lines if line.startswith("Uid:"))
    command = (process / "cmdline").read_bytes()[:200].replace(b"\0", b" ").strip()
    name = command or (process / "comm").read_bytes().strip()
    return Holder(int(process.name), uid, name.decode(errors="replace"))


def _all_strangers(path: Path, found: list[Holder]) -> bool:
    """Return whether none of the holders may act on the stack: its owner may, and root."""
    folder = path.parent.stat()
    if folder.st_mode & stat.S_ISGID:
        return False  # a group shares it
    return all(holder.uid not in (0, folder.st_uid, os.getuid()) for holder in found)


def _is_at(handle: int, path: Path) -> bool:
    try:
        there, here = os.stat(path), os.fstat(handle)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
