"""Ansible's connection to a test server: into its namespaces, past the engine."""

from __future__ import annotations

DOCUMENTATION = r"""
name: test_server
short_description: Run tasks in a test server
description:
  - Does what P(community.docker.docker#connection) does, by C(nsenter). C(docker exec) takes
    several times its processor, and a scenario has a thousand tasks.
  - Where this process is not root beside the engine, it is C(docker exec) after all.
options:
  remote_addr:
    description: Name of the container.
    type: str
    default: inventory_hostname
    vars:
      - name: inventory_hostname
      - name: ansible_host
"""

import json
import os
import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.connection import ConnectionBase

ENGINE = "/var/run/docker.sock"
# What the engine gives a process whose image names no path.
DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What runs there counts as the container's, as with the engine: its groups come before the --.
JOIN = 'while [ "$1" != -- ]; do echo $$ >"$1"; shift; done; shift; exec "$@"'


def inspect(name: str) -> dict[str, Any]:
    """Return what the engine knows of a container; empty without one."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(ENGINE)
        client.sendall(f"GET /containers/{name}/json HTTP/1.0\r\nHost: engine\r\n\r\n".encode())
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return json.loads(body) if head.split()[1] == b"200" else {}


def control_groups(leader: Path, name: str) -> list[str]:
    """Return the files by which a process joins the control groups of a container."""
    found = []
    for line in (leader / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        outer, own, _ = path.partition(name)
        if not own:
            continue
        first = controllers.removeprefix("name=")
        # Of version 1 the container's own, as the engine has it; of version 2 a leaf alone can.
        for group in (f"{first}{outer}{own}" if first else path, f"unified{outer}{own}"):
            procs = Path("/sys/fs/cgroup", group.lstrip("/"), "cgroup.procs")
            if procs.exists():
                found.append(str(procs))
                break
    return found


def entrance(found: dict[str, Any]) -> list[str]:
    """Return what runs a command in a container; empty where only the engine can."""
    leader = Path("/proc") / str(found["State"]["Pid"])
    try:
        groups = control_groups(leader, found["Id"])
    except OSError:
        groups = []
    if not groups:
        return []  # its processes are not of this machine
    config = found["Config"]
    own = ["HOME=/root", DEFAULT_PATH, *(config["Env"] or [])]
    inside = ["env", "-i", f"--chdir={config['WorkingDir'] or '/'}", *own]
    enter = ["nsenter", "--all", "--target", leader.name, "--", *inside]
    return ["sh", "-c", JOIN, "sh", *groups, "--", *enter]


class Connection(ConnectionBase):
    """One container, entered anew for each command."""

    transport = "test_server"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def _command(self, command: str) -> list[str]:
        name = str(self.get_option("remote_addr"))
        there = [str(self._play_context.executable), "-c", command]
        if os.geteuid() == 0 and "DOCKER_HOST" not in os.environ and os.path.exists(ENGINE):
            found = inspect(name)
            if not found.get("State", {}).get("Pid"):
                raise AnsibleConnectionFailure(f"No container {name} runs")
            if enter := entrance(found):
                return [*enter, *there]
        return ["docker", "exec", "--interactive", name, *there]

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        """Run a command."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        # A session of its own: who kills the controller's processes has not killed the server's.
        done = subprocess.run(
            self._command(cmd),
            input=in_data or b"",
            capture_output=True,
            check=False,
            start_new_session=True,
            umask=0o022,
        )
        return done.returncode, done.stdout, done.stderr

    def put_file(self, in_path: str, out_path: str) -> None:
        """Write a file there."""
        super().put_file(in_path, out_path)
        code, _, error = self.exec_command(
            f"cat >{shlex.quote(out_path)}", Path(in_path).read_bytes()
        )
        if code != 0:
            raise AnsibleError(f"{out_path} was not written: {error.decode(errors='replace')}")

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Read a file there."""
        super().fetch_file(in_path, out_path)
        code, content, error = self.exec_command(f"cat {shlex.quote(in_path)}")
        if code != 0:
            raise AnsibleError(f"{in_path} was not read: {error.decode(errors='replace')}")
        Path(out_path).write_bytes(content)

    def close(self) -> None:
        """Nothing is open between commands."""
        self._connected = False
