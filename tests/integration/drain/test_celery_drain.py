"""celery_drain on a real Redis and real workers (nothing is mocked but the Docker client)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ansible_collections.crisper.stack.plugins.module_utils.probes import inspect as celery_probe
from celery import Celery
from lab import ROOT, until


def test_an_idle_worker_leaves_at_once_and_others_go_on(worker, drain, send, marks):
    worker("old@a", "-c1", "-Qone,two")
    worker("new@a", "-c1", "-Qone,two").ready()
    until(lambda: Path(os.environ["TEST_MARKS"]).parent.joinpath("old@a.log").exists())
    time.sleep(2)
    result = drain("old@a")
    assert result["drained"] == ["old@a"], result
    assert sorted(result["queues"]["old@a"]) == ["one", "two"]
    assert result["changed"] is True
    assert result["seconds"] < 1, result
    print("an idle worker left after", result["seconds"], "s")
    assert (result["unfinished"], result["silent"], result["scheduled"]) == ([], [], 0)
    for number in range(6):
        send("nap", number)
    until(lambda: len(marks()) == 12)
    assert {line.split()[2] for line in marks()} == {"new@a"}
    again = drain("old@a")
    assert (again["changed"], again["drained"]) == (False, ["old@a"])


def test_what_is_reserved_goes_back_when_the_worker_stops(
    worker, drain, send, marks, broker, tmp_path
):
    """Regression: it was waited until the worker had run all that it had prefetched."""
    # With late acknowledgement and a multiplier of 1 a busy process reserves nothing.
    old = worker("old@a", "-c1", "-Qone", "--prefetch-multiplier=4", "-lDEBUG").ready()
    released = tmp_path / "released"
    send("hold", "first", str(released))
    send("nap", "second", 0.5)
    until(lambda: marks() == ["start first old@a"])
    until(lambda: broker.hlen("unacked") == 2)  # the second is prefetched
    result = drain("old@a")
    assert result["drained"] == ["old@a"], result
    assert marks() == ["start first old@a"], "the drain waited for neither of them"
    worker("new@a", "-c1", "-Qone").ready()
    old.process.send_signal(signal.SIGTERM)
    until(lambda: b"Worker: Stopping Pool" in old.log.read_bytes())
    assert marks() == ["start first old@a"], "the worker waits for what it runs"
    released.touch()
    assert old.process.wait(20) == 0
    until(lambda: len(marks()) == 4)
    assert sorted(marks()) == [
        "end first old@a",
        "end second new@a",
        "start first old@a",
        "start second new@a",
    ]


def test_nothing_is_lost_when_messages_arrive_while_the_queue_is_left(
    worker, drain, send, marks, broker
):
    old = worker("old@a", "-c2", "-Qone").ready()
    sent, stop = [], threading.Event()

    def produce():
        while not stop.is_set():
            sent.append(send("nap", len(sent), 0.01))
            time.sleep(0.002)

    thread = threading.Thread(target=produce)
    thread.start()
    time.sleep(1)
    result = drain("old@a")
    time.sleep(1.5)  # longer than a BRPOP that was under way
    stop.set()
    thread.join()
    assert result["drained"] == ["old@a"], result
    assert old.end() == 0
    assert broker.llen("one") > 0
    assert broker.hlen("unacked") == 0
    worker("new@a", "-c2", "-Qone").ready()
    until(lambda: len([m for m in marks() if m.startswith("end")]) >= len(sent), 60)
    started = [line.split()[1] for line in marks() if line.startswith("start")]
    assert sorted(started, key=int) == [str(number) for number in range(len(sent))]


def test_over_budget_the_task_is_named(worker, drain, send, marks):
    worker("old@a", "-c1", "-Qone").ready()
    task = send("nap", "long", 30.0)
    until(marks)
    result = drain("old@a", timeout=2)
    assert result["drained"] == []
    assert not result.get("failed")
    (running,) = result["unfinished"]
    assert running["id"] == task
    assert (running["name"], running["node"], running["state"]) == ("nap", "old@a", "running")
    assert 1.5 < running["seconds"] < 5
    assert result["seconds"] < 3.5


def test_a_stopped_worker_is_reported_and_does_not_hold_up_the_other(worker, drain):
    frozen = worker("frozen@a", "-c1", "-Qone").ready()
    worker("old@a", "-c1", "-Qone").ready()
    os.killpg(frozen.process.pid, signal.SIGSTOP)
    result = drain("frozen@a", "old@a")
    assert result["drained"] == ["old@a"], result
    assert result["silent"] == ["frozen@a"]
    assert "frozen@a" in str(result["warnings"])
    assert result["seconds"] < 5
    strict = drain("frozen@a", allow_silent=False)
    assert strict["failed"] is True
    assert strict["problem"] == "nodes_silent"
    assert "frozen@a" in strict["msg"]


def test_an_eta_task_is_not_waited_for_and_is_handed_back(worker, drain, send, marks, broker):
    old = worker("old@a", "-c1", "-Qone").ready()
    eta = datetime.now(UTC) + timedelta(seconds=12)
    send("nap", "later", eta=eta)
    until(lambda: broker.hlen("unacked") == 1)
    result = drain("old@a")
    assert result["drained"] == ["old@a"], result
    assert (result["scheduled"], result["unfinished"]) == (1, [])
    assert result["seconds"] < 1
    assert broker.hlen("unacked") == 1  # held until the process ends
    assert old.end() == 0
    assert (broker.hlen("unacked"), broker.llen("one")) == (0, 1)
    worker("new@a", "-c1", "-Qone").ready()
    until(lambda: len(marks()) == 2, 30)
    assert {line.split()[2] for line in marks()} == {"new@a"}


def test_a_worker_is_not_asked_for_thousands_of_tasks_with_an_eta(worker, drain, broker):
    worker("old@a", "-c1", "-Qone").ready()
    broker.hset("unacked", mapping={f"tag-{number}": "[]" for number in range(2000)})
    result = drain("old@a")
    assert result["drained"] == ["old@a"], result
    assert result["scheduled"] == 2000
    assert result["nodes"]["old@a"]["scheduled"] is None
    # Nor when the workers are asked everything.
    app = Celery("reader", broker=os.environ["TEST_BROKER"], set_as_current=False)
    asked = {"methods": ["ping", "active", "scheduled"], "destination": ["old@a"]}
    asked |= {"timeout": 10, "everybody": False, "settle": 0.0}
    assert set(celery_probe.inspect(app, asked)["replies"]) == {"ping", "active"}
    broker.delete("unacked")
    replies = celery_probe.inspect(app, asked)["replies"]
    assert replies["scheduled"] == [{"old@a": []}]


def test_resumed_workers_take_tasks_again(worker, drain, send, marks):
    worker("old@a", "-c1", "-Qone,two").ready()
    drained = drain("old@a")
    send("nap", "waits", queue="two")
    time.sleep(0.5)
    assert marks() == []
    looked = drain(state="resumed", queues=drained["queues"], check_mode=True)
    assert (looked["changed"], looked["resumed"]) == (True, [])
    time.sleep(0.5)
    assert marks() == []
    result = drain(state="resumed", queues=drained["queues"])
    assert (result["changed"], result["resumed"]) == (True, ["old@a"])
    until(lambda: len(marks()) == 2)
    assert drain(state="resumed", queues=drained["queues"])["changed"] is False


def test_check_mode_only_looks(worker, drain, send, marks):
    worker("old@a", "-c1", "-Qone").ready()
    send("nap", "first", 2.0)
    until(marks)
    result = drain("old@a", check_mode=True)
    assert result["changed"] is True
    assert result["nodes"]["old@a"] == {
        "queues": ["one"],
        "active": 1,
        "reserved": 0,
        "scheduled": 0,
    }
    send("nap", "second")
    until(lambda: len(marks()) == 4)


def test_a_broker_that_is_away_for_a_while_is_nobodys_silence(worker, drain, send, marks, broker):
    worker("old@a", "-c1", "-Qone").ready()
    send("nap", "first", 6.0)
    until(marks)
    pid = broker.info()["process_id"]

    def freeze():
        os.kill(pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(pid, signal.SIGCONT)

    timer = threading.Timer(1.5, freeze)
    timer.start()
    result = drain("old@a", silent_after=5.0)
    timer.join()
    assert result["drained"] == ["old@a"], result


def test_a_worker_that_misses_one_poll_is_heard_again(worker, drain, send, marks):
    """Regression: nobody read the answers of the only worker any more."""
    frozen = worker("old@a", "-c1", "-Qone").ready()
    send("nap", "first", 3.0)
    until(marks)
    frozen.process.send_signal(signal.SIGSTOP)
    timer = threading.Timer(3.0, frozen.process.send_signal, [signal.SIGCONT])
    timer.start()
    result = drain("old@a", silent_after=8.0)
    timer.join()
    assert result["drained"] == ["old@a"], result


def test_no_broker_is_one_clear_error(drain, broker, monkeypatch):
    monkeypatch.setenv("TEST_BROKER", "redis://:secret-word@127.0.0.1:9/0")
    result = drain("old@a")
    assert result["failed"] is True
    assert result["problem"] == "broker_unreachable"
    assert "secret-word" not in json.dumps(result)


def test_no_application_is_one_clear_error(drain, broker):
    result = drain("old@a", app="nowhere.app")
    assert (result["failed"], result["problem"]) == (True, "app_not_importable")


def test_under_ansible_itself(worker, docker):
    worker("old@a", "-c1", "-Qone").ready()
    arguments = {"app": "drain_tasks", "container": "any", "python": sys.executable}
    arguments |= {"docker_cli": docker, "nodes": ["old@a"]}
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ansible")), "localhost", "-c", "local"),
            *("-i", "localhost,", "-m", "celery_drain", "-a", json.dumps(arguments)),
            *("-e", f"ansible_python_interpreter={sys.executable}"),
        ],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"drained": [' in done.stdout or "drained:" in done.stdout
    assert "old@a" in done.stdout


def test_the_time_since_the_workers_left_counts(worker, drain, send, marks):
    worker("old@a", "-c1", "-Qone").ready()
    send("nap", "long", 6.0)
    until(lambda: marks() == ["start long old@a"])
    rest = drain("old@a", since=time.time() - 100, timeout=101)
    assert [task["state"] for task in rest["unfinished"]] == ["running"]
    assert rest["seconds"] < 4
