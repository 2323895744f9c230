"""Folders with explicit modes: hardened servers give root and users a umask of 077."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def make_folder(path: Path, mode: int = 0o755) -> None:
    """Create a folder with exactly `mode`, and its missing parents with 0755.

    Folders that exist keep their mode. ``Path.mkdir(mode=…)`` subtracts the umask. A set-group-id
    bit that a new folder inherits stays.

    Raises:
        OSError: one of them cannot be created, or is no folder.
    """
    missing = []
    for folder in (path, *path.parents):
        if folder.is_dir():
            break
        missing.append(folder)
    for folder in reversed(missing):
        try:
            folder.mkdir()
        except FileExistsError:
            if not folder.is_dir():
                raise
        else:
            inherited = folder.stat().st_mode & stat.S_ISGID
            folder.chmod((mode if folder == path else 0o755) | inherited)


def close_folder(path: Path, mode: int = 0o750) -> None:
    """Take what other users may in a folder away: nothing but its owner and group is left.

    Whether they may change it, its group keeps where it shares the folder (set-group-id). A folder
    of another owner is left as it is.

    Raises:
        OSError: it is not there.
    """
    found = path.stat()
    if found.st_uid != os.geteuid():
        return
    now = stat.S_IMODE(found.st_mode)
    reduced = now & (mode | 0o7070 if now & stat.S_ISGID else mode | 0o7000)
    if reduced != now:
        path.chmod(reduced)


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file, whole, with exactly `mode`, whatever the umask."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(draft, flags, 0o600), "w") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder survive a power failure; what they name is on the disk before.

    Raises:
        OSError: it is no folder.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
