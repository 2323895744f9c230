"""Tasks that a restart of Redis leaves unacknowledged: told, and put back once."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime

import celery_stranded
import pytest
import redis
import stack_redis
from ansible_collections.crisper.stack.plugins.module_utils.probes import ledger as ledger_probe
from ansible_collections.crisper.stack.plugins.module_utils.remote.run import parse, program
from backlog import ID, message
from lab import HERE, until

PASSWORD = "stranded-lab"


class Broker:
    """A Redis with the stack's configuration that keeps its data over a restart."""

    def __init__(self, folder) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.configuration = folder / "redis.conf"
        text = stack_redis.configuration(PASSWORD, self.port, folder, disk=True)
        self.configuration.write_text(text)
        self.client = redis.Redis(port=self.port, password=PASSWORD)
        self.start()

    def start(self) -> None:
        command = ["redis-server", str(self.configuration)]
        self.server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(self.up)

    def up(self) -> bool:
        try:
            return bool(self.client.ping())
        except (redis.ConnectionError, redis.exceptions.BusyLoadingError):
            return False

    def stop(self) -> None:
        """As `docker stop`."""
        self.server.send_signal(signal.SIGTERM)
        self.server.wait(10)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    if not shutil.which("redis-server"):
        pytest.skip("needs redis-server")
    lab = Broker(tmp_path_factory.mktemp("redis"))
    yield lab
    lab.server.send_signal(signal.SIGCONT)
    lab.server.kill()
    lab.server.wait()


@pytest.fixture
def broker(lab, tmp_path, monkeypatch):
    """The same Redis for all, emptied."""
    lab.client.flushall()
    monkeypatch.setenv("TEST_BROKER", stack_redis.url(PASSWORD, "127.0.0.1", lab.port))
    monkeypatch.setenv("TEST_MARKS", str(tmp_path / "marks"))
    monkeypatch.setenv("TEST_WORKER", "test")
    return lab.client


@pytest.fixture
def stranded(run_module, docker):
    """Look, or put back, as the module does."""

    def call(state="examined", **options):
        given = {"app": "drain_tasks", "container": "any", "python": sys.executable, "state": state}
        given |= {"docker_cli": docker, "timeout": 3.0, "grace": 0.5, "wait": 8.0}
        given["same_image"] = ["plain@a", "frozen@a", "other@a"]
        return run_module(celery_stranded, **(given | options))

    return call


def restart(lab, *workers):
    """Have Redis restart, as `docker compose up` recreates it, and workers connect again."""
    before = {one: one.log.read_bytes().count(b"mingle:") for one in workers}
    lab.stop()
    lab.start()
    for one in workers:
        # The second line of mingle comes when it consumes again.
        until(lambda one=one: one.log.read_bytes().count(b"mingle:") >= before[one] + 2, 30)


@pytest.fixture
def plain(worker, monkeypatch):
    """Start a worker without crisper-worker: late acknowledgement, four prefetched for each."""
    monkeypatch.setenv("TEST_LATE", "1")
    monkeypatch.setenv("TEST_PREFETCH", "4")

    def start(name="plain@a", *arguments):
        return worker(name, "-c2", "-Qone", *arguments).ready()

    return start


def test_what_a_restart_of_redis_strands_is_told_and_put_back_once(
    lab, broker, plain, send, marks, stranded, tmp_path
):
    """Regression: 8 tasks lay in `unacked` that no worker knew, and nobody said so."""
    one, released = plain(), tmp_path / "released"
    send("nap", "eta", countdown=3600)
    for number in range(8):
        send("hold", str(number), str(released))
    until(lambda: broker.hlen("unacked") == 9 and len(marks()) == 2)
    time.sleep(0.5)  # the grace
    before = stranded()
    assert (before["held"], before["stranded"], before["text"]) == (9, 0, ""), before
    restart(lab, one)
    assert (broker.hlen("unacked"), broker.llen("one")) == (9, 0)
    told = stranded(nodes=["plain@a"])
    assert told["problem"] == ""
    assert (told["held"], told["stranded"], told["blind"]) == (9, 7, []), told
    assert told["text"].startswith("9 tasks are unacknowledged, no worker knows 7 of them (nap ")
    assert told["changed"] is False
    assert broker.hlen("unacked") == 9
    assert stranded("put_back", check_mode=True)["put_back"] == 0
    # A Redis that runs for longer is none of a deploy's doing.
    quiet = stranded("put_back", restarted_within=0.001)
    assert (quiet["restarted"], quiet["put_back"]) == (False, 0)
    mended = stranded("put_back", nodes=["plain@a"], restarted_within=600)
    assert (mended["put_back"], mended["changed"]) == (7, True), mended
    assert mended["done"] == "7 tasks that no worker knew any more were put back in their queues"
    again = stranded("put_back")
    assert (again["put_back"], again["changed"]) == (0, False)
    released.touch()
    until(lambda: len(marks()) == 16)
    until(lambda: broker.hlen("unacked") == 1)
    # Each of the eight ran once, and the one with an ETA waits in the worker again.
    assert sorted(marks()) == sorted(f"{w} {n} plain@a" for w in ("start", "end") for n in range(8))
    done = stranded()
    assert (done["held"], done["stranded"], done["text"]) == (1, 0, "")


