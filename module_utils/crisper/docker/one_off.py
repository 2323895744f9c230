"""Commands of the application in one-off containers of a release, which outlive who began them.

A migration or a hook that is killed with the module that waits for it leaves a database that
nobody knows. So the container is started detached, under a name that tells what it does: when the
module is killed, the command runs on, and the next module finds the container, waits for it, and
reads its exit code and its output. It is removed when what came of it has been written down.
"""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..journal import BUSY
from ..lock import PATIENCE, LockedError, take
from ..output import KILLED, TIMEOUT, describe_failure, quote_last_lines

CHECK, MIGRATE, HOOK = "check", "migrate", "hook"
KINDS = (CHECK, MIGRATE, HOOK)
LABEL = "crisper.command"
SERVICE = "backend"
LIMIT = re.compile("[0-9]{1,9}")
COMPOSE_FILE = "docker-compose.prod.yml"
# Seconds from the time limit of a command to SIGKILL, and those until the engine tells its end.
KILL_AFTER, GRACE = 10, 30
# Seconds for an engine that does not answer: it may be starting again.
ENGINE_SECONDS = 120.0


class CommandError(RuntimeError):
    """Failure to find out what became of a command."""


@dataclass(frozen=True)
class Command:
    """A command of the application.

    Attributes:
        kind: ``check``, ``migrate`` or ``hook``.
        release: id of the release whose image runs it.
        argv: the command.
        limit: seconds that it may take.
        key: which one of its kind (``before_migrate/0/…``); empty when there is but one.
    """

    kind: str
    release: str
    argv: tuple[str, ...]
    limit: int
    key: str = ""

    def name(self, project: str) -> str:
        """Return the name of its container."""
        which = "-".join(self.key.split("/")[:2])
        return "-".join(part for part in (project, self.kind, which, self.release) if part)

    def labels(self) -> dict[str, str]:
        """Return labels of its container, beside those of the service."""
        return {LABEL: self.kind, f"{LABEL}.limit": str(self.limit), f"{LABEL}.key": self.key}

    def words(self) -> list[str]:
        """Return the command under timeout(1), inside the container: nothing runs on after it."""
        return ["timeout", f"--kill-after={KILL_AFTER}", str(self.limit), *self.argv]


@dataclass(frozen=True)
class Outcome:
    """Result of a command.

    Attributes:
        code: its exit code; None when its container is gone.
        begun: whether the command ran at all.
        cut: whether the server was started anew meanwhile.
        seconds: how long it ran.
    """

    code: int | None = None
    stdout: str = ""
    stderr: str = ""
    begun: bool = True
    cut: bool = False
    seconds: float = 0.0

    def late(self, limit: float) -> bool:
        """Return whether the command was ended by its time limit."""
        return self.code == TIMEOUT or (self.code == KILLED and self.seconds >= limit)

    def known(self, limit: float) -> bool:
        """Return whether exit code and output say all that the command did.

        SIGKILL takes what a program had not yet written.
        """
        return self.code is not None and not self.cut and (self.code != KILLED or self.late(limit))

    @property
    def output(self) -> str:
        """Output and errors, all that it printed."""
        return f"{self.stdout}\n{self.stderr}"

    def failure(self, action: str, limit: float, remedy: str = "") -> str:
        """Return what went wrong as one message; empty when nothing did.

        Args:
            action: what was done, as the subject of a sentence.
            limit: seconds that the command had.
            remedy: what to do, as a sentence of its own.
        """
        if self.code is None:
            tail = f" {remedy}" if remedy else ""
            return (
                f"{action} ended without a known result: its container was removed before its exit"
                f" code was read.{tail}"
            )
        if self.cut:
            action = f"{action} was cut off by a restart of the server and"
        result = {"rc": self.code, "stdout": self.stdout, "stderr": self.stderr}
        return describe_failure(result, action, limit if self.late(limit) else 0, remedy)


