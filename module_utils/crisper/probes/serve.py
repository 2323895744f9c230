"""Answer requests from inside a container: the frame around every probe.

Whatever the application prints goes to stderr; a reply is one line after a marker. Nothing that an
application does ends a probe without a reply: an import that hangs, a broker that hangs, an exit.
"""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

from ..text import clean
from .control import Failure, load_app

SECRET_NAME = re.compile(r"PASS|SECRET|TOKEN|KEY|URL|DSN|CREDENTIAL|BROKER|BACKEND", re.IGNORECASE)
# Lists and mappings within each other: `clean` keeps 12.
MOST_DEPTH = 40
# Seconds until a conversation ends when nobody asks: longer than any wait of a rollout between two
# questions.
IDLE = 3600
LATE = {
    "app_not_importable": "The application was not imported",
    "broker_unreachable": "The broker did not answer",
    "result_backend_unreachable": "The result backend did not answer",
}


def when_told_to_stop(act: Callable[[], object]) -> None:
    """Have that done when the container is stopped.

    A one-off container of web stops as web does: by whatever signal stop_signal says. SIGINT ended
    the ledger with a traceback in place of its numbers.
    """
    named = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH")
    numbers = [getattr(signal, f"SIG{name}") for name in named]
    for number in (*numbers, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)):
        signal.signal(number, lambda *_: act())


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Return values of the environment that must not leave it, longest first."""
    found = set()
    for name, value in environment.items():
        if SECRET_NAME.search(name) and len(value) >= 6:
            found.add(value)
            userinfo = re.match(r"[a-z0-9+]+://([^/@]*)@", value, re.IGNORECASE)
            password = userinfo.group(1).partition(":")[2] if userinfo else ""
            if len(password) >= 4:
                found.add(password)
    return sorted(found, key=len, reverse=True)


def redact(value: Any, secrets: Sequence[str], depth: int = MOST_DEPTH) -> Any:
    """Return the value without secrets, in whatever depth they stand."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
        return re.sub(r"://[^/@\s]*@", "://***@", value)
    if isinstance(value, (dict, list, tuple)) and depth <= 0:
        return "(too deep)"
    if isinstance(value, dict):
        return {
            redact(str(key), secrets): redact(item, secrets, depth - 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact(item, secrets, depth - 1) for item in value]
    return value


class Output:
    """Standard output, for replies alone: everything else goes to standard error."""

    def __init__(self, marker: str) -> None:
        """Take it; the environment's secrets are masked from here on."""
        self.marker = marker
        self.secrets = secrets_of(os.environ)
        self.descriptor = os.dup(1)
        os.dup2(2, 1)
        sys.stdout = sys.stderr

    def write(self, reply: Mapping[str, Any]) -> None:
        """Write one reply."""
        data = ("\n" + self.marker + json.dumps(clean(reply)) + "\n").encode()
        while data:
            data = data[os.write(self.descriptor, data) :]
        sys.stderr.flush()


class Probe:
    """Base of all probes: a request, and what is known of its reply so far.

    A module of probes has a subclass and ``main = <subclass>.main``.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        """Begin; the application is not imported yet."""
        self.request = request
        self.started = time.monotonic()
        self.phase = "app_not_importable"  # the problem, if it ends here
        self.reply: dict[str, Any] = {}

    def run(self, app: Any) -> None:
        """Fill `reply`."""
        raise NotImplementedError

    def enter(self, phase: str, seconds: float) -> None:
        """Begin a phase that ends after so many seconds, with that problem."""
        self.phase = phase
        signal.alarm(max(1, int(seconds)))

    def summary(self, problem: str = "", error: str = "") -> dict[str, Any]:
        """Return the reply, whatever happened."""
        return {"problem": problem, "error": error, **self.reply}

    def mask(self, reply: dict[str, Any], secrets: Sequence[str]) -> Any:
        """Return the reply without secrets; before it is cut, or the end of one is not found."""
        return redact(reply, secrets)

    def seconds(self) -> float:
        """Return for how long it has run."""
        return round(time.monotonic() - self.started, 3)

    def late(self) -> str:
        """Return why the alarm went off."""
        return LATE[self.phase] + " in time"

    @classmethod
    def main(cls, request: dict[str, Any], marker: str) -> None:
        """Answer the request and leave without the application's exit handlers."""
        output, probe = Output(marker), cls(request)

        def answer(problem: str = "", error: str = "") -> None:
            output.write(probe.mask(probe.summary(problem, error), output.secrets))

        def ends(*_: Any) -> None:
            answer(probe.phase, probe.late())
            os._exit(0)

        signal.signal(signal.SIGALRM, ends)
        signal.alarm(max(1, int(request["import_timeout"])))
        try:
            probe.serve(answer)
        except Failure as failure:
            answer(failure.problem, str(failure))
        except BaseException as error:  # an application may raise anything, SystemExit included
            answer(probe.phase, type(error).__name__ + ": " + str(error))
        os._exit(0)

    def serve(self, answer: Callable[..., None]) -> None:
        """Import the application and answer the request."""
        self.run(load_app(self.request["app"]))
        signal.alarm(0)
        answer()


class Conversation(Probe):
    """A probe that answers a line of JSON for each line of JSON, by its number."""

    COMMANDS: tuple[str, ...] = ()  # names of methods, called with the application and the request

    def __init__(self, request: dict[str, Any]) -> None:
        """Read from the beginning: what is asked meanwhile is seen by `asked_more`."""
        super().__init__(request)
        self.lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        reader = threading.Thread(target=read, args=(sys.stdin.buffer, self.lines), daemon=True)
        reader.start()

    def asked_more(self) -> bool:
        """Return whether something else is asked already."""
        return not self.lines.empty()

    def late(self) -> str:
        """Return why the alarm went off."""
        return "no answer in time"

    def forget(self) -> None:
        """Begin a reply."""
        self.reply = {}

    def serve(self, answer: Callable[..., None]) -> None:
        """Import the application and answer until there are no more lines."""
        app = load_app(self.request["app"])
        self.enter("broker_unreachable", IDLE)
        for line in iter(self.lines.get, b""):
            request = json.loads(line)
            self.forget()
            self.reply["number"] = request["number"]
            try:
                if request["command"] not in self.COMMANDS:
                    raise Failure("malformed_reply", "unknown command " + request["command"])
                getattr(self, request["command"])(app, request)
                signal.alarm(IDLE)
                answer()
            except Failure as failure:
                answer(failure.problem, str(failure))
            except Exception as error:
                answer(self.phase, type(error).__name__ + ": " + str(error))


def read(stream: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Hand lines over, and an empty one when there are no more."""
    for line in stream:
        lines.put(line)
    lines.put(b"")
