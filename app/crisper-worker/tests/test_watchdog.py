"""A worker that no longer consumes ends; one that merely waits for its broker does not."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from celery import Celery
from crisper_worker.consuming import STUCK
from crisper_worker.watchdog import TURNS, Beats, Watchdog
from hypothesis import given
from hypothesis import strategies as st
from testkit import Redis, lines, wait_until

SOON = {"CELERY_REPLACE_SECONDS": "6"}
ROUNDS = 10
rounds = st.tuples(st.booleans(), st.booleans(), st.booleans())  # turns, beats, broker answers


@given(st.lists(rounds, max_size=60))
def test_it_ends_after_so_many_silent_rounds_with_a_broker_and_not_before(seen: list) -> None:
    beats, ways, broker = Beats(turns=1, good=1), [], [True]
    dog = Watchdog(
        beats,
        seconds=ROUNDS,
        interval=1,
        answers=lambda: broker[0],
        shut_down=lambda: ways.append("shut_down"),
        leave=lambda: ways.append("leave"),
    )
    assert not dog.ended()
    for number, (turns, beat, answers) in enumerate(seen, 1):
        turns = turns or beat  # only a turn beats
        beats.turns += turns
        beats.good += beat
        broker[0] = answers
        silent = [not b and a for _, b, a in seen[max(0, number - ROUNDS) : number]]
        expected = len(silent) == ROUNDS and all(silent)
        assert dog.ended() == expected
        if expected:
            stood = not any(t or b for t, b, _ in seen[number - TURNS : number])
            assert ways == ["leave" if stood else "shut_down"]
            return
    assert ways == []


def test_it_does_not_begin_before_the_first_heartbeat_and_leaves_a_drain_alone() -> None:
    beats, ways = Beats(), []

    def end() -> None:
        ways.append("ended")

    dog = Watchdog(beats, seconds=2, interval=1, answers=lambda: True, shut_down=end, leave=end)
    assert not any(dog.ended() for _ in range(9))
    beats.good, beats.draining = 1, True
    assert dog.ended()
    assert ways == []


@pytest.mark.parametrize("fault", ["lose_consumer", "stop_asking"])
def test_it_ends_when_what_runs_has_ended(
    client: Celery, start_worker: Callable, ledger: Path, fault: str
) -> None:
    worker = start_worker(**SOON).ready()
    task = client.send_task("note", (12, str(ledger)))
    wait_until(lambda: lines(ledger, "start"), "a task runs", log=worker.log)
    client.control.broadcast(fault)
    if fault == "lose_consumer":  # a full worker does not ask, and need not
        assert worker.wait(40) == STUCK
        assert lines(ledger, "start") == lines(ledger, "end") == [task.id]
        assert "it finishes what runs" in worker.log.read_text()
    else:
        task.get(timeout=20)
        assert worker.wait(40) == STUCK


def test_it_leaves_at_once_when_the_event_loop_stands_still(
    client: Celery, start_worker: Callable
) -> None:
    worker = start_worker(**SOON).ready()
    client.control.broadcast("stand_still")
    assert worker.wait(20) == STUCK
    assert "its event loop stands still" in worker.log.read_text()


def test_a_standstill_and_an_outage_end_nothing(
    client: Celery, start_worker: Callable, tmp_path: Path
) -> None:
    (tmp_path / "redis").mkdir()
    own = Redis(tmp_path / "redis")
    own.start()
    try:
        worker = start_worker(broker=own.url(), CELERY_REPLACE_SECONDS="9").ready()
        worker.signal(signal.SIGSTOP)
        time.sleep(11)  # the standstill: longer than it takes to be replaced
        worker.signal(signal.SIGCONT)
        wait_until(lambda: worker.healthy(age=1), "it beats again", 10, worker.log)
        own.stop()
        # Celery may notice it in an event that it sends: its loop stands still then until the end.
        wait_until(lambda: not worker.healthy(age=3), "its heartbeat is old", 10, worker.log)
        time.sleep(8)  # the outage
        own.start()
        back = worker.heartbeat.read_text()
        wait_until(
            lambda: worker.state() == "ok" and worker.heartbeat.read_text() != back,
            "it consumes again",
            40,
            worker.log,
        )
        assert "ends" not in worker.log.read_text()
    finally:
        own.stop()
