"""Real Redis and Celery workers on the loopback, for fixtures, benchmarks and engine-less tests."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "collections")]
import stack_redis  # noqa: E402
from ansible_collections.crisper.stack.plugins.module_utils.probes import workers  # noqa: E402
from ansible_collections.crisper.stack.plugins.module_utils.remote.run import parse, program  # noqa: E402

PASSWORD = "lab-" + secrets.token_hex(8)
APP = """
import os, time
from celery import Celery
print("noise on stdout while the application is imported")
url = os.environ["CELERY_BROKER_URL"]
app = Celery("lab", broker=url, backend=url)
app.conf.update(task_time_limit=3600, task_soft_time_limit=3300, worker_prefetch_multiplier=1,
                timezone="Asia/Seoul", beat_enable_remote_control=True)
@app.task(name="health_check", bind=True)
def health_check(self):
    return {"status": "ok", "worker": self.request.hostname}
@app.task(name="sleepy")
def sleepy(seconds):
    time.sleep(seconds)
@app.task(name="failing")
def failing():
    raise ValueError("no luck with " + url)
@app.task(name="hourly", rate_limit="1/h")
def hourly():
    return None
"""


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Lab:
    """A broker and whatever workers a test starts; all gone when it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = stack_redis.url(PASSWORD, "127.0.0.1", self.port)
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Lab:
        (self.folder / "lab.py").write_text(APP)
        (self.folder / "broken.py").write_text(f'raise ValueError("see {self.url}")\n')
        server = shutil.which("redis-server")
        if server is None:
            raise RuntimeError("redis-server is not there: apt-get install redis-server")
        (self.folder / "redis.conf").write_text(
            stack_redis.configuration(PASSWORD, self.port, self.folder)
        )
        self.start([server, str(self.folder / "redis.conf")])
        self.until(lambda: self.listens(), "redis-server listens")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(*reversed(self.processes))

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """A process of the lab, its output in the lab's folder."""
        with (self.folder / f"{len(self.processes)}.log").open("wb") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment(), stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def stop(self, *processes: subprocess.Popen[bytes]) -> None:
        """End processes; those that do not end are killed."""
        for process in processes:
            process.terminate()
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self.processes.remove(process)

    def environment(self, broker: str = "") -> dict[str, str]:
        """The environment of the application."""
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "HOME") if key in os.environ}
        return {**kept, "CELERY_BROKER_URL": broker or self.url}

    def worker(self, node: str, *queues: str, pool: str = "prefork") -> subprocess.Popen[bytes]:
        """Start a worker."""
        command = [sys.executable, "-m", "celery", "-A", "lab", "worker", "-n", node]
        command += ["-Q", ",".join(queues), "-P", pool, "-c", "2", "--loglevel", "WARNING"]
        return self.start([*command, "--time-limit", "3600", "--soft-time-limit", "3300"])

    def beat(self) -> subprocess.Popen[bytes]:
        """Start a beat."""
        return self.start([sys.executable, "-m", "celery", "-A", "lab", "beat"])

    def listens(self) -> bool:
        """Whether Redis accepts connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def until(self, condition: Any, what: str, seconds: float = 30) -> None:
        """Wait for a condition."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                logs = [path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log"))]
                raise TimeoutError(f"not within {seconds} s: {what}\n" + "\n".join(logs))
            time.sleep(0.1)

    def nodes(self) -> list[str]:
        """Node names that answer now, each as often as it does."""
        reply = self.inspect(methods=["ping"], timeout=1, settle=0.3, everybody=True)
        return sorted(node for item in reply["replies"]["ping"] for node in item)

    def wait_for(self, *names: str) -> None:
        """Wait until exactly these nodes answer."""
        self.until(lambda: self.nodes() == sorted(names), f"{names} answer")

    def wait_for_beat(self) -> None:
        """Wait until a beat answers."""
        self.until(lambda: any(n.startswith("celerybeat@") for n in self.nodes()), "beat answers")

    def send(self, task: str, *args: Any, queue: str, **options: Any) -> None:
        """Queue a task, from a process of its own."""
        code = f"import lab; lab.app.send_task({task!r}, {args!r}, queue={queue!r}, **{options!r})"
        command = [sys.executable, "-c", code]
        subprocess.run(
            command, cwd=self.folder, env=self.environment(), check=True, capture_output=True
        )

    def probe(self, request: dict[str, Any], broker: str = "") -> dict[str, Any]:
        """The probe's reply, as the modules get it from a container."""
        source = program(workers, request)
        done = subprocess.run(
            [sys.executable, "-"],
            input=source,
            cwd=self.folder,
            env=self.environment(broker),
            capture_output=True,
            text=True,
            check=False,
        )
        reply = parse(done.stdout)
        if reply is None:
            raise RuntimeError(f"no reply of the probe: {done.stdout}{done.stderr}")
        return reply

    def inspect(self, broker: str = "", **request: Any) -> dict[str, Any]:
        """Ask the workers."""
        base = {"app": "lab", "import_timeout": 60}
        return self.probe({**base, **request}, broker)