def test_what_a_worker_lists_after_its_end_holds_no_drain_and_is_acknowledged(
    broker, plain, send, marks, stranded, drain, monkeypatch, tmp_path
):
    """Regression: a drain waited for celery_drain_timeout, and the tasks ran again after hours."""
    monkeypatch.setenv("TEST_FORGET", "1")
    plain()
    released = tmp_path / "released"
    ids = [send("nap", str(number)) for number in range(2)]
    until(lambda: len(marks()) == 4)
    last = send("hold", "real", str(released))
    until(lambda: len(marks()) == 5)
    time.sleep(0.5)  # the grace
    done = stranded("put_back")
    assert (done["put_back"], done["acknowledged"], broker.hlen("unacked")) == (0, 2, 1), done
    assert "2 tasks ended without an acknowledgement; workers still list 2 of" in done["text"]
    assert done["done"] == "2 tasks had ended and were acknowledged"
    # Of the third the message is there still.
    released.touch()
    until(lambda: len(marks()) == 6)
    waited = drain("plain@a")
    assert (waited["drained"], waited["unfinished"]) == (["plain@a"], []), waited
    assert sorted(one["id"] for one in waited["stale"]) == sorted([*ids, last]), waited
    assert waited["seconds"] < 10


def test_what_a_silent_worker_may_hold_is_not_touched(
    broker, plain, send, marks, stranded, tmp_path
):
    """Redis does not say who holds a message: every worker that listens must answer."""
    frozen, released = plain("frozen@a"), tmp_path / "released"
    for number in range(3):
        send("hold", str(number), str(released))
    send("hourly")
    send("hourly")
    until(lambda: broker.hlen("unacked") == 5 and len(marks()) == 2)
    time.sleep(0.5)  # the grace
    # One waits in the worker for its rate limit, and no list tells of it.
    told = stranded()
    assert (told["stranded"], told["limited"], told["blind"]) == (0, 1, []), told
    assert "1 with a rate limit cannot be judged" in told["text"]
    frozen.process.send_signal(signal.SIGSTOP)
    options = {"timeout": 1.0, "wait": 0.0}
    silent = stranded("put_back", **options)
    assert (silent["stranded"], silent["put_back"], silent["changed"]) == (5, 0, False), silent
    assert silent["blind"] == ["no worker answered"]
    assert "that is not certain: no worker answered" in silent["text"]
    plain("other@a")
    silent = stranded("put_back", nodes=["gone@a"], **options)
    assert (silent["stranded"], silent["limited"], silent["put_back"]) == (3, 2, 0), silent
    assert silent["blind"] == [
        "gone@a did not answer",
        "1 more that listened to Celery's questions did not answer",
    ]
    assert (broker.hlen("unacked"), broker.llen("one")) == (5, 0)
    frozen.process.send_signal(signal.SIGCONT)
    released.touch()
    until(lambda: len(marks()) == 6)
    assert sorted(marks()) == sorted(
        f"{w} {n} frozen@a" for w in ("start", "end") for n in range(3)
    )


# KEYS: unacked, index. ARGV: an entry of `unacked` with `ID` in it, how many there are, when they
# were delivered.
HOLD = """
for i = ARGV[2] + 1, ARGV[2] + 5000 do
  local id = string.format('%08x-0000-4000-8000-%012x', i, i)
  redis.call('HSET', KEYS[1], id, (string.gsub(ARGV[1], '@ID@', id)))
  redis.call('ZADD', KEYS[2], ARGV[3] + i / 1000, id)
end
"""


def hold(client, tag, task="nap", queue="idle", *, prefix="", since=None, exchange="", **more):
    """Put a message among those that some worker holds."""
    raw = json.dumps(message(task, queue, **more.pop("headers", {})) | more).replace(ID, tag)
    client.hset(prefix + "unacked", tag, json.dumps([json.loads(raw), exchange, queue]))
    client.zadd(prefix + "unacked_index", {tag: since or time.time() - 60})


