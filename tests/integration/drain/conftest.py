"""Fixtures on a real Redis; modules import as they do under Ansible."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from ansible.module_utils.testing import patch_module_args

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(HERE))

import celery_drain  # noqa: E402
import stack_redis  # noqa: E402
from lab import Worker, until  # noqa: E402

PASSWORD = "drain-lab"


@pytest.fixture
def broker(tmp_path, monkeypatch) -> Iterator[redis.Redis]:
    """A Redis of the test's own, on a free port; what is tested is the application's user there."""
    if not shutil.which("redis-server"):
        pytest.skip("needs redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = tmp_path / "redis.conf"
    configuration.write_text(stack_redis.configuration(PASSWORD, port, tmp_path))
    server = subprocess.Popen(["redis-server", str(configuration)], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("TEST_BROKER", stack_redis.url(PASSWORD, "127.0.0.1", port))
    monkeypatch.setenv("TEST_MARKS", str(tmp_path / "marks"))
    monkeypatch.setenv("TEST_WORKER", "test")
    client = redis.Redis(port=port, password=PASSWORD)

    def up() -> bool:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False

    until(up)
    yield client
    server.send_signal(signal.SIGCONT)
    server.kill()
    server.wait()


@pytest.fixture
def docker(tmp_path) -> str:
    """A stand-in for the Docker client: `exec` and `compose run` start local processes.

    Everything up to the Python interpreter is dropped, and written down.
    """
    shim = tmp_path / "docker"
    lines = ["#!/bin/sh", f'echo "$@" >> {tmp_path}/docker.log', f"cd {HERE}"]
    lines += [f'while [ "$1" != "{sys.executable}" ]; do shift || exit 125; done', 'exec "$@"']
    shim.write_text("\n".join(lines) + "\n")
    shim.chmod(0o755)
    return str(shim)


@pytest.fixture
def worker(broker, tmp_path) -> Iterator[Callable[..., Worker]]:
    """Start workers; all are killed at the end."""
    started: list[Worker] = []

    def start(name: str, *arguments: str) -> Worker:
        started.append(Worker(name, tmp_path / f"{name}.log", *arguments))
        return started[-1]

    yield start
    for one in started:
        try:
            os.killpg(one.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        one.process.wait()


@pytest.fixture
def send(broker) -> Iterator[Callable[..., str]]:
    """Send a task by name; returns its id."""
    from celery import Celery

    app = Celery("producer", broker=os.environ["TEST_BROKER"], set_as_current=False)

    def send(name: str, *args: Any, queue: str = "one", **options: Any) -> str:
        return app.send_task(name, args=args, queue=queue, **options).id

    yield send
    app.close()


@pytest.fixture
def marks(broker) -> Callable[[], list[str]]:
    """What the tasks wrote."""
    path = Path(os.environ["TEST_MARKS"])
    return lambda: path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def run_module(capsys) -> Callable[..., dict[str, Any]]:
    """Run a module's main() with arguments; its result as Ansible would read it."""

    def run(module: Any, check_mode: bool = False, **arguments: Any) -> dict[str, Any]:
        with (
            patch_module_args({**arguments, "_ansible_check_mode": check_mode}),
            pytest.raises(SystemExit),
        ):
            module.main()
        return json.loads(capsys.readouterr().out.strip().splitlines()[-1])

    return run


@pytest.fixture
def drain(run_module, docker):
    def call(*nodes, **options):
        given = {"app": "drain_tasks", "container": "any", "python": sys.executable}
        given |= {"docker_cli": docker, "timeout": 15, "reply_timeout": 1.0, "silent_after": 2.0}
        if nodes:
            given["nodes"] = list(nodes)
        return run_module(celery_drain, **(given | options))

    return call
