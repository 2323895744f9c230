from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import kombu.pools
import pytest
from celery import Celery
from crisper_worker.lease_keeper import LeaseKeeper
from crisper_worker.lease_store import LeaseStore
from crisper_worker.messages import Delivery
from lease_kit import store
from testkit import Process, Redis, wait_until

HERE = Path(__file__).parent
SOURCES = HERE.parent / "src"
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
def at_limit() -> Callable[[Redis], contextlib.AbstractContextManager[None]]:
    """A Redis that refuses whatever needs memory."""

    @contextlib.contextmanager
    def limited(server: Redis) -> Iterator[None]:
        server.client().config_set("maxmemory", "1")
        try:
            yield
        finally:
            server.client().config_set("maxmemory", "0")

    return limited


@pytest.fixture
def full_disk() -> Callable[[Redis], contextlib.AbstractContextManager[None]]:
    """A Redis that takes no writes because it cannot save, as with a full disk."""

    @contextlib.contextmanager
    def full(server: Redis) -> Iterator[None]:
        redis = server.client()

        def saves(status: str) -> None:
            redis.bgsave()
            wait_until(lambda: redis.info()["rdb_last_bgsave_status"] == status, f"{status} saves")

        (server.folder / "dump.rdb").unlink(missing_ok=True)
        (server.folder / "dump.rdb").mkdir()  # what is saved cannot take its place
        redis.config_set("save", "3600 1000000")
        saves("err")
        try:
            yield
        finally:
            (server.folder / "dump.rdb").rmdir()
            saves("ok")
            redis.config_set("save", "")

    return full


@pytest.fixture
def empty(redis_server: Redis) -> Redis:
    redis_server.client().flushall()
    return redis_server


@pytest.fixture
def sweeper(empty: Redis) -> LeaseKeeper:
    def take_over(mine: LeaseStore, delivery: Delivery, before: float) -> None:
        mine.was_started(delivery.tag)
        mine.deaths(delivery.task_id)
        mine.reclaim(delivery, before)

    keeper = LeaseKeeper(2, take_over)
    keeper.store = store(empty, "other")
    keeper.tick()
    keeper.calm.since = 0.0
    return keeper


@pytest.fixture
def client(redis_server: Redis) -> Iterator[Celery]:
    redis_server.client().flushall()
    app = Celery(broker=redis_server.url(0), backend=redis_server.url(1))
    yield app
    app.close()
    # kombu's pools are the process's: a connection that this test has cut is not the next one's.
    kombu.pools.reset()


def guarded(folder: Path, name: str, words: list[str], environment: dict[str, str]) -> Worker:
    """Return Celery's command with the guard, of the application sample.py; not started yet."""
    heartbeat = folder / f"{name}.heartbeat"
    # What a test puts in front of the installed packages.
    paths = [environment.get("NEWER", ""), str(HERE)]
    environment = {
        "CELERY_HEARTBEAT_FILE": str(heartbeat),
        **environment,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    return Worker(words, environment, folder / f"{name}.log", heartbeat=heartbeat)


COMMAND = (sys.executable, str(SOURCES), "-A", "sample")


@pytest.fixture
def start_worker(redis_server: Redis, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    started: list[Worker] = []

    def start(
        drain: float = 60,
        broker: str = "",
        under: tuple[str, ...] = (),
        concurrency: int = 1,
        more: tuple[str, ...] = (),
        **environment: str,
    ) -> Worker:
        name = f"w{len(started)}"
        options = ("-n", f"{name}@test", "-c", str(concurrency), "-l", "INFO")
        given = {
            "BROKER": broker or redis_server.url(0),
            "RESULTS": redis_server.url(1),
            "CELERY_DRAIN_TIMEOUT": str(drain),
            **environment,
        }
        worker = guarded(tmp_path, name, [*under, *COMMAND, "worker", *options, *more], given)
        worker.start()
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()


@pytest.fixture
def start_beat(empty: Redis, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    started: list[Worker] = []

    def start(broker: str = "", schedule: Path = tmp_path / "schedule", **more: str) -> Worker:
        words = [*COMMAND, "beat", f"--schedule={schedule}", "--pidfile="]
        given = {"BROKER": broker or empty.url(0), "RESULTS": empty.url(1), **more}
        beat = guarded(tmp_path, f"b{len(started)}", words, given)
        beat.start()
        started.append(beat)
        return beat

    yield start
    for beat in started:
        beat.kill()
