"""A real redis-server's and real Celery workers' processes, for the tests in this folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def until(condition: Callable[[], Any], seconds: float = 15.0) -> Any:
    """The condition's first true value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    pytest.fail(f"not true within {seconds} s")


class Worker:
    """A Celery worker process."""

    def __init__(self, name: str, log: Path, *arguments: str) -> None:
        self.name = name
        command = [sys.executable, "-m", "celery", "-A", "drain_tasks", "worker", "-n", name]
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "-l", "INFO", *arguments],
                cwd=HERE,
                env={**os.environ, "TEST_WORKER": name},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def ready(self) -> Worker:
        """Wait until it consumes."""
        until(lambda: b" ready." in self.log.read_bytes(), 30)
        return self

    def end(self) -> int:
        """SIGTERM to the worker itself, as `docker stop` sends it."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)
