"""Entries of a worker's `active` list whose tasks have ended: what proves it, and what does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery import drain, stranded
from ansible_collections.crisper.stack.plugins.module_utils.celery.busy import pool_of
from ansible_collections.crisper.stack.plugins.module_utils.celery.stale import (
    LOST,
    PREFORK,
    SETTLED,
    entry_key,
    outcome,
    split,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.stranded import (
    Answers,
    Judgement,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.unacked import Message
from ansible_collections.crisper.stack.plugins.module_utils.deploy.status import (
    stale_tasks,
    worker_rows,
)
from ansible_collections.crisper.stack.plugins.module_utils.probes import drain as drain_probe
from ansible_collections.crisper.stack.plugins.module_utils.probes import unacked as unacked_probe
from ansible_collections.crisper.stack.plugins.module_utils.probes.results import unix
from hypothesis import given
from hypothesis import strategies as st

NODE = "w@a"


def entry(task_id: str = "1", since: Any = 100.0, pid: Any = 7, **more: Any) -> dict[str, Any]:
    own = {"id": task_id, "name": "nap", "time_start": since, "worker_pid": pid}
    return {**own, "acknowledged": False, **more}


def stats(*processes: Any, kind: str = PREFORK) -> dict[str, Any]:
    return {"pool": {"implementation": kind, "processes": list(processes)}}


def ids(entries: list[dict[str, Any]]) -> list[str]:
    return [one["id"] for one in entries]


THREADS = {"pool": {"implementation": "celery.concurrency.thread:TaskPool", "threads": 2}}


@pytest.mark.parametrize(
    ("active", "pool", "running", "ended", "gone"),
    [
        ([entry()], stats(7, 8), "1", "", ""),
        ([entry("1"), entry("2", pid=8)], stats(7, 8), "12", "", ""),
        # One process runs one task: the newest.
        ([entry("2", 105.0), entry("1")], stats(7, 8), "2", "1", ""),
        ([entry("2", 105.0), entry("3", 110.0), entry("1")], stats(7), "3", "21", ""),
        # Nobody knows which of two that began at the same moment.
        ([entry("1"), entry("2")], stats(7), "12", "", ""),
        # Its process is gone.
        ([entry(pid=9)], stats(7, 8), "", "", "1"),
        ([entry("1", pid=9), entry("2", 105.0, pid=9)], stats(7), "", "1", "2"),
        # A task that was delivered again to the same worker.
        ([entry("1"), entry("1", 200.0, pid=8), entry("2", 150.0)], stats(7, 8), "12", "1", ""),
        # Without evidence everything runs.
        ([entry(since=None)], stats(8), "1", "", ""),
        ([entry(since=True)], stats(8), "1", "", ""),
        ([entry(pid=None)], stats(8), "1", "", ""),
        ([entry(pid=True)], stats(8), "1", "", ""),
        ([entry("1"), entry("2", 105.0)], None, "12", "", ""),
        ([entry("1"), entry("2", 105.0)], {"error": "x"}, "12", "", ""),
        ([entry("1"), entry("2", 105.0)], stats(), "12", "", ""),
        ([entry("1"), entry("2", 105.0)], stats("7"), "12", "", ""),
        # Threads and greenlets have the worker's own process, several at once.
        ([entry("1"), entry("2", 105.0)], THREADS, "12", "", ""),
        ([entry("1"), entry("2", 105.0)], stats(7, kind="app.pool:Mine"), "12", "", ""),
    ],
)
def test_what_a_pool_tells_of_its_entries(active, pool, running, ended, gone):
    found = split(active, pool)
    assert [sorted(ids(part)) for part in found] == [sorted(running), sorted(ended), sorted(gone)]


PIDS = st.sampled_from([1, 2, 3, None, True, "1"])
TIMES = st.sampled_from([None, 1, 2.5, 3.0, float("nan"), True, "1"])
ENTRIES = st.lists(st.builds(entry, st.sampled_from("abc"), TIMES, PIDS), max_size=6)
JSON = st.none() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
POOLS = JSON | st.builds(
    lambda processes, kind: {"pool": {"implementation": kind, "processes": processes}},
    JSON,
    st.sampled_from([PREFORK, "other", None]),
)


@given(ENTRIES, POOLS)
def test_every_entry_is_of_one_kind_and_no_newest_of_a_living_process_has_ended(active, pool):
    running, ended, gone = split([*active, None, 7], pool)
    assert len(running) + len(ended) + len(gone) == len(active)
    living = pool["pool"]["processes"] if isinstance(pool, dict) else []
    for one in ended:
        assert any(
            other["worker_pid"] == one["worker_pid"] and other["time_start"] > one["time_start"]
            for other in active
            if isinstance(other["time_start"], (int, float))
        )
    assert all(one["worker_pid"] not in living for one in gone)


DONE = {"status": "SUCCESS", "date_done": "1970-01-01T00:02:00+00:00"}


@pytest.mark.parametrize(
    ("one", "meta", "delivered", "status"),
    [
        (entry(), DONE, 90.0, "SUCCESS"),
        (entry(), {**DONE, "worker": NODE}, 90.0, "SUCCESS"),
        (entry(), {**DONE, "status": "FAILURE", "traceback": "Traceback"}, 90.0, "FAILURE"),
        # Delivered again since it began: another worker may have run it.
        (entry(), DONE, 101.0, ""),
        (entry(), {**DONE, "worker": "w@b"}, 90.0, ""),
        # Of an earlier task with that id.
        (entry(since=121.0), DONE, 90.0, ""),
        # A task may store states of its own while it runs.
        (entry(), {**DONE, "status": "FAILURE", "traceback": None}, 90.0, ""),
        (entry(), {**DONE, "status": "RETRY"}, 90.0, ""),
        (entry(), {**DONE, "status": "STARTED"}, 90.0, ""),
        (entry(), {"status": "SUCCESS"}, 90.0, ""),
        (entry(), {**DONE, "date_done": "soon"}, 90.0, ""),
        (entry(), None, 90.0, ""),
        (entry(since=None), DONE, 90.0, ""),
        (entry(acknowledged=True), DONE, 90.0, ""),
        (entry(acknowledged=None), DONE, 90.0, ""),
        (7, DONE, 90.0, ""),
    ],
)
def test_what_a_result_tells_of_a_run(one, meta, delivered, status):
    assert outcome(one, NODE, meta, delivered, unix) == status


# --- a drain ---------------------------------------------------------------------------------


def report(*active: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"active_queues": [], "active": list(active), "reserved": [], **more}


def heard(*reports: dict[str, Any], results: Any = None) -> drain.Drain:
    """Return the book after polls a second apart; results come before the second."""
    book = drain.Drain([NODE], silent_after=30)
    for number, one in enumerate(reports):
        book.hear(NODE, one, float(number), 1000.0)
        if results and number == 0:
            book.take_results({"1": results}, {"1": 90.0}, unix, float(number))
    return book


def test_a_drain_does_not_wait_for_what_has_ended():
    """Regression: it waited for celery_drain_timeout, 300 s."""
    two = report(entry("1"), entry("2", 105.0), stats=stats(7, 8))
    book = heard(two, two)
    assert [task["id"] for task in book.summary(1000.0)["unfinished"]] == ["2"]
    # The newer one ends, and its process stands idle: what was seen is remembered.
    alone = report(entry("1"), stats=stats(7, 8))
    book.hear(NODE, alone, 3.0, 1000.0)
    book.hear(NODE, alone, 4.0, 1000.0)
    summary = book.summary(1000.0)
    assert (summary["done"], summary["unfinished"]) == ([NODE], [])
    assert summary["stale"] == [{"id": "1", "name": "nap", "node": NODE}]
    again = drain.Drain([NODE], silent_after=30)
    again.recall(book)
    again.hear(NODE, alone, 5.0, 1000.0)
    assert again.summary(1000.0)["unfinished"] == []


def test_a_drain_waits_for_an_acknowledgement_that_is_on_its_way():
    one = report(entry("1"))
    early = heard(one, one, results=DONE)
    assert [task["id"] for task in early.summary(1000.0)["unfinished"]] == ["1"]
    late = heard(*[one] * (int(SETTLED) + 2), results=DONE)
    assert (late.summary(1000.0)["done"], late.summary(1000.0)["unfinished"]) == ([NODE], [])
    # Without a result it runs.
    book = heard(*[one] * 9)
    assert not book.finished()
    assert book.summary(1000.0)["stale"] == []


def test_processes_are_asked_for_while_something_runs_that_is_not_acknowledged():
    assert not heard(report()).wants_pool()
    assert not heard(report(entry(acknowledged=True))).wants_pool()
    assert heard(report(entry())).wants_pool()
    assert not heard(report(), report()).wants_pool()


def test_a_task_that_runs_again_on_the_same_worker_is_waited_for():
    book = heard(*[report(entry("1"))] * 5, results=DONE)
    other = drain.Drain([NODE], silent_after=30)
    other.recall(book)
    other.hear(NODE, report(entry("1"), entry("1", 400.0, pid=8)), 9.0, 1000.0)
    assert [task["id"] for task in other.summary(1000.0)["unfinished"]] == ["1"]
    assert len({entry_key(entry("1")), entry_key(entry("1", 400.0, pid=8))}) == 2


@pytest.mark.parametrize("messages", [[], [90.0], [90.0, 95.0], None])
def test_what_redis_does_not_tell_ends_no_drain(messages, monkeypatch):
    """A message that is gone was acknowledged, or delivered again and ended."""

    class Unacked:
        def __init__(self, *_):
            if messages is None:
                raise PermissionError("NOPERM")

        def tags(self, _grace):
            return messages, True

        def read(self, tags, _deadline):
            return [message("1", score) for score in tags]

        delivered = unacked_probe.Unacked.delivered

    monkeypatch.setattr(drain_probe, "Unacked", Unacked)
    monkeypatch.setattr(drain_probe, "read_results", lambda _app, ids: dict.fromkeys(ids, DONE))
    monkeypatch.setattr(drain_probe, "count_held", lambda _: len(messages or ()))
    monkeypatch.setattr(drain_probe.time, "monotonic", lambda: 1.0)
    book = heard(report(entry("1")))
    connection = SimpleNamespace(transport=SimpleNamespace(driver_type="redis"))
    drain_probe.look_at_results(None, connection, book)
    book.hear(NODE, report(entry("1")), 1.0 + SETTLED, 1000.0)
    proved = messages is not None and len(messages) < 2
    assert bool(book.summary(1000.0)["stale"]) is proved
    other = SimpleNamespace(transport=SimpleNamespace(driver_type="amqp"))
    drain_probe.look_at_results(None, other, heard(report(entry("1"))))


# --- busy pools, stranded messages, words ------------------------------------------------------


def test_a_process_with_an_entry_of_an_ended_task_is_no_busy_one():
    """Regression: a pool counted as full, of which one process was idle."""
    active = [entry("1"), entry("2", 105.0)]
    found = pool_of({"active": active, "active_queues": [], "stats": stats(7, 8)}, 0.0, 1000.0, {})
    assert (list(found.running), found.processes, found.full) == (["2"], 2, False)


def judged(active: list[Any], pool: Any, *messages: Message) -> tuple[Judgement, Answers]:
    replies: dict[str, list[Any]] = {"ping": [(NODE, {})], "reserved": [(NODE, [])]}
    replies |= {"active": [(NODE, active)], "registered": [(NODE, [])], "stats": [(NODE, pool)]}
    answers = Answers(replies, 1, [NODE])
    judgement = Judgement()
    for one in messages:
        judgement.add(one, answers)
    return judgement, answers


def message(task_id: str, score: float = 90.0) -> Message:
    return Message("tag-" + task_id, [str(score), 0, 10, task_id, "nap", ""])


def test_an_entry_of_an_ended_task_makes_its_message_unknown():
    """Regression: it counted as known, was not put back, and ran again after hours."""
    active = [entry("1"), entry("2", 105.0), entry("3", pid=9)]
    messages = [message(task_id) for task_id in "123"]
    judgement, answers = judged(active, stats(7, 8), *messages)
    assert [one.id for one in judgement.unknown] == ["1", "3"]
    assert (answers.stale, answers.lost_process, answers.blind) == ({"1", "3"}, True, [])
    judgement, answers = judged(active, THREADS, *messages)
    assert (judgement.unknown, judgement.known, answers.stale) == ([], 3, set())
    # Run again by the same worker: known.
    twice = [entry("1"), entry("2", 105.0), entry("1", 110.0, pid=8)]
    judgement, answers = judged(twice, stats(7, 8), message("1"))
    assert (judgement.known, answers.stale) == (1, set())
    assert LOST > 10  # seconds that billiard waits for the result of a lost process


def test_a_message_whose_run_has_a_result_is_told_although_it_is_listed():
    judgement, answers = judged([entry("1"), entry("2")], stats(7, 8), message("1"), message("2"))
    over = stranded.ended_runs(judgement.active, answers.active, {"1": DONE}, unix)
    assert [one.id for one in over] == ["1"]
    # Two messages of one id: nobody knows whose result it is.
    judgement, answers = judged([entry("1")], stats(7), message("1"), message("1", 95.0))
    assert stranded.ended_runs(judgement.active, answers.active, {"1": DONE}, unix) == []
    judgement, answers = judged([entry("1")], stats(7), message("1", 101.0))
    assert stranded.ended_runs(judgement.active, answers.active, {"1": DONE}, unix) == []


@pytest.mark.parametrize(
    ("active", "more", "restarted", "worth"),
    [
        ([entry("1")], {}, None, False),
        ([entry("1")], {}, 99.0, False),
        # It ran when Redis was restarted: its end may not be acknowledged.
        ([entry("1")], {}, 101.0, True),
        ([entry("1", acknowledged=True)], {}, 101.0, True),  # held, and nobody tells of it
        ([entry("1")], {"conf": {"worker_consumer": "crisper_worker.x:C"}}, 101.0, False),
        ([entry("1")], {"conf": {"worker_consumer": "celery.x:C"}}, 101.0, True),
        ([entry("1")], {}, "soon", False),
        ([entry("1"), entry("2", 105.0)], {"stats": stats(7)}, None, False),
        ([entry("1", pid=9)], {"stats": stats(7)}, None, True),
    ],
)
def test_what_is_worth_a_look_after_a_restart(active, more, restarted, worth):
    nodes = {NODE: {"active": active, **more}}
    assert stranded.suspected({"held": 1, "nodes": nodes, "restarted": restarted}) is worth
    assert not stranded.suspected({"held": 0, "nodes": nodes, "restarted": restarted})


def test_what_a_status_and_a_summary_tell():
    replies = {"active": [entry("1"), entry("2", 105.0)], "reserved": [], "stats": stats(7)}
    (row,) = worker_rows({NODE: replies})
    assert row.startswith("w@a  1 active and 1 listed that ended, 0 reserved")
    task = {"id": "1", "name": "nap", "node": NODE}
    assert stale_tasks([task, task]) == (
        "1 task that old workers listed as running had ended and was not waited for: nap 1"
    )
    assert stale_tasks([task, {**task, "id": "2"}]).startswith("2 tasks that old workers listed")
    assert stale_tasks([]) == stale_tasks(None) == stale_tasks("x") == ""
