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
