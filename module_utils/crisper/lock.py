"""Lock files that no other user of the server can hold, and that nobody waits for without an end.

``flock`` asks for nothing but an open file: who could read ``.lock`` (any user) could hang
deploys and backups for ever. So the files are for their owner alone, waiting has a deadline, the
message names who holds the lock, and a lock that only strangers hold is replaced.

Who locks a file, and who judges and replaces one, holds the folder's guard file for that moment:
otherwise a run could replace the file that another run has just locked, and both would have "the"
lock. No edition has ever left the guard open, so no stranger has a descriptor of it.

Standard library only, Python 3.8: the backup timer and the hook of ACME clients run it on the
server, beside ``crisper.text``.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from .text import printable

# Seconds to wait for who writes the lock: a moment as a rule. The hook of an ACME client holds it
# while nginx cannot be reached, for two minutes.
PATIENCE = 180.0
# Seconds between two attempts, and until strangers are looked for.
PAUSE = 0.1
PRIVATE = 0o600
# The guard of all lock files in a folder, and the seconds that it is waited for at least: who holds
# it reads /proc at most.
GUARD = ".lock-guard"
GUARD_SECONDS = 5.0


class LockedError(OSError):
    """A lock file was not to be had in time; the message says who holds it."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock file; `uid` is its real one: a setuid program has another."""

    pid: int
    uid: int
    command: str
    groups: frozenset[int] = frozenset()

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
        OSError: it cannot be opened, or something else than a file stands there.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    handle = os.open(path, flags, PRIVATE)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            why = "this is no regular file: remove it, and run again"
            raise OSError(errno.EINVAL, why, str(path))
        _belong(handle, path.parent, found)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _belong(handle: int, folder: Path, found: os.stat_result) -> None:
    """Give a lock file its mode and, when root made it in somebody's folder, its owner."""
    # Another name of the file may be any file of the server (a hard link): it stays as it is.
    if found.st_uid != os.geteuid() or found.st_nlink != 1:
        return
    owner = folder.stat().st_uid
    if found.st_size == 0 and os.geteuid() == 0 and owner != 0:
        with contextlib.suppress(OSError):  # the owner is nobody in this user namespace
            os.fchown(handle, owner, -1)
    wanted = mode_in(folder, PRIVATE)
    if stat.S_IMODE(found.st_mode) != wanted:
        os.fchmod(handle, wanted)


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
        with _guarded(path.parent, deadline):
            handle = _locked(path, operation)
        if handle is not None:
            return os.fdopen(handle, "a")
        found = holders(path)
        if _all_strangers(path, found):
            if replace(path, deadline):
                continue
            found = holders(path)
        if time.monotonic() >= deadline:
            raise LockedError(held_by(path, found, seconds))
        time.sleep(PAUSE)


def _locked(path: Path, operation: int) -> int | None:
    """Return a descriptor of the file at `path`, locked; None when somebody else holds it."""
    while True:
        handle = open_private(path)
        try:
            fcntl.flock(handle, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        if _is_at(handle, path):
            return handle
        os.close(handle)  # a run of an older edition, which knows no guard, replaced it meanwhile


@contextlib.contextmanager
def _guarded(folder: Path, deadline: float) -> Iterator[None]:
    """Let nobody else lock or replace a lock file of the folder meanwhile.

    Raises:
        LockedError: the guard was not to be had until `deadline` (of the monotonic clock), nor
            within GUARD_SECONDS.
    """
    path, began = folder / GUARD, time.monotonic()
    deadline = max(deadline, began + GUARD_SECONDS)
    handle = open_private(path)
    try:
        found, owners = os.fstat(handle), (0, os.geteuid(), folder.stat().st_uid)
        if found.st_uid not in owners and not folder.stat().st_mode & stat.S_ISGID:
            why = f"it belongs to the user {found.st_uid}, to whom the stack does not: remove it"
            raise OSError(errno.EPERM, why, str(path))
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    waited = round(time.monotonic() - began, 1)
                    raise LockedError(held_by(path, holders(path), waited)) from None
                time.sleep(PAUSE / 10)
        yield
    finally:
        os.close(handle)


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


def replace(path: Path, deadline: float) -> bool:
    """Put a new file in the place of a lock file that only strangers hold; return whether it went.

    It is judged anew under the guard: since the caller looked, another run may have replaced it or,
    when the stranger gave it back, locked it.

    Raises:
        LockedError: the guard was not to be had.
        OSError: the file cannot be replaced.
    """
    with _guarded(path.parent, deadline):
        judged = open_private(path)
        try:
            found = holders(path)
            if not _all_strangers(path, found) or not _is_at(judged, path):
                return False
            draft = path.with_name(f"{path.name}.new")
            draft.unlink(missing_ok=True)
            os.close(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, PRIVATE))
            os.close(open_private(draft))
            draft.replace(path)
        finally:
            os.close(judged)
    return True


def _holder(process: Path) -> Holder:
    fields = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    uid = int(fields["Uid"].split()[0])
    groups = frozenset(map(int, [fields["Gid"].split()[0], *fields["Groups"].split()]))
    command = (process / "cmdline").read_bytes()[:200].replace(b"\0", b" ").strip()
    name = command or (process / "comm").read_bytes().strip()
    return Holder(int(process.name), uid, name.decode(errors="replace"), groups)


def _all_strangers(path: Path, found: list[Holder]) -> bool:
    """Return whether there are holders and none may act on the stack: its owner may, and root.

    In a folder that a group shares (set-group-id) the members of that group may, too.
    """
    folder = path.parent.stat()
    shared = {folder.st_gid} if folder.st_mode & stat.S_ISGID else set()
    return bool(found) and not any(
        holder.uid in (0, folder.st_uid, os.getuid()) or shared & (holder.groups | _groups(holder))
        for holder in found
    )


def _groups(holder: Holder) -> set[int]:
    """Return the groups of a holder's user: a session may be older than his membership."""
    try:
        user = pwd.getpwuid(holder.uid)
    except KeyError:
        return set()
    return {user.pw_gid, *(each.gr_gid for each in grp.getgrall() if user.pw_name in each.gr_mem)}


def _is_at(handle: int, path: Path) -> bool:
    try:
        there, here = os.stat(path), os.fstat(handle)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
