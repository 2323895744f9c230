"""The rendered entry point on a real engine, before a backend of its own: tests and benchmark.

`Entry` renders a release of the example site and starts its service nginx by Compose as it is
(image, user, limits, volumes, ulimits), on a network where `backend` is tests/entry_backend.py.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "collections")]
from ansible_collections.crisper.stack.plugins.module_utils.model.defaults import (  # noqa: E402
    IMAGE_REFS,
    LIMITS,
)
from ansible_collections.crisper.stack.plugins.module_utils.proxy.upstream import Upstreams  # noqa: E402
from entry_backend import BLOCK, pattern  # noqa: E402
from hostile_values import example, unsafe, written  # noqa: E402

RELEASE, PORT = "lab", 8000

# A process of its own: rendering loads Ansible's controller, and modules in the same process then
# give their warnings to it instead of returning them.
RENDER = """
import json, sys
from rendering import outcome
print(json.dumps(outcome(sys.stdin.read())))
"""


def docker(*arguments: str, check: bool = True) -> str:
    """Output (both streams) of the Docker client; RuntimeError where it fails."""
    done = subprocess.run(
        ["docker", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"docker {' '.join(arguments)[:200]}: {done.stdout[-2000:]}")
    return done.stdout.strip()


def rendered(**values: Any) -> dict[str, str]:
    """Path to content of a release of the example site with some other values."""
    inventory = unsafe(example()) | values
    inventory["stack_app"].pop("frontend", None)
    inventory["stack_app"]["backend_paths"] = ["/"]
    done = subprocess.run(
        [sys.executable, "-c", RENDER],
        input=written(inventory),
        env={**os.environ, "PYTHONPATH": f"{ROOT}/tests/unit:{ROOT}/tests"},
        capture_output=True,
        text=True,
        check=True,
    )
    findings, files = json.loads(done.stdout.splitlines()[-1])
    if findings:
        raise RuntimeError("\n".join(findings))
    return files


class Memory:
    """Memory of a container, by its cgroup (v1 or v2), sampled until it is left.

    The working set is usage minus inactive_file, as the kubelet and `docker stats` have it: what
    is left counts file pages that were used more than once, which the kernel can also drop.
    `unreclaimable` leaves those out too.
    """

    def __init__(self, container: str, interval: float = 0.05) -> None:
        pid = docker("inspect", "--format", "{{.State.Pid}}", container)
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        groups = {names: path for _, names, path in (line.split(":", 2) for line in lines)}
        self.old = "memory" in groups
        where = f"memory{groups['memory']}" if self.old else groups[""].lstrip("/")
        self.folder = Path("/sys/fs/cgroup") / where
        self.limit = int(self._text("memory.limit_in_bytes" if self.old else "memory.max"))
        self.interval = interval
        self.peaks: dict[str, int] = {}
        self.kills = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def _table(self, name: str) -> dict[str, int]:
        lines = (line.split() for line in self._text(name).splitlines())
        return {line[0]: int(line[1]) for line in lines if len(line) == 2}

    def now(self) -> dict[str, int]:
        """Usage, working set and what cannot be reclaimed, in bytes."""
        usage = int(self._text("memory.usage_in_bytes" if self.old else "memory.current"))
        stat = self._table("memory.stat")
        total = "total_" if self.old else ""
        inactive, active = (stat[f"{total}{kind}_file"] for kind in ("inactive", "active"))
        return {
            "usage": usage,
            "working_set": max(usage - inactive, 0),
            "unreclaimable": max(usage - inactive - active, 0),
        }

    def _sample(self) -> None:
        while not self._end.wait(self.interval):
            try:
                now = self.now()
                events = self._table("memory.oom_control" if self.old else "memory.events")
            except OSError:
                return  # the container ended, and its cgroup with it: `Entry.ends` counts that
            self.kills = max(self.kills, events.get("oom_kill", 0))
            self.peaks = {name: max(size, self.peaks.get(name, 0)) for name, size in now.items()}

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def share(self, name: str = "working_set") -> float:
        """Return a peak as a share of the limit."""
        return self.peaks[name] / self.limit


@dataclass
class Transfer:
    """What came of one request: its status (0: none), bytes, and whether they were right."""

    status: int = 0
    size: int = 0
    right: bool = False
    error: str = ""


class Entry:
    """Service nginx of a release, and a backend; all gone when it is left."""

    def __init__(
        self, folder: Path, name: str, workers: int = 0, memory: str = "", **values: Any
    ) -> None:
        """Render into a folder.

        Args:
            folder: for the files; must be empty.
            name: of the Compose project.
            workers: processes of nginx: as rendered for so many CPUs, in a container of the
                default limit (an engine refuses more CPUs than the host has).
            memory: limit of nginx, instead of the rendered one.
            values: variables of the inventory.
        """
        self.folder, self.name = folder, name
        own = LIMITS["nginx"] | ({"memory": memory} if memory else {})
        values["stack_limits"] = {"nginx": own | ({"cpus": workers} if workers else {})}
        files = rendered(**values)
        for path, content in files.items():
            if path.startswith("nginx/"):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(content)
        shutil.copy(ROOT / "tests/entry_backend.py", folder / "entry_backend.py")
        folder.chmod(0o755)
        compose = yaml.safe_load(files["docker-compose.prod.yml"])
        nginx = compose["services"]["nginx"]
        nginx["ports"] = []  # the address of the container is used
        nginx["networks"] = ["edge"]  # clients and backend in one
        nginx["volumes"] = [
            f"{folder}/nginx:/etc/crisper:ro" if ":/etc/crisper:" in volume else volume
            for volume in nginx["volumes"]
        ]
        nginx["deploy"]["resources"]["limits"]["cpus"] = str(own["cpus"])
        upstreams = Upstreams(str(folder / "nginx"), {"backend": {"port": PORT}})
        upstreams.prepare(RELEASE)
        upstreams.switch(RELEASE)
        backend = {
            "image": IMAGE_REFS["python"],
            "command": ["python", "/entry_backend.py", str(PORT)],
            "volumes": [f"{folder}/entry_backend.py:/entry_backend.py:ro"],
            "networks": {"edge": {"aliases": [f"backend-{RELEASE}"]}},
            "pull_policy": "never",  # `make demo` or molecule's scenario images provides both
            "init": True,
            "ulimits": {"nofile": 16384},
        }
        used = {volume.split(":")[0] for volume in nginx["volumes"]}
        volumes = {key: None for key in compose["volumes"] if key in used}
        whole = {"services": {"nginx": nginx, "backend": backend}, "networks": {"edge": {}}}
        (folder / "compose.yml").write_text(yaml.safe_dump(whole | {"volumes": volumes}))
        self.port = PORT
        self.address = self.backend_address = self.container = ""

    def compose(self, *arguments: str, check: bool = True) -> str:
        """Output of Compose for this project."""
        where = ("--project-name", self.name, "--project-directory", str(self.folder))
        file = str(self.folder / "compose.yml")
        return docker("compose", *where, "--file", file, *arguments, check=check)

    def __enter__(self) -> Entry:
        try:
            self.compose("up", "--detach", "--wait")
            self.container = self.compose("ps", "--quiet", "nginx")
            backend = self.compose("ps", "--quiet", "backend")
            where = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
            self.address = docker("inspect", "--format", where, self.container)
            self.backend_address = docker("inspect", "--format", where, backend)
        except BaseException:
            print(self.compose("logs", "--tail", "20", check=False), file=sys.stderr)
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.compose("down", "--timeout", "0", "--volumes", "--remove-orphans", check=False)

    def ends(self) -> int:
        """Return how often the container, or a process in it, was killed or started again."""
        shown = docker(
            "inspect", "--format", "{{.State.OOMKilled}} {{.RestartCount}}", self.container
        )
        killed, restarts = shown.split()
        log = docker("logs", self.container)
        return (killed == "true") + int(restarts) + log.count("exited on signal 9")

    def reload(self) -> None:
        """Read the configuration again, as a deploy does."""
        docker("exec", self.container, "sh", "/etc/crisper/upstreams.sh", "reload")

    def connect(self, timeout: float = 300) -> socket.socket:
        """Return a connection to nginx."""
        return socket.create_connection((self.address, 8080), timeout)

    def download(self, size: int, rate: float = 0, result: Transfer | None = None) -> Transfer:
        """Get bytes and compare them, at most `rate` bytes a second (0: as fast as possible).

        `result`, if given, is filled meanwhile.
        """
        result = result or Transfer()
        try:
            with self.connect() as connection:
                connection.sendall(f"GET /bytes/{size} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
                self._read(connection, result, rate)
        except OSError as error:
            result.error = str(error)
        result.right = result.right and result.size == size
        return result

    @staticmethod
    def _read(connection: socket.socket, result: Transfer, rate: float) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            more = connection.recv(4096)
            if not more:
                return
            data += more
        head, _, data = data.partition(b"\r\n\r\n")
        result.status = int(head.split()[1])
        result.right = data == pattern(0, len(data))
        result.size = len(data)
        buffer = memoryview(bytearray(BLOCK))
        begun = time.monotonic()
        while count := connection.recv_into(buffer):
            result.right = result.right and buffer[:count] == pattern(result.size, count)
            result.size += count
            if rate and (ahead := result.size / rate - (time.monotonic() - begun)) > 0:
                time.sleep(ahead)

    def upload(self, size: int, result: Transfer | None = None) -> Transfer:
        """Send bytes as a body; the backend compares them. `result` is as of `download`."""
        result = result or Transfer()
        try:
            with self.connect() as connection:
                head = f"POST /up HTTP/1.0\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
                connection.sendall(head.encode())
                while result.size < size:
                    block = pattern(result.size, min(BLOCK, size - result.size))
                    connection.sendall(block)
                    result.size += len(block)
                answer = connection.makefile("rb").read()
        except OSError as error:
            result.error = str(error)
            return result
        result.status = int(answer.split()[1]) if answer else 0
        result.right = result.status == 200 and answer.endswith(b"\r\n\r\n%d" % size)
        return result
