"""Runs for tests of the journal and the lock: an owner, and a process that acts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ansible_collections.crisper.stack.plugins.module_utils import journal as journal_module

OWNER = {"who": "ops", "controller": "laptop", "process": "1@2", "purpose": "deploy"}


def end_process() -> None:
    """Let go of the file locks that a module of its own process would have let go of."""
    journal_module._busy_locks.clear()


def acting(root: Path, run: str, code: str = "") -> subprocess.Popen[str]:
    """Start a module of the deploy `run` that has noted a step and goes on."""
    text = (
        "import sys, time; sys.path.insert(0, sys.argv[1]);"
        "import crisper.journal as c; j = c.Journal(sys.argv[2], sys.argv[3]);"
        f"{code or 'j.acquire(dict(who=str(1)))'}; j.note('start'); print('noted', flush=True);"
        "time.sleep(60)"
    )
    folder = Path(journal_module.__file__).resolve().parents[1]
    actor = subprocess.Popen(
        [sys.executable, "-c", text, str(folder), str(root), run], stdout=subprocess.PIPE, text=True
    )
    assert actor.stdout.readline() == "noted\n"
    return actor
