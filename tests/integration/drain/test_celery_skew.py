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
from ansible_collections.crisper.stack.plugins.module_utils.celery import skew as skew_module
from ansible_collections.crisper.stack.plugins.module_utils.probes import skew as skew_probe
from backlog import fill, message
from celery import Celery
from hostile_messages import RAWS, first_protocol, naive
from hypothesis import given, settings
from hypothesis import strategies as st
from kombu import Exchange, Queue
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


def test_tens_of_thousands_of_messages_and_some_large_ones(skew, send, broker):
    send("nap", 0)
    raw = broker.lindex("one", 0)
    fill(broker, "one", raw, 50_000)
    large = raw.replace(b'"argsrepr": "', b'"argsrepr": "' + b"x" * 3_000_000)
    assert len(large) > 3_000_000
    broker.lpush("one", *([large] * 20))
    began = time.monotonic()
    result = skew()
    assert time.monotonic() - began < 10
    assert (result["waiting"], result["partial"]) == ({"one": {"nap": 50_021}}, {})


def test_what_cannot_be_read_in_time_is_told(skew, send, broker):
    send("nap", 0)
    fill(broker, "one", broker.lindex("one", 0), 50_000)
    send("gone", queue="two")
    # Named, as the time may not suffice to look for queues among all keys.
    result = skew(budget=0.01, allow_unknown=True, queues=["one", "two"])
    # The short queue is read; of the long one a part, which the warning says.
    assert result["unknown"] == {"gone": 1}
    part = result["partial"]["one"]
    assert part["read"] == result["waiting"]["one"]["nap"] < part["of"] == 50_001
    told = f"queue one: {part['read']:,} of 50,001 messages"
    assert any(told in str(warning) for warning in result["warnings"])


def test_a_server_without_scripts_is_read_in_batches(skew, send, broker):
    for name in ("nap", "gone"):
        send(name)
    broker.execute_command("ACL", "SETUSER", "default", "-@scripting")
    assert skew(allow_unknown=True)["waiting"] == {"one": {"gone": 1, "nap": 1}}


@pytest.fixture
def probe(broker):
    """The probe, beside a broker."""
    return skew_probe


def test_the_server_counts_what_parsing_counts(probe, broker):
    @settings(max_examples=60, deadline=None)
    @given(st.lists(RAWS, min_size=1, max_size=20), st.booleans())
    def counted(raws, scripts):
        broker.delete("one", "unacked")
        broker.rpush("one", *raws)
        for tag, raw in enumerate(raws):
            broker.hset("unacked", tag, b"[" + raw + b', "", "one"]')
        reader = probe.Reader(broker, skew_module.Tally())
        reader.scripts = scripts
        probe.read_list(reader, "one", "one", len(raws), 60)
        assert reader.tally.reading() == naive(raws)
        probe.read_unacked(reader, "unacked", time.monotonic() + 60)
        held = reader.tally.waiting.get("unacked", {})
        assert held == reader.tally.waiting.get("one", {})
        assert reader.scripts == scripts  # the server took them

    counted()


def test_only_what_a_script_cannot_read_leaves_the_server(probe, broker, monkeypatch):
    monkeypatch.setattr(skew_module, "OTHER_BYTES", 1000)
    plain = [json.dumps(message("nap")).encode()] * 40
    old = [json.dumps(first_protocol("gone", "x" * 300)).encode()] * 20
    broker.rpush("one", *plain, *old, *plain)
    reader = probe.Reader(broker, skew_module.Tally())
    probe.read_list(reader, "one", "one", 100, 60)
    assert reader.tally.waiting == {"one": {"nap": 80, "gone": 20}}


def test_queues_are_found_among_results_without_end(probe, send, broker, monkeypatch):
    send("nap", queue="elsewhere")
    code = "for i = 1, 100000 do redis.call('SET', 'celery-task-meta-' .. i, '{}') end"
    broker.eval(code, 0)
    app = Celery("reader", broker=os.environ["TEST_BROKER"], set_as_current=False)
    request = {"queues": [], "broker_timeout": 5, "budget": 10.0}
    reading = probe.read_queues(app, request).reading()
    assert (reading["waiting"], reading["unlisted"]) == ({"elsewhere": {"nap": 1}}, False)
    monkeypatch.setattr(probe, "SCAN_COUNT", 10)
    began = time.monotonic()
    assert probe.read_queues(app, {**request, "budget": 0.05}).reading()["unlisted"] is True
    assert time.monotonic() - began < 2
    # What the application itself declares is read all the same.
    app = Celery("reader", broker=os.environ["TEST_BROKER"], set_as_current=False)
    app.conf.task_queues = [Queue("elsewhere", Exchange("elsewhere"))]
    reading = probe.read_queues(app, {**request, "budget": 0.05}).reading()
    assert reading["waiting"] == {"elsewhere": {"nap": 1}}


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
    # What it found is handed over: the queues are read once.
    assert result["waiting"]["two"] == {"nap": 1}
    # Unless what is known is all there is.
    result = skew(**asked, running="web", known=["other"], known_is_all=True)
    assert result["unknown"] == {"nap": 1}