def test_only_what_is_certain_is_put_back(lab, broker, plain, stranded):
    """Leases, other databases and prefixes, what is no task, and what has ended."""
    plain()
    hold(broker, "fine")
    hold(broker, "large", body="x" * 3_000_000)
    hold(broker, "young", since=time.time() + 60)
    hold(broker, "leased")
    broker.zadd("unacked_lease", {"leased": time.time() - 3600})
    hold(broker, "headless", headers={"id": None})
    hold(broker, "homeless", "nap", "nowhere", exchange="unbound")
    # Regression: one such entry ended the put-back of all.
    short = [{"headers": {"id": "bad", "task": "t"}}]
    broker.hset("unacked", "short", json.dumps(short))
    broker.zadd("unacked_index", {"short": 1})
    broker.hset("unacked", "garbage", "no JSON")
    broker.zadd("unacked_index", {"garbage": 1})
    hold(broker, "other", prefix="other:")
    second = redis.Redis(port=lab.port, password=PASSWORD, db=1)
    hold(second, "second")
    for tag, moment in (("ended", time.time()), ("used-again", 1.0)):
        hold(broker, tag)
        done = datetime.fromtimestamp(moment, UTC).isoformat()
        result = {"status": "SUCCESS", "result": None, "date_done": done, "task_id": tag}
        broker.set("celery-task-meta-" + tag, json.dumps(result))
    # Somebody has made the list something else.
    hold(broker, "blocked", "nap", "no-list")
    broker.set("no-list", "text")
    urgent = {"correlation_id": "urgent", "delivery_tag": "urgent", "priority": 9}
    urgent["delivery_info"] = {"exchange": "", "routing_key": "idle"}
    hold(broker, "urgent", properties=urgent)
    told = stranded("put_back", grace=5.0)
    assert told["problem"] == ""
    numbers = {key: told[key] for key in ("stranded", "put_back", "ended", "acknowledged")}
    assert numbers == {"stranded": 6, "put_back": 4, "ended": 1, "acknowledged": 1}, told
    assert (told["leased"], told["unreadable"], told["homeless"]) == (1, 3, 1), told
    left = {"young", "short", "leased", "headless", "homeless", "garbage", "blocked"}
    assert {tag.decode() for tag in broker.hkeys("unacked")} == left
    assert {tag.decode() for tag in broker.zrange("unacked_index", 0, -1)} == left
    assert broker.hlen("other:unacked") == second.hlen("unacked") == 1
    back = [json.loads(raw) for raw in broker.lrange("idle", 0, -1)]
    assert {one["properties"]["delivery_tag"] for one in back} == {"fine", "large", "used-again"}
    assert all(one["headers"]["redelivered"] for one in back)
    assert all(one["properties"]["delivery_info"]["redelivered"] for one in back)
    assert broker.llen("idle\x06\x169") == 1
    second.flushdb()


def test_100_000_unacknowledged_are_bounded(broker, plain, stranded):
    """What is not done in time is left for the next call, and Redis serves others meanwhile."""
    plain()
    raw = json.dumps([message("nap", "idle", "x" * 200), "", "idle"])
    for first in range(0, 100_000, 5000):
        broker.eval(HOLD, 2, "unacked", "unacked_index", raw, first, time.time() - 3600)
    broker.config_set("slowlog-log-slower-than", 500_000)
    broker.slowlog_reset()
    told = stranded()
    assert (told["held"], told["stranded"], len(told["tasks"])) == (100_000, 100_000, 20)
    assert len(json.dumps(told)) < 10_000
    part = stranded("put_back", budget=2.0)
    assert 0 < part["put_back"] < 100_000
    assert broker.llen("idle") == part["put_back"]
    assert broker.hlen("unacked") == broker.zcard("unacked_index") == 100_000 - part["put_back"]
    # 3 to 10 ms, more where the machine is busy.
    assert broker.slowlog_get(1) == []


def test_the_ledger_tells_sentinels_that_no_worker_knows(lab, broker, plain, send, marks, tmp_path):
    """Regression: they were "still waiting", and it was not said for what."""
    one, released = plain(), tmp_path / "released"
    # With room for more, Celery 5.7.0 crashes when Redis goes away.
    for number in range(5):
        send("hold", str(number), str(released))
    until(lambda: len(marks()) == 2)
    request = {"app": "drain_tasks", "task": "health", "path": "/", "task_interval": 0.1}
    request |= {"request_interval": 60.0, "limit": 120, "site_host": "", "site_scheme": "http"}
    request |= {"expected": [200], "certificates": "", "run": "1", "host": "127.0.0.1", "port": 1}
    request |= {"secure_port": 1, "queues": ["one"], "wait": 5.0}
    source = program(ledger_probe, request)
    command = [sys.executable, "-c", source]
    process = subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True)
    try:
        until(lambda: broker.hlen("unacked") == 8)
        restart(lab, one)
        process.terminate()
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    tasks = parse(out)["tasks"]
    assert (tasks["waiting"], tasks["stranded"], tasks["lost"]) == (3, 3, 0), tasks
    released.touch()
