"""The Docker client of backups and databases: run programs in containers, move streams in and out.

Needs nothing but Python and the Docker client: the timer on a server runs it without Ansible.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from ..backup.backends.postgres_sql import ASK_TEMPLATE, OPEN
from ..backup.backends.remedies import explained
from ..backup.backends.slots import (
    find_holders,
    full_service,
    refuses_all,
)
from ..backup.manifest import BackupError, NoConnectionError
from ..process import MOST, Tail, capture_bytes
from ..text import quote_output
from .labels import NO_SERVICE

# Bytes that a service may say to a question, and that a session of PostgreSQL answers to one: names
# of 100,000 tables have a tenth.
MOST_TEXT = 16 << 20
# Exit code of psql where it was let in, and a statement failed.
STATEMENT_FAILED = 3
# Processes and threads of a container that is made for one task.
PIDS = "2048"
# What every container has that is made for one task; capabilities that it needs are added.
HARDENED = (
    *NO_SERVICE,
    *("--pull", "never", "--network", "none", "--read-only", "--pids-limit", PIDS),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
)


class Docker:
    """The Docker client, with a time limit for everything that goes on in a container."""

    def __init__(self, cli: str = "docker", timeout: int = 3600) -> None:
        self.cli = cli
        self.timeout = timeout

    def run(self, *arguments: str) -> str:
        """Return the standard output of a Docker command.

        Raises:
            BackupError: it failed.
        """
        try:
            code, out, err, cut = capture_bytes(
                [self.cli, *arguments], b"", self.timeout + 30, most=MOST
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackupError(f"`docker {arguments[0]} …`: {error}") from error
        command = f"`docker {' '.join(arguments[:2])} …`"
        if cut:
            raise BackupError(f"{command} printed more than {MOST >> 20} MiB, and was ended")
        if code != 0:
            why = quote_output((err or out).decode(errors="replace").strip()[-1000:])
            raise BackupError(f"{command} failed: {why}")
        return out.decode(errors="replace")

    def attempt(self, *arguments: str) -> str:
        """Return the standard output of a Docker command; empty where it failed."""
        try:
            return self.run(*arguments)
        except BackupError:
            return ""

    def container(self, project: str, service: str) -> str:
        """Return the id of the running container of a service; empty when none runs."""
        label = "label=com.docker.compose"
        found = self.run(
            *("ps", "--quiet", "--no-trunc", "--filter", f"{label}.project={project}"),
            *("--filter", f"{label}.service={service}", "--filter", f"{label}.oneoff=False"),
        )
        return (found.split() or [""])[0]

    def inspect(self, container: str) -> dict[str, Any]:
        """Return what the engine knows of a container."""
        record: dict[str, Any] = json.loads(self.run("container", "inspect", container))[0]
        return record

    def inside(self, container: str, script: str, **environment: str) -> list[str]:
        """Return the `docker exec` command of a script in a container.

        timeout(1) runs in the container: ending the client would leave the work going on.
        """
        command = [self.cli, "exec", "--interactive"]
        for name, value in environment.items():
            command += ["--env", f"{name}={value}"]
        shell = ["timeout", str(self.timeout), "bash", "-o", "pipefail", "-c", script]
        return [*command, container, *shell]

    def out_of(self, what: str, command: list[str], target: IO[bytes]) -> None:
        """Copy what a command writes into a stream.

        Raises:
            BackupError: it failed; what was written is not whole.
        """
        with started(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as running:
            shutil.copyfileobj(running.stdout, target, 1 << 20)
        self.judge(what, running)

    def into(self, what: str, command: list[str], source: IO[bytes]) -> None:
        """Feed a stream to a command.

        Raises:
            BackupError: it failed.
        """
        with started(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as running:
            try:
                shutil.copyfileobj(source, running.stdin, 1 << 20)
                running.stdin.close()
            except BrokenPipeError:
                pass  # it ended early; its exit code and its messages say why
        self.judge(what, running)

    def text(self, what: str, command: list[str]) -> str:
        """Return what a command in a container says, stripped.

        Raises:
            BackupError: it failed, or said more than MOST_TEXT bytes.
        """
        return self.answer(what, command, b"")

    def answer(self, what: str, command: list[str], question: bytes) -> str:
        """Return what a command says to what it is told, stripped.

        Raises:
            BackupError: it failed, or said more than MOST_TEXT bytes.
        """
        try:
            code, out, err, cut = capture_bytes(
                command, question, self.timeout + 30, most=MOST_TEXT
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackupError(f"{what}: {error}") from error
        if cut:
            raise BackupError(
                f"{what}: it printed more than {MOST_TEXT >> 20} MiB, and was"
                " ended. The service or the application in it is out of order, or hostile: look at"
                " its log (docker compose logs)"
            )
        if code != 0:
            errors = err.decode(errors="replace").strip()[-1000:]
            self.judge(what, subprocess.CompletedProcess(command, code), errors)
        return out.decode(errors="replace").strip()

    def judge(self, what: str, ended: Any, errors: str | None = None) -> None:
        """Fail when a command that ended did; `errors` are its last words, else it knows them."""
        if ended.returncode != 0:
            late = f" within {self.timeout} s" if ended.returncode == 124 else ""
            quoted = quote_output(ended.errors if errors is None else errors)
            why = explained(quoted, lambda: self._database(ended.args))
            if full := full_service(quoted):
                container = _container_of(ended.args, self.cli)
                why = f"{why.rstrip()}{find_holders(self.attempt, full, container)}"
            refused = ended.returncode != STATEMENT_FAILED and refuses_all(quoted)
            failure = NoConnectionError if refused else BackupError
            raise failure(f"{what}{late}: {why or f'exit code {ended.returncode}'}")

    def _database(self, command: list[str]) -> str:
        """Return whether PostgreSQL's application database is missing, closed or open.

        Args:
            command: one of :meth:`inside`, which failed in the container.

        Returns:
            A word; empty when PostgreSQL does not answer.
        """
        states = {"": "missing", "f": "closed", "t": "open"}
        return states.get(self._ask_superuser(command, OPEN, "?").strip(), "")

    def _ask_superuser(self, command: list[str], question: str, otherwise: str) -> str:
        """Return what the superuser is answered in the container of a command that failed."""
        if _container_of(command, self.cli):
            query = [*command[:-1], ASK_TEMPLATE]
            with suppress(OSError, subprocess.TimeoutExpired):
                code, out, _, cut = capture_bytes(query, f"{question};\n".encode(), 60, most=MOST)
                if code == 0 and not cut:
                    return out.decode(errors="replace")
        return otherwise


def _container_of(command: list[str], cli: str) -> str:
    """Return the container of a command of :meth:`Docker.inside`; empty for another one."""
    inside = command[:2] == [cli, "exec"] and command[-2:-1] == ["-c"]
    return command[-8] if inside else ""


@contextmanager
def started(command: list[str], **streams: Any) -> Iterator[Any]:
    """Start a command; its exit code and the end of its messages are known afterwards."""
    try:
        running: Any = subprocess.Popen(command, stderr=subprocess.PIPE, **streams)
    except OSError as error:
        raise BackupError(f"{command[0]}: {error}") from error
    tail = Tail(running.stderr)
    try:
        yield running
    except BaseException:
        running.kill()
        raise
    finally:
        for stream in (running.stdin, running.stdout):
            if stream and not stream.closed:
                with suppress(BrokenPipeError):
                    stream.close()
        running.wait()
        running.errors = tail.text().strip()[-1000:]
