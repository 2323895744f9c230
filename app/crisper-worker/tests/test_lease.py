"""Each accepted task ends, and is started once as long as its worker lives; real processes."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from celery import Celery
from crisper_worker.lease_store import LeaseStore
from testkit import Process, Redis, lines, wait_until

SHORT = {"CELERY_LEASE_SECONDS": "3"}


class Wire:
    """A TCP way to a port of this host that holds everything back while it is not `whole`."""

    def __init__(self, to: int) -> None:
        self.to = to
        self.whole = threading.Event()
        self.whole.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]

    def __enter__(self) -> Wire:
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.listener.close()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, far = (
                    self.listener.accept()[0],
                    socket.create_connection(("127.0.0.1", self.to)),
                )
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self.carry, args=ends, daemon=True).start()

    def carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.whole.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def mortal_redis(tmp_path: Path) -> Iterator[Redis]:
    (tmp_path / "redis").mkdir()
    server = Redis(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


def nothing_is_held(redis_server: Redis) -> bool:
    names = ("unacked", "unacked_index", "unacked_lease", "unacked_holder", "unacked_started")
    return redis_server.client().exists(*names) == 0


def lost(worker: Process, times: int) -> bool:
    return worker.log.read_text().count("Connection to broker lost") >= times


def test_tasks_of_a_killed_worker_run_on_another_within_60_s(
    client: Celery, redis_server: Redis, start_worker: Callable, ledger: Path
) -> None:
    # The lease of a default installation; the killed node never comes back.
    first = start_worker(concurrency=2).ready()
    tasks = [client.send_task("note", (5, str(ledger))) for _ in range(2)]
    wait_until(lambda: len(lines(ledger, "start")) == 2, "both run", log=first.log)
    second = start_worker(concurrency=2).ready()
    first.kill()
    wait_until(lambda: len(lines(ledger, "start")) == 4, "both run again", 60, second.log)
    assert {task.get(timeout=30) for task in tasks} == {"w1@test"}
    assert sorted(lines(ledger, "end")) == sorted(task.id for task in tasks)
    wait_until(lambda: nothing_is_held(redis_server), "nothing is left", 5)


def test_longer_than_its_lease_starts_once(
    client: Celery, redis_server: Redis, start_worker: Callable, ledger: Path
) -> None:
    # The last one knows no leases, as a worker of an older release: its messages are left alone.
    kinds = [SHORT, SHORT, {"CELERY_LEASE_SECONDS": "0"}]
    workers = [start_worker(**kind).ready() for kind in kinds]
    sent = [client.send_task("note", (0, str(ledger)), countdown=10)]
    sent += [client.send_task("note", (10, str(ledger))) for _ in workers]
    for task in sent:
        task.get(timeout=30)
    for worker in workers:
        worker.signal(signal.SIGTERM)
        assert worker.wait(20) == 0
    assert sorted(lines(ledger, "start")) == sorted(task.id for task in sent)
    assert len({task.result for task in sent[1:]}) == 3
    assert nothing_is_held(redis_server)


def test_a_killed_process_of_the_pool_costs_one_more_start(
    client: Celery, redis_server: Redis, start_worker: Callable, ledger: Path
) -> None:
    start_worker(**SHORT).ready()
    task = client.send_task("die", (1, False, str(ledger)))
    task.get(timeout=20)
    assert lines(ledger, "start") == [task.id] * 2
    assert lines(ledger, "end") == [task.id]
    wait_until(lambda: nothing_is_held(redis_server), "nothing is left", 5)


def test_killed_while_alone_the_restarted_worker_goes_on(
    client: Celery, start_worker: Callable, ledger: Path
) -> None:
    options = {**SHORT, "PREFIX": "mine:"}
    client.conf.broker_transport_options = {"global_keyprefix": "mine:"}
    first = start_worker(**options).ready()
    task = client.send_task("note", (2, str(ledger)), priority=3)
    waiting = client.send_task("note", (0, str(ledger)), priority=6)
    wait_until(lambda: lines(ledger, "start") == [task.id], "it runs", log=first.log)
    first.kill()
    second = start_worker(**options)
    wait_until(lambda: len(lines(ledger, "end")) == 2, "both end", 30, second.log)
    assert sorted(lines(ledger, "start")) == sorted([task.id, task.id, waiting.id])


def test_redis_killed_and_restarted(
    mortal_redis: Redis, start_worker: Callable, ledger: Path
) -> None:
    client = Celery(broker=mortal_redis.url(0), backend=mortal_redis.url(1))
    options = {**SHORT, "broker": mortal_redis.url(0), "RESULTS": mortal_redis.url(1)}
    workers = [start_worker(concurrency=2, **options).ready() for _ in range(2)]
    # One task ends while Redis is away, one after it is back; both workers have room for more.
    sent = [client.send_task("note", (seconds, str(ledger))) for seconds in (3, 11)]
    sent.append(client.send_task("note", (0, str(ledger)), countdown=9))
    wait_until(lambda: len(lines(ledger, "start")) == 2, "two run", log=workers[0].log)
    mortal_redis.stop()
    wait_until(lambda: len(lines(ledger, "end")) == 1, "one ends without Redis", 15)
    time.sleep(3)  # longer than a lease: the outage itself, not a wait for something
    mortal_redis.start()
    sent += [client.send_task("note", (0, str(ledger))) for _ in range(5)]
    wait_until(lambda: len(lines(ledger, "end")) == 8, "all end", 40, workers[0].log)
    wait_until(lambda: nothing_is_held(mortal_redis), "nothing is left", 20, workers[0].log)
    for worker in workers:
        assert worker.process.poll() is None, worker.log.read_text()
    assert sorted(lines(ledger, "start")) == sorted(task.id for task in sent)
    client.close()


def test_a_retry_while_redis_is_away_is_no_lost_task(
    mortal_redis: Redis, start_worker: Callable, ledger: Path
) -> None:
    client = Celery(broker=mortal_redis.url(0), backend=mortal_redis.url(1))
    worker = start_worker(broker=mortal_redis.url(0), RESULTS=mortal_redis.url(1), **SHORT).ready()
    # Its id alone: a result of Celery before 5.6 that is freed without Redis raises.
    task_id = client.send_task("again", (2, 1, str(ledger))).id
    wait_until(lambda: lines(ledger, "start"), "it runs", log=worker.log)
    mortal_redis.stop()
    wait_until(lambda: "Reject" in worker.log.read_text(), "it cannot", 30, worker.log)
    mortal_redis.start()
    wait_until(lambda: lines(ledger, "end"), "it ends", 40, worker.log)
    assert lines(ledger, "end") == [task_id]
    wait_until(lambda: nothing_is_held(mortal_redis), "nothing is left", 10, worker.log)
    client.close()


def test_a_reset_connection_starts_nothing_twice(
    client: Celery, redis_server: Redis, start_worker: Callable, ledger: Path
) -> None:
    worker = start_worker(concurrency=2, **SHORT).ready()
    running = client.send_task("note", (8, str(ledger)))
    later = client.send_task("note", (0, str(ledger)), countdown=6)
    wait_until(lambda: lines(ledger, "start"), "it runs", log=worker.log)
    sent = [running, later]
    for times in (1, 2):
        redis_server.client().client_kill_filter(_type="normal", skipme=True)
        wait_until(partial(lost, worker, times), "the loss is noticed", 10, worker.log)
        sent.append(client.send_task("note", (0, str(ledger))))
        sent[-1].get(timeout=20)
    running.get(timeout=20)
    later.get(timeout=20)
    wait_until(lambda: nothing_is_held(redis_server), "nothing is left", 10, worker.log)
    assert sorted(lines(ledger, "start")) == sorted(task.id for task in sent)
    assert worker.process.poll() is None


def test_a_network_cut_longer_than_the_lease(
    client: Celery, redis_server: Redis, start_worker: Callable, ledger: Path
) -> None:
    with Wire(redis_server.port) as wire:
        options = {
            **SHORT,
            "broker": redis_server.url(0).replace(str(redis_server.port), str(wire.port)),
        }
        workers = [start_worker(concurrency=2, **options).ready() for _ in range(2)]
        sent = [client.send_task("note", (seconds, str(ledger))) for seconds in (3, 12)]
        wait_until(lambda: len(lines(ledger, "start")) == 2, "two run", log=workers[0].log)
        wire.whole.clear()
        sent += [client.send_task("note", (0, str(ledger))) for _ in range(5)]
        time.sleep(7)  # the cut: more than three leases
        wire.whole.set()
        wait_until(lambda: len(lines(ledger, "end")) == 7, "all end", 30, workers[0].log)
        wait_until(lambda: nothing_is_held(redis_server), "nothing is left", 10, workers[0].log)
        assert sorted(lines(ledger, "start")) == sorted(task.id for task in sent)


def test_an_answer_that_never_arrived_is_no_lost_task(
    client: Celery, redis_server: Redis, start_worker: Callable, ledger: Path
) -> None:
    task = client.send_task("note", (0, str(ledger)))
    # A worker that dies between taking a message and hearing of it.
    gone = LeaseStore(redis_server.client(), "", "unacked", "unacked_index", "gone")
    assert redis_server.client().execute_command(*gone.take_command(["celery"])) is not None
    assert redis_server.client().llen("celery") == 0
    start_worker(**SHORT)
    task.get(timeout=20)
    assert lines(ledger, "start") == [task.id]


def test_a_warm_shutdown_keeps_the_lease_to_the_end(
    client: Celery, redis_server: Redis, start_worker: Callable, ledger: Path
) -> None:
    first = start_worker(**SHORT).ready()
    task = client.send_task("note", (7, str(ledger)))
    wait_until(lambda: lines(ledger, "start"), "it runs", log=first.log)
    start_worker(**SHORT).ready()
    first.signal(signal.SIGTERM)
    assert first.wait(20) == 0
    assert lines(ledger, "start") == lines(ledger, "end") == [task.id]
    assert nothing_is_held(redis_server)


def test_another_broker_is_refused_in_words(start_worker: Callable) -> None:
    worker = start_worker(broker="filesystem://")
    words = "no lease: the lease needs Redis as broker, and it is filesystem"
    wait_until(lambda: words in worker.log.read_text(), "it says so", log=worker.log)


def test_a_broker_that_needs_no_lease_is_none_to_speak_of(start_worker: Callable) -> None:
    worker = start_worker(broker="memory://").ready()
    assert "no lease" not in worker.log.read_text()
