"""A stream into a file that ends before the disk is full.

What a database hands out has no end that is known before: a hostile one hands out for as long as it
may, and what serves writes to the same disk. Python 3.9+, standard library only.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import IO, Any

from .manifest import BackupError

# Bytes from one look at the disk to the next: a dump of fewer is never refused.
STEP = 64 << 20
# What stays free: so many bytes, of a small disk so much of it.
FREE = 1 << 30
SHARE = 0.05


class Roomy:
    """Pass bytes on, and look at the disk after each STEP of them."""

    def __init__(self, target: IO[bytes], folder: Path) -> None:
        """Take the stream, and a folder on the disk that it ends on."""
        self.target, self.folder, self.written = target, folder, 0

    def write(self, piece: Any) -> int:
        """Write bytes.

        Raises:
            BackupError: the disk would be full soon.
        """
        before = self.written // STEP
        self.written += len(piece)
        if self.written // STEP != before:
            self.check_room()
        return self.target.write(piece)

    def check_room(self) -> None:
        """Raise BackupError when the disk has not enough room left for what serves."""
        disk = shutil.disk_usage(self.folder)
        least = min(FREE, int(disk.total * SHARE))
        if disk.free < least:
            raise BackupError(
                f"{self.folder} has {disk.free >> 20} MiB left after {self.written >> 20} MiB were"
                f" written, and {least >> 20} MiB stay free for what serves: free space (docker"
                " system df, backup_keep), then run again. If the data is not that large, look at"
                " the service: it may hand out without an end"
            )

    def __getattr__(self, name: str) -> Any:
        """Return what else the stream has."""
        return getattr(self.target, name)
