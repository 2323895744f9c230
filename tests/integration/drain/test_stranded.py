"""Tasks that a restart of Redis leaves unacknowledged: told, and put back once."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys

import celery_stranded
import pytest
import redis
import stack_redis
from lab import until

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
    for number in range(8):
        send("hold", str(number), str(released))
    until(lambda: broker.hlen("unacked") == 8 and len(marks()) == 2)
    restart(lab, one)
    assert (broker.hlen("unacked"), broker.llen("one")) == (8, 0)
    told = stranded(nodes=["plain@a"])
    assert told["problem"] == ""
    assert (told["held"], told["stranded"], told["blind"]) == (8, 6, []), told
    assert told["text"].startswith("8 tasks are unacknowledged, no worker knows 6 of them (hold ")
    assert told["changed"] is False
    assert broker.hlen("unacked") == 8
    assert stranded("put_back", check_mode=True)["put_back"] == 0
    # A Redis that runs for longer is none of a deploy's doing.
    quiet = stranded("put_back", restarted_within=0.001)
    assert (quiet["restarted"], quiet["put_back"]) == (False, 0)
    mended = stranded("put_back", nodes=["plain@a"], restarted_within=600)
    assert (mended["put_back"], mended["changed"]) == (6, True), mended
    assert mended["done"] == "6 tasks that no worker knew any more were put back in their queues"
    again = stranded("put_back")
    print(again, marks(), one.process.poll(), one.log.read_text()[-3000:])
    assert (again["put_back"], again["changed"]) == (0, False)
    released.touch()
    until(lambda: len(marks()) == 16)
    until(lambda: broker.hlen("unacked") == 0)
    assert sorted(marks()) == sorted(f"{w} {n} plain@a" for w in ("start", "end") for n in range(8))
    done = stranded()
    assert (done["held"], done["text"]) == (0, "")
