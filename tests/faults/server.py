"""The server under test, through `docker exec`: what runs on it, and whether that is healthy."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# What a deploy runs once, in a container of a service, is none of the service's.
ONES = "--filter label=com.docker.compose.oneoff=False"
FORMAT = '{{.ID}} {{.Label "crisper.service"}} {{.Label "crisper.release"}} {{.Status}}'


class ServerError(Exception):
    """The server did not do what it was told."""


class CannotRunError(Exception):
    """The fault cannot be made here; the message says why."""


@dataclass(frozen=True)
class Container:
    """A running container of the stack; services that outlive releases have no release."""

    id: str
    service: str
    release: str
    healthy: bool


def parse_containers(listing: str) -> list[Container]:
    """Containers of `docker ps` in FORMAT; those of no service are left out."""
    found = []
    for line in listing.splitlines():
        words = line.split(" ", 3)
        if len(words) == 4 and words[1]:
            healthy = "(healthy)" in words[3] and "Paused" not in words[3]
            found.append(Container(words[0], words[1], words[2], healthy))
    return found


class Server:
    """A server that is a container with an engine of its own.

    Args:
        name: the container's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def sh(self, script: str, timeout: float = 120) -> str:
        """Output of a shell script on the server.

        Raises:
            ServerError: it failed, or took longer than `timeout` seconds.
        """
        return run("docker", "exec", self.name, "sh", "-euc", script, timeout=timeout)

    def address(self) -> str:
        """The server's address."""
        networks = json.loads(run("docker", "inspect", self.name))[0]["NetworkSettings"]["Networks"]
        return str(networks["bridge"]["IPAddress"])

    def containers(self) -> list[Container]:
        """What of the stack runs."""
        return parse_containers(self.sh(f"docker ps {ONES} --format '{FORMAT}'", timeout=30))

    def container(self, service: str) -> str:
        """Id of a service's running container; in a rollout the one that has served until then.

        Raises:
            ServerError: there is none.
        """
        for container in reversed(self.containers()):  # docker ps: the newest first
            if container.service == service:
                return container.id
        raise ServerError(f"no container of {service} runs on {self.name}")

    def main_process(self, service: str) -> int:
        """The process that a container's init has started, as the server counts processes."""
        init = self.sh(f"docker inspect --format '{{{{.State.Pid}}}}' {self.container(service)}")
        return int(self.sh(f"pgrep --parent {init.strip()}").split()[0])

    def release(self) -> str:
        """The current release."""
        return self.sh("basename $(readlink /opt/crisper/current)").strip()

    def setting(self, name: str) -> str:
        """A secret of the stack."""
        return str(json.loads(self.sh("cat /opt/crisper/secrets.json"))[name])

    def is_whole(self, expected: Counter[str]) -> bool:
        """Whether what runs is healthy and as much as `expected`, the number of each service."""
        try:
            containers = self.containers()
        except ServerError:
            return False
        running = Counter(container.service for container in containers)
        return running >= expected and all(container.healthy for container in containers)

    def is_of_one_release(self) -> bool:
        """Whether nothing but the current release runs."""
        releases = {c.release for c in self.containers() if c.release}
        return releases == {self.release()}


def run(*command: str, timeout: float = 120, **options: Any) -> str:
    """Output of a command.

    Raises:
        ServerError: it failed, or took longer than `timeout` seconds.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)
    except subprocess.TimeoutExpired as error:
        raise ServerError(f"{' '.join(command)[:300]} took longer than {timeout:g} s") from error
    if done.returncode != 0:
        raise ServerError(f"{' '.join(command)[:300]} failed: {done.stdout}{done.stderr}"[:2000])
    return done.stdout


def wait_until(true: Callable[[], Any], what: str, seconds: float) -> Any:
    """The first truthy answer.

    Raises:
        ServerError: there was none in time.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := true():
            return answer
        time.sleep(0.25)
    raise ServerError(f"not within {seconds:g} s: {what}")
