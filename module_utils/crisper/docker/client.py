"""Ask the engine for what it has of a stack, with the Docker client: the I/O edge of modules."""

from __future__ import annotations

import atexit
import contextlib
import json
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from ..backup.backends.slots import explain_shortage
from ..output import quote_last_lines
from ..process import capture
from ..rollout.plan import Container, parse_inspect, recreated
from ..text import quote
from .diagnosis import LOG_LINES, Report, report

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

# Seconds and bytes that the last lines of a container's log may take.
LOG_SECONDS, LOG_BYTES = 60.0, 4_000_000
# Characters of why a question was not answered.
ERROR_WIDTH = 300


class DockerError(RuntimeError):
    """Failure of the Docker client, which is missing, or of the engine, which does not answer.

    Its text is what the client printed, as it is: quote it in a message.
    """


class DockerClient:
    """Containers of one stack on the engine of this host."""

    def __init__(
        self, module: AnsibleModule, project: str, details: Callable[[], dict[str, Any]] = dict
    ) -> None:
        """Begin; `details` returns what the module has to tell besides when a command fails."""
        self.module = module
        self.details = details
        self.cli = module.params["docker_cli"]
        self.project = project

    def available(self) -> bool:
        """Return whether there is a Docker client, and an engine that answers it."""
        question = ("version", "--format", "{{.Server.Version}}")
        return shutil.which(self.cli) is not None and self.call(*question)[0] == 0

    def call(self, *arguments: str, folder: str | None = None) -> tuple[int, str, str]:
        """Return exit code, output and errors of a Docker command."""
        answer: tuple[int, str, str] = self.module.run_command([self.cli, *arguments], cwd=folder)
        return answer

    def run(self, *arguments: str, folder: str | None = None) -> str:
        """Return the standard output of a Docker command that must succeed."""
        code, out, err = self.call(*arguments, folder=folder)
        if code != 0:
            self.refused(arguments, err or out)
        return out

    def refused(self, arguments: Sequence[str], output: str) -> NoReturn:
        """End with a Docker command that failed."""
        self.module.fail_json(
            msg=f"`docker {' '.join(arguments[:3])} …` failed: {quote_last_lines(output)}",
            cmd=" ".join([self.cli, *arguments]),
            **self.details(),
        )
        raise AssertionError  # fail_json has ended the process

    def begin(self, *arguments: str) -> BackgroundCommand:
        """Start a Docker command that must succeed, and goes on while other things are done."""
        return BackgroundCommand(self, arguments)

    def list_ids(
        self, service: str = "", *, status: str = "", all_states: bool = False, one_off: bool = True
    ) -> list[str]:
        """Return ids of the stack's containers, of one service when it is named.

        Args:
            service: Compose service; empty lists those of all.
            status: of Docker, such as ``running``, which paused and restarting ones are not.
            all_states: whether those that do not run are listed.
            one_off: whether those of ``docker compose run`` are listed.

        Raises:
            DockerError: there is no Docker client, or the engine does not tell.
        """
        labels = {"project": self.project, "service": service}
        if not one_off:
            labels["oneoff"] = "False"
        command = [self.cli, "ps", *(["--all"] if all_states else []), "--quiet", "--no-trunc"]
        if status:
            command += ["--filter", f"status={status}"]
        for name, value in labels.items():
            if value:
                command += ["--filter", f"label=com.docker.compose.{name}={value}"]
        try:
            answer = self.module.run_command(command, handle_exceptions=False)
        except OSError as error:
            raise DockerError(f"{self.cli}: {error.strerror or error}") from error
        code, out, err = (int(answer[0]), str(answer[1]), str(answer[2]))
        if code != 0:
            raise DockerError(err.strip()[-ERROR_WIDTH:])
        return out.split()

    def find_running(self, service: str) -> tuple[str, str]:
        """Return the id of a running container of a service, and else the problem."""
        try:
            ids = self.list_ids(service, status="running", one_off=False)
        except DockerError as error:
            return "", f"docker_unavailable: {quote(str(error), ERROR_WIDTH)}"
        if not ids:
            where = f"service {service} of project {self.project}"
            return "", f"container_not_running: no container of {where} runs"
        return ids[0], ""

    def containers(self) -> list[Container]:
        """Return all containers of the stack, running or not."""
        try:
            ids = self.list_ids(all_states=True)
        except DockerError as error:
            self.refused(("ps", "--all", "--quiet"), str(error))
        return self.inspect(ids) if ids else []

    def records(self, ids: Iterable[str]) -> list[dict[str, Any]]:
        """Return what the engine knows of containers; one that went away meanwhile is left out."""
        _code, out, _err = self.call("container", "inspect", *ids)
        return list(json.loads(out or "[]"))

    def inspect(self, ids: Iterable[str]) -> list[Container]:
        """Return containers by id; those that went away meanwhile are left out."""
        return parse_inspect(self.records(ids))

    def diagnose(self, ids: Sequence[str]) -> list[Report]:
        """Return why containers do not serve; those that went away meanwhile are left out."""
        if not ids:
            return []
        reports = []
        for record in self.records(ids):
            if record["Id"] in ids:
                logs, code = self.logs(record["Id"]), self.last_exit_code(record)
                reports.append(self._with_holders(report(record, logs, code)))
        return reports

    def _with_holders(self, found: Report) -> Report:
        """Return a report; where a data service has no connection left, with who holds them."""
        output = f"{found.health}\n{found.logs}"
        remedy = explain_shortage(lambda *words: self.call(*words)[1], self.project, output)
        return replace(found, remedies=(remedy, *found.remedies)) if remedy else found

    def logs(self, container: str) -> str:
        """Return the last lines of a container's log; a line may be as long as it likes."""
        command = [self.cli, "logs", "--tail", str(LOG_LINES), container]
        try:
            done = capture(command, "", LOG_SECONDS, most=LOG_BYTES)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout + done.stderr

    def last_exit_code(self, record: Mapping[str, Any]) -> int | None:
        """Return the exit code before a container's last restart, of the engine's events.

        In its record the code is 0 again as soon as the container runs. None without a restart,
        and when the engine has forgotten the event.
        """
        if not record.get("RestartCount"):
            return None
        only = ("--filter", f"container={record['Id']}", "--filter", "event=die")
        form = ("--format", "{{.Actor.Attributes.exitCode}}")
        _code, out, _err = self.call("events", "--since", "1h", "--until", "0s", *only, *form)
        codes = [line for line in out.split() if line.isdigit()]
        return int(codes[-1]) if codes else None

    def has_images(self, ids: Iterable[str]) -> bool:
        """Return whether all images of these ids are here."""
        return self.call("image", "inspect", "--format", "{{.Id}}", *ids)[0] == 0

    def definitions_changed(
        self,
        services: Mapping[str, Mapping[str, Any]],
        containers: Iterable[Container],
        folder: str,
    ) -> list[str]:
        """Return stateful services that Compose would recreate for the release in `folder`."""
        stateful = {name for name, service in services.items() if service["kind"] == "stateful"}
        running = {c.name: c.service for c in containers if c.service in stateful}
        if not running:
            return []
        command = ["compose", "--dry-run", "--project-name", self.project]
        command += ["up", "--detach", "--no-deps", "--no-build", *sorted(set(running.values()))]
        code, out, err = self.call(*command, folder=folder)
        if code != 0:
            self.module.fail_json(
                msg=f"Compose refuses the release: {quote_last_lines(err or out)}", **self.details()
            )
        return [running[name] for name in recreated(err + out) if name in running]


