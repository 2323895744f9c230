"""A backup as the systemd timer on a server makes it, without Ansible.

Installed by role backup beside the files it imports: ``python3 -m crisper.backup.timer
<settings.json>``. It takes the same lock as a deploy, and waits for one that has it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from ..journal import BACKUP, Journal, NotOwnerError
from ..lock import LockedError
from ..text import composed
from .manifest import BackupError
from .set import Settings, copy_away, expire, make

# Seconds to wait for a deploy that has the lock, and from one look at it to the next.
PATIENCE, LOOK = 1800.0, 5.0


def lock(journal: Journal, patience: float) -> None:
    """Take the stack's lock.

    Raises:
        BackupError: somebody had it all the time.
    """
    owner = {
        "who": "backup timer",
        "controller": platform.node(),
        "process": f"{os.getpid()}@{int(time.time())}",
        "purpose": BACKUP,
    }
    deadline = time.monotonic() + patience
    while lock_holder := journal.acquire(owner):
        if time.monotonic() > deadline:
            run = f"{lock_holder.get('purpose', 'deploy')} {lock_holder.get('run')}"
            raise BackupError(
                f"{run} of {lock_holder.get('who')} has had the stack for {patience:.0f} s: no"
                " backup was made this time."
            )
        time.sleep(LOOK)


def back_up(params: dict[str, Any], patience: float = PATIENCE) -> str:
    """Make a set as the settings say; what is told of it.

    Raises:
        BackupError: no set was made, or it could not be copied.
        NotOwnerError: somebody else took the lock over.
    """
    settings = Settings(**{**params, "root": Path(params["root"])})
    journal = Journal(settings.root, f"backup-{int(time.time())}-{os.getpid()}")
    lock(journal, patience)
    result = "failed"
    try:
        made = make(settings, journal.note)
        expired = expire(settings)
        copy_away(settings, made["set"])
        result = "done"
    finally:
        journal.end(result)
    size = sum(file["bytes"] for file in made["files"].values())
    return f"{made['path']}: {size} bytes; expired: {', '.join(expired) or 'none'}"


def main() -> int:
    """Run once."""
    try:
        print(back_up(json.loads(Path(sys.argv[1]).read_text())))
    except (BackupError, NotOwnerError, LockedError) as error:
        print(composed(str(error)), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
