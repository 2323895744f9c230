"""Beat with the guard: its heartbeat, and a schedule that is text; real beats, a real Redis."""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from crisper_worker.__main__ import subcommand
from crisper_worker.beat import MOST_BYTES, last_runs
from hypothesis import given
from hypothesis import strategies as st
from testkit import Redis, wait_until

NOW = datetime(2026, 11, 28, tzinfo=UTC)


def sent(server: Redis) -> int:
    """How many tasks wait: nobody consumes them here."""
    return server.client().llen("celery")


@pytest.mark.parametrize("scheduler", ["", "celery.beat:PersistentScheduler"])
def test_it_beats_while_it_looks_at_its_schedule(
    start_beat: Callable, empty: Redis, scheduler: str
) -> None:
    """With a scheduler of the application's too, whose tasks are sent as ever."""
    beat = start_beat(EVERY="1", **({"SCHEDULER": scheduler} if scheduler else {}))
    wait_until(lambda: sent(empty) > 1, "tasks are sent", log=beat.log)
    assert beat.healthy(age=3)
    beat.signal(signal.SIGSTOP)
    wait_until(lambda: not beat.healthy(age=2), "unhealthy after SIGSTOP", 8)
    beat.signal(signal.SIGCONT)
    wait_until(lambda: beat.healthy(age=1), "healthy after SIGCONT", 8)


def test_it_beats_with_nothing_to_send(start_beat: Callable) -> None:
    beat = start_beat()
    wait_until(lambda: beat.healthy(age=3), "healthy", log=beat.log)
    began = beat.heartbeat.read_text()
    wait_until(lambda: beat.heartbeat.read_text() != began, "it goes on", 8, beat.log)


@pytest.mark.parametrize("killed", [False, True])
def test_a_task_that_is_due_while_the_broker_is_away_is_sent_later(
    start_beat: Callable, tmp_path: Path, killed: bool
) -> None:
    """Celery's own scheduler takes it for sent: a nightly task waits for the next night."""
    (tmp_path / "redis").mkdir()
    own = Redis(tmp_path / "redis")
    own.start()
    own.stop()
    due = {"last_run_at": "2026-01-01T00:00:00+00:00", "total_run_count": 6}
    (tmp_path / "schedule").write_text(json.dumps({"often": due}))
    # As in a stack: results are in the same Redis.
    options = {"broker": own.url(0), "RESULTS": own.url(1), "EVERY": "3600"}
    beat = start_beat(**options)
    try:
        told = "often (note) waits for the broker"
        wait_until(lambda: told in beat.log.read_text(), "it is said", 20, beat.log)
        if killed:
            beat.signal(signal.SIGKILL)
            beat.wait(10)
            beat = start_beat(**options)
            wait_until(lambda: told in beat.log.read_text(), "it is due still", 20, beat.log)
        wait_until(lambda: beat.healthy(age=3), "it beats meanwhile", 8, beat.log)
        own.start()
        wait_until(lambda: own.client().llen("celery"), "it is sent", 8, beat.log)
        wait_until(
            lambda: json.loads((tmp_path / "schedule").read_text())["often"] != due, "written", 3
        )
        assert own.client().llen("celery") == 1
        assert beat.log.read_text().count(told) == 1
    finally:
        own.stop()


def test_a_queue_that_takes_nothing_holds_up_no_other(start_beat: Callable, empty: Redis) -> None:
    empty.client().set("odd", "no list")
    beat = start_beat(EVERY="1", BLOCKED="odd")
    wait_until(lambda: sent(empty) > 2, "the other one is sent", log=beat.log)
    assert "blocked (note) waits for the broker" in beat.log.read_text()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_next_beat_goes_on_where_this_one_ended(
    start_beat: Callable, empty: Redis, tmp_path: Path, end: signal.Signals
) -> None:
    """Killed as well: what was sent is written at once, or it would be sent again."""
    schedule = tmp_path / "schedule"
    schedule.write_text(
        json.dumps({"often": {"last_run_at": "2026-01-01T00:00:00+00:00", "total_run_count": 6}})
    )
    beat = start_beat(EVERY="3600")  # due since January
    wait_until(lambda: sent(empty), "the task is sent", log=beat.log)
    written = wait_until(
        lambda: (
            (found := json.loads(schedule.read_text())["often"])["total_run_count"] == 7 and found
        ),
        "the run is written",
        3,
        beat.log,
    )
    beat.signal(end)
    beat.wait(10)
    after = start_beat(EVERY="3600")
    wait_until(lambda: after.healthy(age=3), "the next one beats", log=after.log)
    assert json.loads(schedule.read_text())["often"] == written
    assert sent(empty) == 1