def parse_command(record: Mapping[str, Any]) -> Command:
    """Return the command of a container, of its ``docker inspect``."""
    config = record.get("Config") or {}
    labels = config.get("Labels") or {}
    words = [str(word) for word in config.get("Cmd") or []]
    if words[:1] == ["timeout"]:
        words = words[3:]
    return Command(
        kind=str(labels.get(LABEL, "")),
        release=str(labels.get("crisper.release", "")),
        argv=tuple(words),
        limit=int(limit) if LIMIT.fullmatch(limit := str(labels.get(f"{LABEL}.limit"))) else 0,
        key=str(labels.get(f"{LABEL}.key", "")),
    )


def parse_outcome(
    record: Mapping[str, Any], stdout: str, stderr: str, boot: float = 0.0
) -> Outcome:
    """Return what became of a container that runs no more, of its ``docker inspect``.

    Args:
        record: the container.
        stdout: its output.
        stderr: its errors.
        boot: when the server was started (Unix time).
    """
    state = record.get("State") or {}
    started, ended = unix_time(state.get("StartedAt")), unix_time(state.get("FinishedAt"))
    if not started:  # made and never started, or its program could not be
        error = str(state.get("Error") or stderr)
        return Outcome(code=int(state.get("ExitCode") or 0), stderr=error, begun=False)
    code = int(state.get("ExitCode") or 0)
    # The engine does not know how what died with the server ended, and its last output may be lost.
    cut = started < boot
    return Outcome(code, stdout, stderr, cut=cut, seconds=max(0.0, ended - started))


def unix_time(text: Any) -> float:
    """Return the Unix time of the engine's ``2026-11-27T18:18:03.994859747Z``; 0 for never."""
    try:
        moment = datetime.strptime(str(text)[:19], "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return 0.0
    seconds = moment.replace(tzinfo=timezone.utc).timestamp()
    fraction = str(text)[19:].rstrip("Z")
    return max(0.0, seconds + (float(fraction) if fraction[1:].isdigit() else 0.0))


def boot_time(stat: str = "/proc/stat") -> float:
    """Return when this server was started (Unix time); 0 when it does not tell."""
    try:
        lines = Path(stat).read_text().splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.startswith("btime ")), 0.0)


