"""Folders with explicit modes: hardened servers give root and users a umask of 077."""

from __future__ import annotations

from pathlib import Path


def make_folder(path: Path, mode: int = 0o755) -> None:
    """Create a folder, and its missing parents, with exactly `mode`; leave existing ones alone.

    ``Path.mkdir(mode=…)`` subtracts the umask and ignores the mode for parents.

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
            folder.chmod(mode)
