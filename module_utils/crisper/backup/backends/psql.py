"""Sessions with PostgreSQL in its container."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ...docker.exec import Docker, started
from ..manifest import BackupError
from .postgres_sql import ASK_POSTGRES, END_SESSIONS

# Until a session that was told to end has done so.
SESSION_SECONDS = 30.0
MOST_ROWS = 64 << 20
END_OF_ANSWER = "crisper-end-of-answer"
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class Session:
    """Questions to PostgreSQL in one session."""

    def __init__(self, running: Any) -> None:
        self.running = running

    def ask(self, statement: str) -> list[str]:
        """Return the answer's lines.

        Raises:
            BackupError: the answer has more than MOST_ROWS bytes.
        """
        question = f"{statement};\n\\echo {END_OF_ANSWER}\n"
        try:
            self.running.stdin.write(question.encode())
            self.running.stdin.flush()
        except BrokenPipeError:
            return []
        lines: list[str] = []
        remaining = MOST_ROWS
        while line := self.running.stdout.readline(remaining + 1):
            remaining -= len(line)
            if remaining < 0:
                raise BackupError(
                    f"PostgreSQL answered with more than {MOST_ROWS >> 20} MiB, which are not read:"
                    f" {statement[:60]!a} … Something has made an extraordinary number of tables or"
                    " rows there: look at the database, and drop them"
                )
            text = line.decode(errors="replace").rstrip("\n")
            if text == END_OF_ANSWER:
                return lines
            lines.append(text)
        return lines


@contextmanager
def postgres_session(
    docker: Docker, container: str, name: str = "", script: str = ASK_POSTGRES
) -> Iterator[Session]:
    """Return a session for questions; raises when PostgreSQL does not answer.

    `name` is what PostgreSQL knows the session by; empty leaves that to psql. `script` says whose
    session it is.
    """
    command = docker.inside(container, script, **named(name))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with started(command, **pipes) as running:
        yield Session(running)
    docker.judge("PostgreSQL did not answer", running)


def named(name: str) -> dict[str, str]:
    """Return the environment that names a session; empty for psql's own name."""
    return {"PGAPPNAME": name} if name else {}


def end_postgres_sessions(docker: Docker, container: str, names: Iterable[str]) -> bool:
    """End the sessions of these names; return whether all have ended within SESSION_SECONDS.

    What runs in a container by `docker exec` outlives its client: a dump that nobody takes goes on,
    and keeps migrations from the tables that it reads.

    Raises:
        BackupError: PostgreSQL does not answer.
    """
    listed = ", ".join(f"'{name}'" for name in names)
    deadline = time.monotonic() + SESSION_SECONDS
    with postgres_session(docker, container) as session:
        while session.ask(f"{END_SESSIONS} application_name IN ({listed})"):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
    return True


def unescape(text: str) -> str:
    """Return a value of COPY's text format, which is not NULL."""
    return _ESCAPED.sub(lambda match: _ESCAPES.get(match[1], match[1]), text)