class BackgroundCommand:
    """A Docker command under way."""

    def __init__(self, client: DockerClient, arguments: Sequence[str]) -> None:
        self.client, self.arguments = client, arguments
        self.process = subprocess.Popen(
            [client.cli, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def wait(self) -> str:
        """Wait until it exits; return its output."""
        return self.process.communicate()[0]

    def end(self) -> None:
        """Wait until it exits; end the module unless it succeeded."""
        output = self.wait()
        if self.process.returncode != 0:
            self.client.refused(self.arguments, output)


class EventWatcher:
    """Sleeps until a container of the stack becomes healthy or unhealthy, or ends.

    A look at the engine every so often takes a good part of a processor from the very containers
    that are waited for.
    """

    EVENTS = ("health_status", "die")

    def __init__(self, client: DockerClient) -> None:
        filters = [f"label=com.docker.compose.project={client.project}", "type=container"]
        filters += [f"event={event}" for event in self.EVENTS]
        command = [client.cli, "events", "--format", "{{.Action}}"]
        for item in filters:
            command += ["--filter", item]
        self.process: subprocess.Popen[bytes] | None = None
        with contextlib.suppress(OSError):
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
        atexit.register(self.close)

    def sleep(self, longest: float, otherwise: float, *besides: Any) -> None:
        """Wait until something happened, `longest` seconds at most; `otherwise` without events.

        `besides` are streams on which something may happen as well.
        """
        stream: Any = self.process.stdout if self.process else None
        if stream is not None:
            ready = select.select([stream, *besides], [], [], longest)[0]
            if stream not in ready or stream.read(1 << 16):
                return
            self.close()
        time.sleep(otherwise)

    def close(self) -> None:
        """Stop listening: there are no events any more."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def find_container(module: AnsibleModule) -> tuple[str, str]:
    """Return the id of the running container that a module's arguments name, and else why none.

    Its arguments are `container`, or `project` and `service`.
    """
    if module.params["container"]:
        return module.params["container"], ""
    return DockerClient(module, module.params["project"]).find_running(module.params["service"])


def summarize(containers: Iterable[Container]) -> list[dict[str, str]]:
    """Return containers as results show them."""
    return [
        {"name": c.name, "service": c.service, "state": c.state, "health": c.health}
        for c in containers
    ]
