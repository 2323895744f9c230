"""The stubs' own ground: what they wait for when a test kills the controller."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from harness import UTILS

sys.path.insert(0, str(UTILS))
import stub_world

FIRST_THREAD_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def state(pid: int) -> str:
    """Return the state of a process's first thread, as ps(1) names it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_zombie_with_a_living_thread_has_its_pipes_still():
    """Regression: a module asked for its controller in between, and went on for a step."""
    process = subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS])
    try:
        deadline = time.monotonic() + 20
        while state(process.pid) != "Z" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert state(process.pid) == "Z"
        assert stub_world._lives(process.pid)
    finally:
        process.kill()
    while stub_world._lives(process.pid):
        time.sleep(0.01)
    assert process.wait() is not None
