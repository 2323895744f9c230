"""celery_skew on a real Redis; what waits was put there by a real producer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import celery_skew
import pytest
from lab import HERE, until


@pytest.fixture
def skew(run_module, docker):
    def call(**options):
        given = {"app": "drain_tasks", "python": sys.executable, "docker_cli": docker}
        if "project_src" not in options:
            given["container"] = "any"
        return run_module(celery_skew, **(given | options))

    return call


def test_an_empty_broker_has_no_skew(skew, broker):
    result = skew()
    assert (result["changed"], result["unknown"], result["waiting"]) == (False, {}, {})
    assert result["registered"] >= 10  # nap and Celery's own
    assert not broker.keys("*")  # and looking left nothing behind


def test_unknown_tasks_are_found_in_every_place(skew, send, broker, worker, marks):
    worker("old@a", "-c1", "-Qone").ready()
    eta = datetime.now(UTC) + timedelta(minutes=10)
    send("nap", "held", eta=eta)
    until(lambda: broker.hlen("unacked") == 1)
    # A worker of the release before knows it: put an unknown name into what it holds.
    ((_tag, raw),) = broker.hgetall("unacked").items()
    broker.hset("unacked", "other-tag", raw.replace(b'"task": "nap"', b'"task": "gone.held"'))
    for _ in range(3):
        send("gone.waiting", "secret-argument", queue="two")
    send("gone.urgent", queue="two", priority=9)
    send("nap", "fine", queue="two")
    send("elsewhere", queue="no_pool")
    result = skew(queues=["one", "two"])
    assert result["failed"] is True
    assert result["problem"] == "unknown_tasks"
    assert result["unknown"] == {
        "elsewhere": 1,
        "gone.held": 1,
        "gone.urgent": 1,
        "gone.waiting": 3,
    }
    assert result["waiting"]["two"] == {"gone.urgent": 1, "gone.waiting": 3, "nap": 1}
    assert result["waiting"]["unacked"] == {"gone.held": 1, "nap": 1}
    assert result["orphaned"] == {"no_pool": 1}
    assert "gone.waiting (3)" in result["msg"]
    assert "celery_allow_unknown_tasks: true" in result["msg"]
    assert "secret-argument" not in json.dumps(result)
    allowed = skew(queues=["one", "two"], allow_unknown=True, check_mode=True)
    assert not allowed.get("failed")
    assert "gone.waiting" in str(allowed["warnings"])
    assert allowed["unknown"] == result["unknown"]


def test_a_compose_service_is_asked_in_a_container_of_its_own(skew, broker, tmp_path):
    result = skew(project_src=str(tmp_path), service="celery-worker", project_name="stack")
    assert result["unknown"] == {}
    told = (tmp_path / "docker.log").read_text()
    start = "compose --project-name stack run --rm --no-deps -T celery-worker "
    assert told.startswith(start), told


def test_a_hundred_thousand_messages_and_some_large_ones(skew, send, broker):
    send("nap", 0)
    raw = broker.lindex("one", 0)
    pipe = broker.pipeline()
    for _ in range(100):
        pipe.lpush("one", *([raw] * 1000))
    pipe.execute()
    large = raw.replace(b'"argsrepr": "', b'"argsrepr": "' + b"x" * 3_000_000)
    assert len(large) > 3_000_000
    broker.lpush("one", *([large] * 20))
    began = time.monotonic()
    result = skew()
    print(f"100k messages in {time.monotonic() - began:.1f} s")
    assert result["waiting"] == {"one": {"nap": 100_021}}
    assert time.monotonic() - began < 30


def test_messages_of_others_and_of_old_protocols(skew, broker):
    broker.sadd("_kombu.binding.one", "one\x06\x16\x06\x16one")
    broker.lpush("one", b"not json", b'{"headers": {}}', b"[]")
    old = {
        "body": json.dumps({"task": "gone.old", "args": []}),
        "headers": {},
        "content-type": "application/json",
        "properties": {},
    }
    broker.lpush("one", json.dumps(old))
    result = skew()
    assert result["unknown"] == {"gone.old": 1}
    assert result["unreadable"] == {"one": 3}


def test_no_broker_is_one_clear_error(skew, broker, monkeypatch):
    monkeypatch.setenv("TEST_BROKER", "redis://:secret-word@127.0.0.1:9/0")
    result = skew()
    assert (result["failed"], result["problem"]) == (True, "broker_unreachable")
    assert "secret-word" not in json.dumps(result)


def test_another_broker_is_refused(skew, broker, monkeypatch):
    monkeypatch.setenv("TEST_BROKER", "memory://")
    monkeypatch.setitem(os.environ, "TEST_BROKER", "memory://")
    assert skew()["problem"] == "broker_unsupported"


def test_a_prefix_of_all_keys_is_heeded(skew, send, broker, monkeypatch, worker):
    monkeypatch.setenv("TEST_PREFIX", "mine:")
    send("gone.one", queue="two")  # without the prefix: another application's
    worker("old@a", "-c1", "-Qone").ready()
    code = "import drain_tasks as d; d.app.send_task('gone.mine', queue='three');"
    code += "d.nap.apply_async(('x',), countdown=600)"
    subprocess.run([sys.executable, "-c", code], cwd=HERE, check=True, capture_output=True)
    until(lambda: broker.hlen("mine:unacked") == 1)
    assert skew(allow_unknown=True)["waiting"] == {"three": {"gone.mine": 1}, "unacked": {"nap": 1}}


def test_what_is_known_is_read_where_something_runs_already(skew, send, docker, tmp_path):
    send("nap", "fine", queue="two")
    asked = {"project_src": str(tmp_path), "service": "worker", "project_name": "p"}
    shim = tmp_path / "docker"
    shim.write_text(shim.read_text().replace("cd ", '[ "$1" = ps ] && { echo abc; exit; }\ncd '))
    result = skew(**asked, running="web", known=["nap"])
    assert (result["unknown"], result["waiting"]["two"]) == ({}, {"nap": 1})
    log = (tmp_path / "docker.log").read_text().splitlines()
    assert [line.split()[0] for line in log] == ["ps", "exec"]
    # A name that is not among them: the release itself is asked, and knows it.
    result = skew(**asked, running="web", known=["other"])
    assert result["unknown"] == {}
    assert "compose --project-name p run" in (tmp_path / "docker.log").read_text()
    # Unless what is known is all there is.
    result = skew(**asked, running="web", known=["other"], known_is_all=True)
    assert result["unknown"] == {"nap": 1}
