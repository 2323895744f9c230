"""A conversation with a program in a container: started once, asked several times.

Starting Python there and importing the application takes a second each time; a rollout asks more
than once, and the first start passes while containers become healthy.
"""

from __future__ import annotations

import json
import selectors
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from ..process import MOST, READ, Feed, Tail
from ..text import printable_lines
from .run import MARKER, RemoteError, parse_line, program, trouble, without_secrets

# The program comes first on standard input, after its length; the requests follow it.
BOOT = "import sys; exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())).decode())"
# Seconds until a program that has closed its output must have ended.
PATIENCE = 10.0


class Session:
    """A program that answers one line of JSON for each line of JSON, by the number in it."""

    def __init__(
        self, command: Sequence[str], entry: ModuleType, request: Mapping[str, Any]
    ) -> None:
        """Start it: `command` runs Python and hands standard input over.

        Raises:
            RemoteError: when the command does not start.
        """
        self.line = " ".join(command)
        self.rest = b""
        self.number = 0  # of what was asked last
        self.received = 0  # bytes since then
        source = program(entry, request).encode()
        try:
            self.process = subprocess.Popen(
                [*command, "-c", BOOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        except OSError as error:
            message = f"`{self.line}` does not start: {error}"
            raise RemoteError("docker_unavailable", message) from error
        # Pipes were asked for: they are there.
        self.output: Any = self.process.stdout
        self.errors = Tail(self.process.stderr)
        # A program that has ended reads nothing; why, `receive` says, which finds its last words.
        self.input = Feed(self.process.stdin)
        self.input.write(f"{len(source)}\n".encode() + source)
        # The thread outlives this object, and the program ends at the end of its input.
        weakref.finalize(self, self.input.close)

    def send(self, request: Mapping[str, Any]) -> None:
        """Ask something; `receive` brings the answer, and no more that to an earlier question."""
        self.number += 1
        self.received = 0
        self.input.write(json.dumps({**request, "number": self.number}).encode() + b"\n")

    def receive(self, timeout: float) -> dict[str, Any]:
        """Return the answer to what was asked last.

        Raises:
            RemoteError: when there is none within `timeout` seconds, or the program has ended.
        """
        answer = self.poll(timeout)
        if answer is None:
            message = f"`{self.line}` gave no answer within {timeout:.0f} s"
            raise RemoteError("docker_unavailable", message)
        return answer

    def poll(self, timeout: float = 0) -> dict[str, Any] | None:
        """Return the same; None when there is none within `timeout` seconds, whatever it prints.

        Raises:
            RemoteError: the program has ended, or prints without an end.
        """
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self.output, selectors.EVENT_READ)
            while True:
                remaining = max(0.0, deadline - time.monotonic())
                if not selector.select(remaining):
                    return None
                self._read()
                answer = self._answer()
                # Without time one piece is read: there may always be a next one.
                if answer is not None or time.monotonic() >= deadline:
                    return answer

    def _read(self) -> None:
        data = self.output.read(READ)
        if not data:
            raise self._ended()
        self.rest += data
        self.received += len(data)
        if max(self.received, len(self.rest)) > MOST:
            raise self._refused(f"it printed more than {MOST} bytes without an answer")

    def _answer(self) -> dict[str, Any] | None:
        """Return the answer among the lines that are whole; None when there is none."""
        *lines, self.rest = self.rest.split(b"\n")
        for line in lines:
            if line.startswith(MARKER.encode()):
                answer = parse_line(line.decode(errors="replace"))
                if answer is None:
                    raise self._refused("it printed an answer that is none")
                # One without a number says why nothing can be asked.
                if answer.pop("number", self.number) == self.number:
                    return answer
        return None

    def _refused(self, why: str) -> RemoteError:
        self.process.kill()
        return RemoteError("malformed_reply", f"`{self.line}` was ended: {why}")

    def _ended(self) -> RemoteError:
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return self._refused("it closed its output and went on")
        errors = without_secrets(self.errors.text())
        problem, why = trouble(code, errors)
        return RemoteError(problem, f"`{self.line}` ended: {why}", printable_lines(errors[-2000:]))
