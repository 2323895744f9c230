"""The guard around an application that knows nothing of it; real workers, a real Redis."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery import __version__ as celery_version
from crisper_worker import versions
from testkit import Redis, free_port, lines, wait_until

HERE = Path(__file__).parent
SOURCES = HERE.parent / "src"
# Celery's pools, with the module that each needs.
POOLS = {"prefork": "", "threads": "", "solo": "", "gevent": "gevent", "eventlet": "eventlet"}


def told(client: Celery, name: str = "w0@test") -> dict[str, Any]:
    """What a worker tells of its guard."""
    return client.control.inspect([name], timeout=5).conf()[name]["crisper_guard"]


def need(pool: str) -> None:
    if POOLS[pool]:
        pytest.importorskip(POOLS[pool])


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=lambda path: path.name)
def test_images_with_python_3_8_can_read_it(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("path", sorted(SOURCES.rglob("*.py")), ids=lambda path: path.name)
def test_nothing_of_python_3_9_is_called(path: Path) -> None:
    """What the grammar of 3.8 has, and its library or its types have not."""
    tree = ast.parse(path.read_text())
    annotations = {
        id(node)
        for parent in ast.walk(tree)
        for field in ("annotation", "returns")
        if getattr(parent, field, None) is not None
        for node in ast.walk(getattr(parent, field))
    }
    for node in ast.walk(tree):
        if id(node) in annotations:
            continue  # never evaluated
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            assert node.value.id not in {"dict", "list", "set", "tuple", "type"}, node.lineno
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"cache", "removeprefix", "removesuffix", "UTC"}, node.lineno
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"isinstance", "zip"}:
            assert not any(isinstance(one, ast.BinOp) for one in node.args), node.lineno
            assert not any(word.arg == "strict" for word in node.keywords), node.lineno
        if isinstance(node, ast.ImportFrom):
            assert "UTC" not in [one.name for one in node.names], node.lineno


def test_it_tells_its_versions_and_lacks_nothing(client: Celery, start_worker: Callable) -> None:
    start_worker().ready()
    report = told(client)
    assert report["missing"] == {}
    assert report["celery"] == celery_version


def test_a_version_that_nobody_tested_costs_the_lease_and_nothing_else(
    client: Celery, start_worker: Callable, ledger: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import kombu\nkombu.__version__ = '5.99.1'\n")
    worker = start_worker(drain=2, NEWER=str(tmp_path)).ready()
    reason = told(client)["missing"]["lease"]
    assert reason == "it was never tested with kombu 5.99.1 (tested: 5.3 to 5.7)"
    client.send_task("note", (30, str(ledger)))
    wait_until(lambda: lines(ledger, "start"), "the task runs", log=worker.log)
    worker.signal(signal.SIGTERM)
    worker.wait(15)  # the drain deadline, as ever


def test_without_redis_py_an_application_with_another_broker_is_guarded(
    start_worker: Callable, tmp_path: Path
) -> None:
    (tmp_path / "redis.py").write_text("raise ImportError('No module named redis')\n")
    worker = start_worker(broker="memory://", NEWER=str(tmp_path), RESULTS="cache+memory://")
    worker.ready()


def test_an_error_of_the_environment_is_told_before_anything_starts() -> None:
    done = subprocess.run(
        [sys.executable, str(SOURCES), "-A", "sample", "worker"],
        env={**os.environ, "CELERY_DRAIN_TIMEOUT": "soon"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "CELERY_DRAIN_TIMEOUT is 'soon': set a number" in done.stderr


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_of_any_pool_is_taken_over_from_a_killed_worker(
    client: Celery, start_worker: Callable, ledger: Path, pool: str
) -> None:
    need(pool)
    quick = {"CELERY_LEASE_SECONDS": "3"}
    worker = start_worker(more=("-P", pool), **quick).ready()
    task = client.send_task("note", (4, str(ledger)))
    wait_until(lambda: lines(ledger, "start"), "the task runs", log=worker.log)
    worker.kill()
    successor = start_worker(more=("-P", pool), **quick).ready()
    wait_until(lambda: lines(ledger, "end"), "it ends elsewhere", 40, successor.log)
    assert lines(ledger, "start") == [task.id] * 2


@pytest.mark.parametrize("pool", POOLS)
def test_a_task_of_any_pool_outlives_its_lease_and_runs_once(
    client: Celery, redis_server: Redis, start_worker: Callable, ledger: Path, pool: str
) -> None:
    need(pool)
    quick = {"CELERY_LEASE_SECONDS": "3", "CELERY_REPLACE_SECONDS": "6"}
    workers = [start_worker(more=("-P", pool), **quick).ready() for _ in range(2)]
    task = client.send_task("note", (9, str(ledger)))
    wait_until(lambda: lines(ledger, "end"), "it ends", 30, workers[0].log)
    assert lines(ledger, "start") == lines(ledger, "end") == [task.id]
    wait_until(lambda: redis_server.client().hlen("unacked") == 0, "it is acknowledged")
    for worker in workers:
        assert worker.healthy(age=3)  # also a solo pool, whose event loop stood still
        worker.signal(signal.SIGTERM)
    assert [worker.wait(20) for worker in workers] == [0, 0]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"celery": "5.3.0", "kombu": "5.3.0", "redis": "4.5.1"}, ""),
        ({"celery": "5.7.3", "kombu": "5.7.0", "redis": ""}, ""),
        ({"celery": "5.2.7", "kombu": "5.3.0", "redis": ""}, "celery 5.2.7 (tested: 5.3 to 5.7)"),
        (
            {"celery": "6.0.0rc1", "kombu": "5.8.0", "redis": "8.0"},
            "celery 6.0.0rc1 (tested: 5.3 to 5.7), kombu 5.8.0 (tested: 5.3 to 5.7)",
        ),
        ({"celery": "5.7.0", "kombu": "main", "redis": ""}, "kombu main (tested: 5.3 to 5.7)"),
    ],
)
def test_untested_versions_are_named(found: dict[str, str], said: str) -> None:
    assert versions.untested(found) == said


def test_the_dead_letters_are_told_by_the_same_folder() -> None:
    done = subprocess.run(
        [sys.executable, str(SOURCES), "aside", "--app", "sample", "list", "--json"],
        env={
            **os.environ,
            "PYTHONPATH": str(HERE),
            "BROKER": f"redis://127.0.0.1:{free_port()}/0",
            "RESULTS": "cache+memory://",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Redis does not answer" in done.stderr