def test_nothing_that_was_left_in_its_volume_runs(
    start_beat: Callable, empty: Redis, tmp_path: Path
) -> None:
    """Celery's own scheduler would run what a pickle says: in each later release again."""
    marker = tmp_path / "ran"

    class Planted:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"touch {marker}",)

    schedule = tmp_path / "schedule"
    schedule.write_bytes(pickle.dumps(Planted()))
    beat = start_beat(EVERY="1")
    wait_until(lambda: sent(empty) > 1, "tasks are sent", log=beat.log)
    assert not marker.exists()
    assert "is not read" in beat.log.read_text()
    assert json.loads(schedule.read_text())["often"]["total_run_count"] > 0


@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_in_its_volume_is_not_in_the_way(
    start_beat: Callable, empty: Redis, tmp_path: Path, put: Callable
) -> None:
    put(tmp_path / "schedule", mode=0o100)
    put(tmp_path / "schedule.part", mode=0o100)
    beat = start_beat(EVERY="1")
    wait_until(lambda: sent(empty) > 1, "tasks are sent", log=beat.log)
    assert json.loads((tmp_path / "schedule").read_text())["often"]["total_run_count"] > 0


@pytest.mark.parametrize(
    ("moved", "again"),
    [(None, 0), (1_600_000_000, 1), (4_000_000_000, 1)],
    ids=["it ran last", "it ran before", "its date was set by hand"],
)
def test_what_celery_s_own_scheduler_sent_is_not_sent_again(
    start_beat: Callable, empty: Redis, tmp_path: Path, moved: int | None, again: int
) -> None:
    """A release of before ran last: its file has moved since, and was written after all it sent."""
    schedule, pickled = tmp_path / "schedule", tmp_path / "beat-schedule.db"
    runs = {"often": {"last_run_at": "2026-01-01T00:00:00+00:00", "total_run_count": 6}}
    pickled.touch()
    schedule.write_text(json.dumps(runs))
    os.utime(schedule, (1_700_000_000,) * 2)
    if moved:
        os.utime(pickled, (moved,) * 2)
    beat = start_beat(EVERY="3600")
    wait_until(lambda: beat.healthy(age=3), "it beats", log=beat.log)
    wait_until(lambda: json.loads(schedule.read_text()) != runs, "it has looked", 5, beat.log)
    assert sent(empty) == again


def test_a_schedule_that_cannot_be_written_stops_no_task(
    start_beat: Callable, empty: Redis, tmp_path: Path
) -> None:
    beat = start_beat(EVERY="1", schedule=tmp_path / "not there" / "schedule")
    wait_until(lambda: sent(empty) > 2, "tasks are sent", log=beat.log)
    assert "could not be written" in beat.log.read_text()
    assert beat.healthy(age=3)


@given(
    st.binary()
    | st.recursive(
        st.none() | st.integers() | st.text() | st.floats(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("last_run_at"), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_file_ends_beat(text: bytes) -> None:
    try:
        found = last_runs(text, NOW)
    except ValueError:
        return
    assert all(last.year >= 2000 and count >= 0 for last, count in found.values())


@pytest.mark.parametrize(
    ("entry", "count"),
    [
        ({"last_run_at": "2026-11-27T10:00:00+00:00", "total_run_count": 3}, 3),
        ({"last_run_at": "2026-11-27T10:00:00+00:00", "total_run_count": True}, 0),
        ({"last_run_at": "2026-11-27T10:00:00+00:00", "total_run_count": 2**53}, 0),
        ({"last_run_at": "2026-11-27T10:00:00+00:00"}, 0),
    ],
)
def test_a_last_run_is_read(entry: dict[str, object], count: int) -> None:
    text = json.dumps({"a": entry}).encode()
    assert last_runs(text, NOW) == {"a": (datetime(2026, 11, 27, 10, tzinfo=UTC), count)}


@pytest.mark.parametrize(
    "last",
    [
        (NOW + timedelta(days=1)).isoformat(),
        "2026-11-27T10:00:00",
        "0001-01-01T00:00:00+00:00",
        "0001-01-01T00:00:00+23:00",
        "soon",
        None,
        7,
        {},
    ],
)
def test_what_is_no_last_run_is_passed_over(last: object) -> None:
    assert last_runs(json.dumps({"a": {"last_run_at": last}}).encode(), NOW) == {}


def test_a_file_that_is_too_large_is_not_read() -> None:
    with pytest.raises(ValueError, match="more than"):
        last_runs(b" " * (MOST_BYTES + 1), NOW)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["-A", "beat", "worker"], "worker"),
        (["-A", "shop", "beat", "--pidfile="], "beat"),
        (["--app=shop", "-q", "beat"], "beat"),
        (["--app", "shop"], ""),
        (["-A"], ""),
        ([], ""),
    ],
)
def test_the_subcommand_is_found_among_options(words: list[str], found: str) -> None:
    assert subcommand(words) == found
