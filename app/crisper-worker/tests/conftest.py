from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from celery import Celery
from testkit import Process, Redis, celery, wait_until

HERE = Path(__file__).parent
# The health check of templates/docker-compose.prod.yml.j2: shell built-ins, no other process.
CHECK = (
    "read hb state < {file} && read up _ < /proc/uptime"
    ' && [ $(( ${{up%.*}} - hb )) -le {age} -o "$state" = draining ]'
)


@dataclass
class Worker(Process):
    heartbeat: Path = Path()

    def state(self) -> str:
        try:
            return self.heartbeat.read_text().split()[1]
        except FileNotFoundError:
            return ""

    def healthy(self, age: int = 3) -> bool:
        script = CHECK.format(file=self.heartbeat, age=age)
        return subprocess.run(["sh", "-c", script], capture_output=True).returncode == 0

    def ready(self) -> Worker:
        wait_until(lambda: self.state() == "ok", "the worker beats", log=self.log)
        return self


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def client(redis_server: Redis) -> Iterator[Celery]:
    redis_server.client().flushall()
    app = Celery(broker=redis_server.url(0), backend=redis_server.url(1))
    yield app
    app.close()


@pytest.fixture
def start_worker(redis_server: Redis, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    started: list[Worker] = []

    def start(
        drain: float = 60,
        broker: str = "",
        under: tuple[str, ...] = (),
        concurrency: int = 1,
        **environment: str,
    ) -> Worker:
        name = f"w{len(started)}"
        options = ("-n", f"{name}@test", "-c", str(concurrency), "-l", "INFO")
        worker = Worker(
            [*under, *celery("-A", "sample", "worker", *options)],
            {
                "BROKER": broker or redis_server.url(0),
                "RESULTS": redis_server.url(1),
                "CELERY_HEARTBEAT_FILE": str(tmp_path / f"{name}.heartbeat"),
                "CELERY_DRAIN_TIMEOUT": str(drain),
                **environment,
            },
            tmp_path / f"{name}.log",
            heartbeat=tmp_path / f"{name}.heartbeat",
        )
        worker.environment["PYTHONPATH"] = os.pathsep.join([str(HERE), str(HERE.parent / "src")])
        worker.start()
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()
