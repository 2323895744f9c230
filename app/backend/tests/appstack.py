"""The application's processes, started and stopped by tests."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import httpx
from celery import Celery
from testkit import APP, Process, Redis, free_port, is_open, wait_until

PASSWORD = "correct horse battery staple"
QDRANT_KEY = "a-key-for-tests"

GUARD = APP / "crisper-worker/src"  # as in a release, where it is mounted


@dataclass
class Web(Process):
    port: int = 0

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=15)


@dataclass
class Stack:
    """How to start web and worker processes that know each other's servers."""

    environment: dict[str, str]
    folder: Path
    redis: Redis

    def web(self, **changed: str) -> Web:
        port = free_port()
        command = ["-m", "uvicorn", "backend.main:app", "--port", str(port)]
        web = Web(
            [sys.executable, *command],
            self.environment | changed,
            self.folder / f"web-{port}.log",
            port=port,
        )
        web.start()
        wait_until(lambda: is_open(port), "the web process listens", log=web.log)
        return web

    def worker(self, queues: str = "default,embeddings,research", **changed: str) -> Process:
        """Started, and answering."""
        number = free_port()
        beat = self.folder / f"beat-{number}"
        options = ("-n", f"w{number}@test", "-Q", queues, "-c", "1", "-l", "INFO")
        worker = Process(
            [sys.executable, str(GUARD), "-A", "backend.celery_app", "worker", *options],
            self.environment | {"CELERY_HEARTBEAT_FILE": str(beat)} | changed,
            self.folder / f"worker-{number}.log",
        )
        worker.start()
        wait_until(beat.exists, "the worker beats", log=worker.log)
        return worker

    def migration(self) -> Process:
        """The migration command of the deploy, not yet started."""
        command = [sys.executable, "-m", "alembic", "upgrade", "head"]
        return Process(command, self.environment, self.folder / f"migration-{free_port()}.log")

    def send(self, item_id: int, queue: str = "embeddings") -> str:
        """Queue an embedding past the API."""
        with Celery(broker=self.redis.url(0), backend=self.redis.url(2)) as client:
            return client.send_task("regenerate_embedding_task", (item_id,), queue=queue).id


def children(process: Process) -> list[int]:
    """Ids of a process's children: a worker's pool."""
    pid = process.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
