"""Celery's own task as canary, settings behind the dashes, and tasks that were not finished."""

from __future__ import annotations

import os
import signal
import sys

import celery_canary
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery.unfinished import outcome
from ansible_collections.crisper.stack.plugins.module_utils.model.names import CANARY
from ansible_collections.crisper.stack.plugins.module_utils.probes import unfinished, workers
from ansible_collections.crisper.stack.plugins.module_utils.remote.run import run
from lab import HERE, until

REQUEST = {"app": "drain_tasks", "import_timeout": 60, "timeout": 2.0}


@pytest.fixture
def outcomes(broker):
    """What became of tasks, by id."""

    def look(*ids, nodes=()):
        request = {**REQUEST, "tasks": list(ids), "queues": ["one"], "nodes": list(nodes)}
        reply = run([sys.executable, "-"], unfinished, request, 60, str(HERE))
        assert not reply["problem"], reply
        return [outcome(reply["traces"][each]) for each in ids]

    return look


def test_every_worker_has_a_canary_that_nobody_wrote(worker, broker, run_module, docker):
    worker("new@a", "-c1", "-Qone").ready()
    given = {"app": "drain_tasks", "container": "any", "python": sys.executable}
    given |= {"docker_cli": docker, "task": CANARY, "queues": ["one"], "timeout": 6}
    result = run_module(celery_canary, **given)
    assert result["queues"]["one"]["state"] == "SUCCESS"
    assert not broker.keys("celery-task-meta-*")


def test_settings_behind_the_dashes_are_those_of_every_task(worker, monkeypatch, broker):
    monkeypatch.setenv("TEST_PREFETCH", "1")  # the application acknowledges early
    words = [
        "--",
        "task_acks_late=true",
        'broker_transport_options=(json){"visibility_timeout": 7}',
    ]
    worker("new@a", "-c1", "-Qone", *words).ready()
    request = {**REQUEST, "methods": ["registered", "conf"], "settle": 0.3, "everybody": False}
    request["destination"] = ["new@a"]
    reply = run([sys.executable, "-"], workers, request, 60, str(HERE))
    (conf,), (tasks,) = reply["replies"]["conf"], reply["replies"]["registered"]
    assert (conf["new@a"]["task_acks_late"], conf["new@a"]["visibility_timeout"]) == (True, 7)
    nap = next(task for task in tasks["new@a"] if task.startswith("nap"))
    assert "acks_late=True" in nap
    assert "ignore_result=False" in nap


def test_what_became_of_unfinished_tasks_is_seen(worker, send, marks, outcomes, tmp_path):
    released = tmp_path / "released"
    old = worker("old@a", "-c1", "-Qone").ready()
    done, back = send("nap", "done"), send("hold", "back", str(released))
    until(lambda: "start back old@a" in marks())
    gone = "00000000-0000-4000-8000-000000000000"
    assert outcomes(done, back, gone, nodes=["old@a"])[:2] == ["finished", "runs again on old@a"]
    # As at the deadline: a cold shutdown puts back what runs.
    old.process.send_signal(signal.SIGQUIT)
    old.process.wait(20)
    told = outcomes(done, back, gone, nodes=["new@a"])
    assert told[0] == "finished"
    assert told[1] == "is back in its queue (one)"
    assert told[2].startswith("left no trace")
    worker("new@a", "-c1", "-Qone").ready()
    until(lambda: "start back new@a" in marks())
    assert outcomes(back, nodes=["new@a"]) == ["runs again on new@a"]
    released.touch()
    until(lambda: "end back new@a" in marks())
    assert outcomes(back) == ["finished"]


def test_a_task_that_was_acknowledged_early_leaves_no_trace(
    worker, send, marks, outcomes, monkeypatch, tmp_path
):
    """The summary said that such a task goes back to its queue."""
    monkeypatch.setenv("TEST_PREFETCH", "1")
    old = worker("old@a", "-c1", "-Qone").ready()
    lost = send("hold", "lost", str(tmp_path / "never"))
    until(lambda: "start lost old@a" in marks())
    os.killpg(old.process.pid, signal.SIGKILL)
    old.process.wait(20)
    assert outcomes(lost)[0].startswith("left no trace: it is lost")
