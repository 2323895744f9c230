"""Run a command and read what it prints, up to a number of bytes.

What runs in a container may be compromised: it could print until the server's memory is full.
"""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

# Bytes of standard output that are read: no probe of this project prints a third of it.
MOST = 32 * 1024 * 1024
# Bytes of the end of standard error that are kept.
TAIL = 64 * 1024
READ = 1 << 16


class Tail:
    """The end of what a process prints, read by a thread so that the process never waits.

    In a file it would fill the disk: a service may print as long as its command runs.
    """

    def __init__(self, stream: Any, most: int = TAIL) -> None:
        """Begin to read a pipe; `most` bytes are kept."""
        self._stream, self._most, self._tail = stream, most, bytearray()
        self._thread = threading.Thread(target=self._read, name="crisper-tail", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while piece := os.read(self._stream.fileno(), READ):
                self._tail += piece
                del self._tail[: -self._most]

    def text(self, patience: float = 5.0) -> str:
        """Return it, once the process has ended.

        What the process has started may still have the pipe: it is waited for `patience` seconds.
        """
        self._thread.join(patience)
        if not self._thread.is_alive():
            self._stream.close()
        return bytes(self._tail).decode(errors="replace")


class Feed:
    """Input of a process, written by a thread so that the one that asks never waits.

    A pipe takes 64 KiB, and a process may read nothing.
    """

    def __init__(self, stream: Any) -> None:
        """Begin to write to a pipe what :meth:`write` is given."""
        self._stream = stream
        self._pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._write, name="crisper-feed", daemon=True).start()

    def write(self, data: bytes) -> None:
        """Have bytes written after those before."""
        self._pieces.put(data)

    def close(self) -> None:
        """Have the pipe closed after what was given."""
        self._pieces.put(None)

    def _write(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._stream:
            while (data := self._pieces.get()) is not None:
                view = memoryview(data)
                while view:
                    view = view[os.write(self._stream.fileno(), view) :]


@dataclass(frozen=True)
class Captured:
    """Exit code and output of a command; `cut` if it printed too much and was ended."""

    returncode: int
    stdout: str
    stderr: str
    cut: bool = False


def capture(
    command: Sequence[str],
    data: str,
    timeout: float,
    folder: str | None = None,
    most: int = MOST,
) -> Captured:
    """Run a command with `data` on its standard input, for `timeout` seconds at most.

    Raises:
        OSError: it does not start.
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    sent = data.encode("utf-8", "surrogatepass")
    code, out, err, cut = capture_bytes(command, sent, timeout, folder, most)
    return Captured(code, out.decode(errors="replace"), err.decode(errors="replace"), cut)


def capture_bytes(
    command: Sequence[str],
    data: bytes,
    timeout: float,
    folder: str | None = None,
    most: int = MOST,
) -> tuple[int, bytes, bytes, bool]:
    """Run a command like `capture`; exit code, both outputs as they are, and whether it was cut.

    Raises:
        OSError: it does not start.
        subprocess.TimeoutExpired: it did not end in time, and was killed.
    """
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        bufsize=0,
    )
    try:
        out, err, cut = _talk(process, data, timeout, most)
        if cut:
            process.kill()
        code = process.wait(timeout=10 if cut else max(1.0, timeout))
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
    return code, out, err, cut


def _talk(
    process: subprocess.Popen[bytes], data: bytes, timeout: float, most: int
) -> tuple[bytes, bytes, bool]:
    """Write `data` and read both streams; returns them, and whether there was too much."""
    deadline = time.monotonic() + timeout
    out, err, view = bytearray(), bytearray(), memoryview(data)
    with selectors.DefaultSelector() as selector:
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise OSError("the command has no pipes")  # they were asked for
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map():
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise subprocess.TimeoutExpired(process.args, timeout)
            for key, _ in selector.select(remaining):
                if key.fileobj is process.stdin:
                    view = _feed(process.stdin, view)
                    if not view:
                        selector.unregister(process.stdin)
                        with contextlib.suppress(OSError):
                            process.stdin.close()
                    continue
                part = os.read(key.fd, READ)
                if not part:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    out += part
                    if len(out) > most:
                        return bytes(out[:most]), bytes(err), True
                else:
                    err += part
                    del err[:-TAIL]
    return bytes(out), bytes(err), False


def _feed(stream: IO[bytes], data: memoryview) -> memoryview:
    """Write as much as the pipe takes; return the rest, nothing if the process has ended."""
    try:
        return data[os.write(stream.fileno(), data[:READ]) :]
    except BlockingIOError:
        return data
    except OSError:
        return data[len(data) :]  # its output says why