class Commands:
    """The one-off containers of one stack.

    Args:
        cli: the Docker client.
        project: the Compose project.
        root: folder of the stack.
    """

    def __init__(self, cli: str, project: str, root: str | Path) -> None:
        self.cli = cli
        self.project = project
        self.root = Path(root)

    def docker(
        self, *arguments: str, timeout: float | None = None, **more: Any
    ) -> tuple[int, str, str]:
        """Return exit code, output and errors of a Docker command; code 124 after `timeout` s."""
        try:
            done = subprocess.run(
                [self.cli, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=timeout,
                **more,
            )
        except subprocess.TimeoutExpired:
            return TIMEOUT, "", f"no end within {timeout} s"
        except OSError as error:
            raise CommandError(f"{self.cli} does not start: {error}") from error
        return done.returncode, done.stdout, done.stderr

    def leftovers(self) -> list[Command]:
        """Return the commands whose containers are there: of a module that was killed.

        A container has the labels of its image, too: only what Compose sets for ``compose run``,
        and a name that these labels make, tell a command from a service.

        Raises:
            CommandError: the engine does not tell.
        """
        own = (
            f"com.docker.compose.project={self.project}",
            "com.docker.compose.oneoff=True",
            LABEL,
        )
        filters = [word for label in own for word in ("--filter", f"label={label}")]
        code, out, err = self.docker("ps", "--all", "--quiet", "--no-trunc", *filters)
        if code != 0:
            raise CommandError(
                f"The engine did not list its containers: {quote_last_lines(err, 5)}"
            )
        if not (ids := out.split()):
            return []
        _code, out, _err = self.docker("container", "inspect", *ids)
        found = [(parse_command(record), record.get("Name")) for record in json.loads(out or "[]")]
        return [
            command
            for command, name in found
            if command.kind in KINDS and name == f"/{command.name(self.project)}"
        ]

    def run(
        self, command: Command, folder: str | Path, record: Callable[[Outcome], None]
    ) -> Outcome:
        """Run a command to its end; `record` gets what came of it before the container goes.

        Raises:
            CommandError: what became of it cannot be found out.
        """
        code, errors = self.start(command, folder)
        outcome = self.finish(command) if self.inspect(command) else Outcome(begun=False)
        if not outcome.begun:
            outcome = Outcome(outcome.code or code or 125, stderr=errors, begun=False)
        record(outcome)
        self.remove(command)
        return outcome

    def start(self, command: Command, folder: str | Path) -> tuple[int, str]:
        """Start a command's container; exit code and words of Compose."""
        arguments = ["compose", "--file", COMPOSE_FILE, "--project-name", self.project]
        arguments += ["run", "--detach", "--no-deps", "--no-TTY", "--interactive=false"]
        arguments += ["--name", command.name(self.project)]
        for name, value in command.labels().items():
            arguments += ["--label", f"{name}={value}"]
        # Compose goes on when this process is killed: until it has ended, the next deploy waits.
        try:
            lock = take(self.root / BUSY, fcntl.LOCK_SH, PATIENCE)
        except LockedError as error:
            name = command.name(self.project)
            raise CommandError(f"The command {name} was not begun: {error}.") from error
        with lock as busy:
            code, _out, err = self.docker(
                *(*arguments, "--", SERVICE, *command.words()),
                cwd=str(folder),
                pass_fds=[busy.fileno()],
            )
        return code, err

    def finish(self, command: Command) -> Outcome:
        """Wait until a command's container has ended; return what became of it.

        Raises:
            CommandError: it does not end, or the engine does not come back.
        """
        name = command.name(self.project)
        record = self.inspect(command)
        longest = command.limit + KILL_AFTER + GRACE
        deadline = time.monotonic() + longest
        while record and (record.get("State") or {}).get("Status") not in (
            "created",
            "exited",
            "dead",
        ):
            if time.monotonic() > deadline:
                raise CommandError(
                    f"The container {name} has not ended within {longest} s, though its command may"
                    f" take {command.limit} s: look at it (docker logs {name}), end it"
                    f" (docker kill {name}), and run again."
                )
            code, _out, _err = self.docker("wait", name, timeout=longest)
            if code != 0:
                time.sleep(0.5)
            record = self.inspect(command)
        if not record:
            return Outcome()
        _code, out, err = self.docker("logs", name)
        return parse_outcome(record, out, err, boot_time())

    def inspect(self, command: Command) -> dict[str, Any]:
        """Return what the engine has of a command's container; empty when there is none.

        Raises:
            CommandError: the engine does not answer for a while, or somebody else has the name.
        """
        deadline = time.monotonic() + ENGINE_SECONDS
        while True:
            code, out, err = self.docker("container", "inspect", command.name(self.project))
            if code == 0:
                record = dict(json.loads(out)[0])
                if LABEL in ((record.get("Config") or {}).get("Labels") or {}):
                    return record
                name = command.name(self.project)
                raise CommandError(
                    f"The container {name} belongs to no deploy: rename or remove it, then retry."
                )
            if "no such container" in err.lower():
                return {}
            if time.monotonic() > deadline:
                raise CommandError(f"The engine does not answer: {quote_last_lines(err, 5)}")
            time.sleep(1)

    def remove(self, command: Command) -> None:
        """Remove a command's container, and its anonymous volumes."""
        self.docker("rm", "--force", "--volumes", command.name(self.project))


def join_words(argv: Sequence[str]) -> str:
    """Return a command as messages show it."""
    return " ".join(argv)
