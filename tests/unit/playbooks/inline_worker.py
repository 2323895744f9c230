"""Tasks in the process of ansible-playbook, instead of one that is forked for each.

A fork of Ansible costs 10 to 30 ms of processor, most of it for memory that both write to, and a
deploy on stub hosts has 120 tasks. What Ansible forks for, several hosts at once, no test is about.
Modules still have a process each (stubs/connection/scripted.py).
"""

from __future__ import annotations

import io
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from ansible.executor.process import worker
from ansible.inventory.host import Host
from ansible.plugins import strategy
from ansible.utils.display import Display

# Its stub kills the process it runs in, as the kernel might.
FORKED = ("http_probe",)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def is_fork() -> bool:
    """Return whether this process was forked for a task (ansible_process.py)."""
    return multiprocessing.parent_process() is not None


class Passed(io.TextIOBase):
    """A stream that passes on what is written, and has kept nothing of it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write to the stream."""
        return self.stream.write(text)

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self.stream.isatty()

    def getvalue(self) -> str:
        """Return what was written beside Ansible's Display: it is in the output."""
        return ""


class Worker(worker.WorkerProcess):
    """A worker whose task has been run when it is started."""

    def start(self) -> None:
        """Run the task, or fork for it."""
        if self._task.action.rpartition(".")[2] in FORKED:
            super().start()
            return
        self._separate()
        with self._here():
            self.run()

    def _separate(self) -> None:
        """Copy what a task changes, as a fork does."""
        task = self._task.copy(exclude_parent=True, exclude_tasks=True)
        task._parent = self._task._parent
        host = Host.__new__(Host)
        host.__dict__.update(self._host.__dict__)
        self._task, self._host, self._task_vars = task, host, self._task_vars.copy()
        self._play_context = self._play_context.copy()

    @contextmanager
    def _here(self) -> Iterator[None]:
        """Keep the streams, signals and the display of this process as they are."""
        display, before = Display(), (sys.stdout, sys.stderr, sys.stdin)
        handlers = [signal.getsignal(number) for number in SIGNALS]
        display.set_queue = lambda queue: None
        sys.stdout, sys.stderr = Passed(sys.stdout), Passed(sys.stderr)
        try:
            yield
        finally:
            sys.stdout, sys.stderr, sys.stdin = before
            for number, handler in zip(SIGNALS, handlers, strict=True):
                signal.signal(number, handler)
            del display.set_queue
            worker.current_worker = None

    def _detach(self) -> None:
        """Leave the streams of this process alone, but in a fork."""
        if is_fork():
            super()._detach()

    def _hard_exit(self, e: Any) -> Any:
        """End the fork, or the run."""
        if is_fork():
            super()._hard_exit(e)
        raise RuntimeError(e)


def install() -> None:
    """Have Ansible run tasks so."""
    strategy.WorkerProcess = Worker
