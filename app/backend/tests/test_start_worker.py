"""A worker without Docker, by the script that people start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
from appstack import Stack
from testkit import APP, Process, wait_until

SCRIPT = APP / "scripts/start_worker.sh"
BULK = "/api/admin/bulk/regenerate-embeddings"


def test_it_runs_a_worker_that_works_and_stops_on_sigterm(
    stack: Stack, admin: httpx.Client, make_items: Callable, finish: Callable, tmp_path: Path
) -> None:
    env_file = tmp_path / "worker.env"
    env_file.write_text("".join(f"{name}='{value}'\n" for name, value in stack.environment.items()))
    beat = tmp_path / "beat"
    worker = Process(
        [str(SCRIPT), "--without-gossip"],
        {
            "ENV_FILE": str(env_file),
            "WORKER_NAME": "by-hand",
            "WORKER_CONCURRENCY": "1",
            "CELERY_HEARTBEAT_FILE": str(beat),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
        tmp_path / "log",
    )
    worker.start()
    try:
        wait_until(beat.exists, "the worker beats", log=worker.log)
        (shown,) = admin.get("/api/admin/workers").json()["workers"]
        assert shown["name"].startswith("by-hand@")
        assert shown["queues"] == ["default", "embeddings", "research"]
        assert shown["pool"] == {"kind": "prefork", "size": 1}
        queued = admin.post(BULK, json={"context_ids": make_items("Ganghwa")}).json()
        assert finish(queued["task_ids"][0])["status"] == "success"
        worker.signal(signal.SIGTERM)
        assert worker.wait(20) == 0, worker.log.read_text()
    finally:
        worker.kill()


def test_it_says_what_is_missing(tmp_path: Path) -> None:
    ended = subprocess.run(
        [SCRIPT], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, cwd=tmp_path
    )
    assert ended.returncode == 1
    assert "activate a venv" in ended.stderr


def test_the_two_scripts_start_the_same_worker() -> None:
    """The .bat runs where these tests do not; what it is told is compared."""
    unix, windows = SCRIPT.read_text(), SCRIPT.with_suffix(".bat").read_text()
    for option in ("-A backend.celery_app worker", "--hostname=", "--queues=", "--concurrency="):
        assert option in unix
        assert option in windows
    queues = "default,embeddings,research"
    assert f"WORKER_QUEUES:-{queues}" in unix
    assert f"WORKER_QUEUES={queues}" in windows
