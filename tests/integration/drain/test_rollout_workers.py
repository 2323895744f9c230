"""Workers asked during a rollout: one process tells old ones to leave and proves new ones."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from ansible_collections.crisper.stack.plugins.module_utils.remote.run import RemoteError
from ansible_collections.crisper.stack.plugins.module_utils.rollout.workers import Workers
from lab import until


@pytest.fixture
def ask(docker):
    """Workers of the test's application, with options of the module's `workers`."""
    begun: list[Workers] = []

    def begin(new=(), **more):
        asked = {"app": "drain_tasks", "service": "backend", "expect": {}, "canary": None}
        asked |= {"timeout": 3.0, "patience": 0.0, "import_timeout": 60, "python": sys.executable}
        begun.append(Workers({**asked, **more}, docker))
        begun[-1].begin("any", new)
        return begun[-1]

    yield begin
    for workers in begun:
        workers.session.process.stdin.close()
        assert workers.session.process.wait(10) == 0, "it ends with whoever asks"


def proved(workers: Workers, nodes: list[str], count: int) -> dict[str, Any]:
    """What comes of asking everybody."""
    workers.ask(nodes, count)
    return workers.proof()


@contextlib.contextmanager
def forging(broker: redis.Redis, node: str, answer: Any) -> Iterator[None]:
    """Answer every question in the name of a node, as whoever may write into Redis can."""
    listener, over = broker.pubsub(), threading.Event()
    listener.psubscribe("/*pidbox*")
    until(lambda: listener.get_message(timeout=1))

    def forge() -> None:
        while not over.is_set():
            message = listener.get_message(ignore_subscribe_messages=True, timeout=0.2)
            question = (
                json.loads(base64.b64decode(json.loads(message["data"])["body"])) if message else {}
            )
            if not question.get("reply_to"):
                continue
            to = question["reply_to"]
            reply = {
                "body": base64.b64encode(json.dumps({node: answer}).encode()).decode(),
                "content-encoding": "utf-8",
                "content-type": "application/json",
                "headers": {"ticket": question["ticket"], "clock": 1},
                "properties": {
                    "delivery_mode": 1,
                    "delivery_info": to,
                    "priority": 0,
                    "body_encoding": "base64",
                    "delivery_tag": str(uuid.uuid4()),
                },
            }
            broker.lpush(f"{to['routing_key']}.{to['exchange']}", json.dumps(reply))

    thread = threading.Thread(target=forge)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_forged_bad_answers_block_nothing_and_prove_nothing(worker, ask, broker):
    worker("new@b", "-c2", "-Qtwo").ready()
    workers = ask(expect={"pools": {"new": {"queues": ["two"], "concurrency": 2}}})
    with forging(broker, "new@b", {"ok": 1}):
        assert workers.look_again(["new@b"]) == []
        codes = {finding["code"] for finding in proved(workers, ["new@b"], 1)["findings"]}
    assert {"malformed_reply", "duplicate_node"} <= codes
    assert proved(workers, ["new@b"], 1)["findings"] == []


def test_leaving_does_not_wait_for_what_runs(worker, ask, drain, send, marks):
    worker("old@a", "-c1", "-Qone").ready()
    send("nap", "long", 4.0)
    until(lambda: marks() == ["start long old@a"])
    workers = ask()
    begun = time.monotonic()
    workers.cancel_consumers(["old@a"], [])
    left, wrong = workers.wait_for_cancelling([])
    assert time.monotonic() - begun < 3
    assert (left["queues"], left["drained"], wrong) == ({"old@a": ["one"]}, [], "")
    assert [task["name"] for task in left["unfinished"]] == ["nap"]
    send("nap", "later")
    time.sleep(0.5)
    assert len(marks()) == 1  # nobody takes the next one
    rest = drain("old@a", since=left["left_at"], timeout=30)
    assert (rest["drained"], rest["queues"]) == (["old@a"], {})
    assert marks()[1].startswith("end long")
    back = drain(state="resumed", queues=left["queues"])
    assert back["resumed"] == ["old@a"]
    until(lambda: len(marks()) == 4)


def test_new_workers_are_proved_while_old_ones_leave(worker, ask, drain, send, marks):
    worker("old@a", "-c1", "-Qone").ready()
    worker("new@b", "-c2", "-Qtwo").ready()
    send("nap", "short", 2.0)
    until(lambda: marks() == ["start short old@a"])
    expect = {"pools": {"new": {"queues": ["two"], "concurrency": 2}}}
    workers = ask(expect=expect, patience=10.0)
    workers.cancel_consumers(["old@a"], ["new@b"])
    left, wrong = workers.wait_for_cancelling(["new@b"])
    assert (left["drained"], left["findings"], wrong) == (["old@a"], [], "")
    assert 0.5 < left["longest"] < 4

    seen = proved(workers, ["new@b"], 1)
    assert [finding["code"] for finding in seen["findings"]] == ["foreign_node", "wrong_count"]
    seen = proved(workers, ["new@b", "old@a"], 2)
    assert seen["problem"] == "", seen["findings"]
    assert set(seen["nodes"]) == {"new@b", "old@a"}

    drain(state="resumed", queues=left["queues"])
    unmet = ask(expect={"pools": {"new": {"queues": ["two", "three"]}}})
    unmet.cancel_consumers(["old@a"], ["new@b"])
    left, wrong = unmet.wait_for_cancelling(["new@b"])
    assert left["problem"] == "expectations_not_met"
    assert "consumes two, expected three, two" in wrong
    assert left["queues"] == {"old@a": ["one"]}, "who undoes it must know who was told to leave"

    unmet.cancel_consumers(["old@a"], ["nobody@c"])
    left, wrong = unmet.wait_for_cancelling(["nobody@c"])
    assert "nobody@c" in wrong or "No worker answered" in wrong


def test_canaries_go_through_the_queues(worker, ask):
    worker("new@b", "-c1", "-Qone").ready()
    workers = ask(canary={"task": "health", "queues": ["one"], "timeout": 10.0})
    seen = proved(workers, ["new@b"], 1)
    assert seen["canary"]["findings"] == []
    assert seen["canary"]["queues"]["one"]["result"] == {"worker": "new@b"}
    lost = ask(canary={"task": "health", "queues": ["one", "nobody"], "timeout": 1.0})
    (finding,) = proved(lost, ["new@b"], 1)["canary"]["findings"]
    assert finding["queue"] == "nobody"


def test_a_busy_pool_is_proved_once(worker, ask, send, marks):
    worker("new@b", "-c1", "-Qone").ready()
    send("nap", "long", 30.0)
    until(lambda: len(marks()) == 1)
    workers = ask(canary={"task": "health", "queues": ["one"], "timeout": 2.0})
    seen = proved(workers, ["new@b"], 1)
    assert (seen["problem"], seen["canary"]["findings"]) == ("", [])
    assert seen["canary"]["busy"][0]["text"].startswith("busy: 1 of 1 processes run nap, oldest ")
    # Who asks the workers again does not wait for the pool again.
    workers.ask(["new@b", "gone@c"], 2, seen["canary"])
    again = workers.proof()
    assert again["problem"] == "nodes_silent"
    assert again["canary"] == seen["canary"], "the same canary, by its id"


def test_no_broker_is_one_clear_error(ask, broker, monkeypatch):
    monkeypatch.setenv("TEST_BROKER", "redis://:secret-word@127.0.0.1:9/0")
    workers = ask()
    workers.cancel_consumers(["old@a"], ["new@b"])
    left, wrong = workers.wait_for_cancelling(["new@b"])
    assert (left["problem"], left["queues"]) == ("broker_unreachable", {})
    assert "secret-word" not in wrong + str(left)
    assert proved(workers, ["new@b"], 1)["problem"] == "broker_unreachable"


def test_no_application_is_one_clear_error(ask, broker):
    workers = ask(app="nowhere.app")
    workers.cancel_consumers(["old@a"], [])
    left, wrong = workers.wait_for_cancelling([])
    assert (left["problem"], left["drained"]) == ("app_not_importable", [])
    assert "nowhere" in wrong


def test_a_container_that_goes_away_is_told(docker, broker):
    asked = {"app": "drain_tasks", "expect": {}, "canary": None, "timeout": 3.0, "patience": 0.0}
    workers = Workers({**asked, "import_timeout": 60, "python": sys.executable}, docker)
    workers.begin("any", [])
    os.kill(workers.session.process.pid, signal.SIGKILL)
    workers.cancel_consumers(["old@a"], [])
    left, wrong = workers.wait_for_cancelling([])
    assert left["problem"] == "malformed_reply"
    assert "ended" in wrong
    assert proved(workers, ["old@a"], 1)["problem"] == "malformed_reply"


def test_new_workers_are_known_as_soon_as_they_answer(worker, ask, drain, send):
    workers = ask(["new@b", "late@c"])
    worker("new@b", "-c1", "-Qone").ready()
    time.sleep(1)
    workers.listen()
    assert workers.answering == set(), "nobody is told before all have answered"
    worker("late@c", "-c1", "-Qone").ready()
    until(lambda: workers.listen() and workers.answering == {"new@b", "late@c"})
    # What is asked meanwhile is answered, and not with what is asked here.
    again = ask(["new@b", "nobody@d"], patience=5.0)
    time.sleep(1)
    seen = proved(again, ["new@b", "late@c"], 2)
    assert (seen["problem"], set(seen["nodes"])) == ("", {"new@b", "late@c"})
    again.cancel_consumers(["late@c"], ["new@b"])
    left, wrong = again.wait_for_cancelling(["new@b"])
    assert (left["drained"], wrong) == (["late@c"], "")
    assert again.answering == set()


def test_an_application_that_is_not_importable_is_told_to_who_asks_later(ask, broker):
    workers = ask(["new@b"], app="nowhere.app")
    until(lambda: not workers.listen())
    with pytest.raises(RemoteError, match="nowhere"):
        workers.cancel_consumers(["old@a"], ["new@b"])
    assert workers.proof()["problem"] == "app_not_importable"


def test_nothing_is_asked_where_no_container_runs(docker):
    workers = Workers({"service": "backend", "expect": {}, "canary": None}, docker)
    with pytest.raises(RemoteError, match="no container of service backend"):
        workers.cancel_consumers(["old@a"], [])


def test_numbers_from_the_command_line_are_texts(worker, ask):
    worker("new@b", "-c1", "-Qone").ready()
    canary = {"task": "health", "queues": ["one"], "timeout": "10"}
    seen = proved(ask(expect={"soft_time_limit": "5"}, canary=canary), ["new@b"], 1)
    assert [finding["expected"] for finding in seen["findings"]] == [5]
    assert seen["canary"]["findings"] == []
    with pytest.raises(ValueError, match=r"workers\.canary: .*timeout.*"):
        Workers({"expect": {}, "canary": {**canary, "timeout": "long"}}, "docker")
