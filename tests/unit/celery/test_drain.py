"""When workers are drained, what of the broker a release does not know, and how sources travel."""

from __future__ import annotations

import base64
import json

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery import drain, skew
from ansible_collections.crisper.stack.plugins.module_utils.celery.drain import (
    Drain,
    Resume,
    next_pause,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.skew import (
    Tally,
    bound_queue,
    next_batch,
    task_name,
)
from hypothesis import given
from hypothesis import strategies as st

WALL = 1000.0  # time of day


def report(queues=(), active=(), reserved=(), scheduled=0):
    def tasks(ids):
        return [{"id": i, "name": "nap", "time_start": 100.0, "args": ["secret"]} for i in ids]

    return {
        "active_queues": [{"name": queue} for queue in queues],
        "active": tasks(active),
        "reserved": tasks(reserved),
        "scheduled": [{}] * scheduled,
    }


IDLE = report()
# (reports of one worker, one per poll; drained at the end?; told)
SEQUENCES = {
    "idle": ([report(["one"]), IDLE, IDLE], True, ["one"]),
    "one empty look is not enough": ([report(["one"]), IDLE], False, ["one"]),
    "already cancelled": ([IDLE, IDLE], True, []),
    "busy": ([report(["one"], ["a"]), report(active=["a"])], False, ["one"]),
    "reserved beside what runs": ([report(active=["a"], reserved=["b"])] * 2, True, []),
    "reserved, and not left": ([report(["one"], ["a"], ["b"])] * 2, False, ["one"]),
    "reserved once": ([report(active=["a"], reserved=["b"]), report(active=["a"])], False, []),
    "a late message between two looks": ([IDLE, report(active=["a"]), IDLE], False, []),
    "then empty twice": ([IDLE, report(active=["a"]), IDLE, IDLE], True, []),
    "ETA tasks do not count": ([report(scheduled=3), report(scheduled=3)], True, []),
    "restarted, consumes again": ([IDLE, report(["one"]), IDLE], False, ["one"]),
    "two queues": ([report(["one", "two"]), report(["two"]), IDLE, IDLE], True, ["one", "two"]),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_drained_or_not(name):
    reports, drained, told = SEQUENCES[name]
    book = Drain(["w@a"], silent_after=10)
    for number, one in enumerate(reports):
        book.hear("w@a", one, float(number), WALL)
    assert book.finished() is drained
    result = book.summary(wall=107.0)
    assert result["done"] == (["w@a"] if drained else [])
    assert result["queues"] == ({"w@a": told} if told else {})


def test_the_longest_task_that_was_waited_for_is_known():
    first, book = Drain(["w@a"], silent_after=10), Drain(["w@a"], silent_after=10)
    first.hear("w@a", report(["one"], ["a"]), 1.0, 105.25)
    book.recall(first)
    told = book.summary(wall=106.0)
    assert (told["longest"], told["queues"]) == (5.2, {"w@a": ["one"]})
    book.hear("w@a", report(active=["a"]), 2.0, 118.0)
    book.hear("w@a", IDLE, 3.0, 119.0)
    assert book.summary(wall=120.0)["longest"] == 18.0


def test_unfinished_tasks_are_named_without_their_arguments():
    book = Drain(["w@a"], silent_after=10)
    book.hear("w@a", report(["one"], ["a"], ["b"], 2), 1.0, WALL)
    result = book.summary(wall=107.26)
    assert result["unfinished"] == [
        {"id": "a", "name": "nap", "node": "w@a", "seconds": 7.3, "state": "running"},
        {"id": "b", "name": "nap", "node": "w@a", "seconds": 7.3, "state": "waiting"},
    ]
    assert result["scheduled"] == 2
    assert "secret" not in json.dumps(result)


def test_a_clock_that_was_set_back_makes_no_negative_time():
    book = Drain(["w@a"], silent_after=10)
    book.hear("w@a", report(active=["a"]), 1.0, WALL)
    assert book.summary(wall=50.0)["unfinished"][0]["seconds"] == 0


def test_silence_ends_the_waiting_and_a_sign_of_life_ends_the_silence():
    book = Drain(["w@a", "x@a"], silent_after=10)
    for now in (1.0, 2.0):
        book.hear("x@a", IDLE, now, WALL)
    book.expire(9.9)
    assert not book.finished()
    book.expire(10.0)
    assert book.finished()
    assert book.polled() == ["w@a"]  # still asked, not awaited
    assert book.summary(0.0)["silent"] == ["w@a"]
    assert book.hear("w@a", report(["one"]), 11.0, WALL) == ["one"]
    assert not book.finished()
    assert book.summary(0.0)["silent"] == []


def test_a_worker_that_falls_silent_leaves_what_it_said_last():
    book = Drain(["w@a"], silent_after=10)
    book.hear("w@a", report(active=["a"]), 1.0, WALL)
    book.expire(11.0)
    result = book.summary(120.0)
    assert result["silent"] == ["w@a"]
    assert [task["id"] for task in result["unfinished"]] == ["a"]


def test_a_broker_that_was_away_is_nobodys_silence():
    book = Drain(["w@a"], silent_after=10)
    book.excuse(9.0)
    book.expire(15.0)
    assert not book.finished()


def test_strangers_are_not_heard():
    book = Drain(["w@a"], silent_after=10)
    assert book.hear("stranger@a", report(["one"]), 1.0, WALL) == []
    assert "stranger@a" not in book.summary(0.0)["nodes"]


def test_resumed_when_all_its_queues_are_consumed():
    book = Resume({"w@a": ["one", "two"]}, silent_after=10)
    assert book.hear("w@a", report(["three"]), 1.0, WALL) == ["one", "two"]
    assert book.hear("w@a", report(["three", "one"]), 2.0, WALL) == ["two"]
    assert not book.finished()
    assert book.hear("w@a", report(["three", "one", "two"]), 3.0, WALL) == []
    assert book.finished()
    assert book.summary(0.0)["queues"] == {"w@a": ["one", "two"]}


REPORTS = st.builds(
    report,
    st.lists(st.sampled_from(["one", "two"]), unique=True),
    st.lists(st.sampled_from("abc"), unique=True),
    st.lists(st.sampled_from("de"), unique=True),
    st.integers(0, 2),
)


@given(st.lists(st.tuples(st.sampled_from(["w@a", "x@a"]), REPORTS), max_size=30))
def test_drained_means_that_the_last_two_looks_say_so(polls):
    book = Drain(["w@a", "x@a"], silent_after=1e9)
    seen = {"w@a": [], "x@a": []}
    for number, (node, one) in enumerate(polls):
        before = book.nodes[node].done
        orders = book.hear(node, one, float(number), WALL)
        if not before:
            seen[node].append(one)
            assert orders == [queue["name"] for queue in one["active_queues"]]
        else:
            assert orders == []  # who is drained is left alone
    for node, reports in seen.items():
        idle = [not r["active_queues"] and (not r["active"] or r["reserved"]) for r in reports]
        idle = list(map(bool, idle))
        assert book.nodes[node].done == (idle[-2:] == [True, True])
    result = book.summary(200.0)
    assert set(result["done"]).isdisjoint(task["node"] for task in result["unfinished"])
    assert set(result["done"]).isdisjoint(result["silent"])


@given(st.floats(0.05, 5))
def test_polling_is_quick_first_and_never_slower_than_asked(longest):
    pauses = [drain.FIRST_PAUSE]
    for _ in range(20):
        pauses.append(next_pause(pauses[-1], longest))
    assert pauses[0] < 0.05
    assert pauses == sorted(pauses)
    assert pauses[-1] == longest


def test_tasks_with_an_eta_are_asked_for_once():
    book = Drain(["w@a", "w@b"], silent_after=10)
    book.unacked = 5
    assert book.wants_scheduled()
    book.hear("w@a", report(["one"], scheduled=3), 1.0, WALL)
    assert not book.wants_scheduled()
    without = {name: value for name, value in IDLE.items() if name != "scheduled"}
    book.hear("w@a", without, 2.0, WALL)
    result = book.summary(WALL)
    assert result["scheduled"] == 3
    assert result["nodes"]["w@a"]["scheduled"] == 3
    later = Drain(["w@a", "w@b"], silent_after=10)
    later.recall(book)
    assert not later.wants_scheduled()


def test_too_many_held_messages_are_counted_by_the_broker():
    book = Drain(["w@a"], silent_after=10)
    book.unacked = drain.MOST_HELD + 1
    assert not book.wants_scheduled()
    without = {**report(["one"], ["a"], ["b"])}
    del without["scheduled"]
    book.hear("w@a", without, 1.0, WALL)
    result = book.summary(WALL)
    assert result["scheduled"] == drain.MOST_HELD - 1
    assert result["nodes"]["w@a"]["scheduled"] is None


# --- skew ----------------------------------------------------------------------------------

BODY = base64.b64encode(json.dumps({"task": "old.one", "args": ["secret"]}).encode()).decode()
MESSAGES = [
    ({"headers": {"task": "app.one"}, "body": "…"}, "app.one"),
    (
        {
            "headers": {},
            "content-type": "application/json",
            "body": BODY,
            "properties": {"body_encoding": "base64"},
        },
        "old.one",
    ),
    (
        {"headers": None, "content-type": "application/json", "body": '{"task": "old.two"}'},
        "old.two",
    ),
    ({"headers": {}, "content-type": "application/x-python-serialize", "body": BODY}, None),
    (
        {
            "headers": {"compression": "application/x-gzip"},
            "content-type": "application/json",
            "body": BODY,
        },
        None,
    ),
    ({"headers": {"task": 7}, "content-type": "application/json", "body": "[]"}, None),
    ({}, None),
]


@pytest.mark.parametrize(("message", "name"), MESSAGES)
def test_task_names(message, name):
    assert task_name(message) == name


def test_tally():
    tally = Tally()
    message = {"headers": {"task": "app.gone"}}
    tally.add("one", json.dumps(message).encode())
    tally.add("left", json.dumps({"headers": {"task": "app.known"}}).encode())
    tally.add("unacked", json.dumps([message, "one", "one"]).encode())
    tally.add("one", b"\xff not json")
    assert tally.summary({"app.known"}, ["one"]) == {
        "waiting": {"left": {"app.known": 1}, "one": {"app.gone": 1}, "unacked": {"app.gone": 1}},
        "unknown": {"app.gone": 2},
        "unreadable": {"one": 1},
        "partial": {},
        "unlisted": False,
        "orphaned": {"left": 1},
    }


@given(
    st.sampled_from(["one", "unacked"]),
    st.one_of(
        st.binary(max_size=50),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(st.sampled_from(["headers", "task", "body"]), inner)
            ),
        ).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_whatever_lies_in_a_queue_is_counted_once(queue, raw):
    tally = Tally()
    tally.add(queue, raw)
    counted = sum(sum(names.values()) for names in tally.waiting.values())
    assert counted + sum(tally.unreadable.values()) == 1


def test_bindings():
    assert bound_queue(b"one\x06\x16\x06\x16one") == "one"
    assert bound_queue(b"\x06\x16\x06\x16w@a.celery.pidbox") == ""
    assert bound_queue(b"\x06\x16\x06\x16x.reply.celery.pidbox") == ""
    assert bound_queue(b"\x06\x16\x06\x16celeryev.1234") == ""


@given(st.integers(0, 2000), st.integers(0, 10**9))
def test_batches_are_bounded(size, length):
    batch = next_batch(size, length)
    assert 1 <= batch <= skew.LARGEST_BATCH
    assert not size or batch * (length / size) <= max(skew.BATCH_BYTES, length / size)


# --- the modules ---------------------------------------------------------------------------


def test_wrong_arguments(run_module):
    import celery_drain
    import celery_skew

    failed = run_module(celery_drain, app="a", container="c", nodes=["w@a"], timeout=0)
    assert "timeout is 0" in failed["msg"]
    assert run_module(celery_drain, app="a", container="c")["failed"]
    assert run_module(celery_drain, app="a", nodes=["w@a"])["failed"]
    nothing = run_module(celery_drain, app="a", container="c", nodes=[], docker_cli="/nowhere")
    assert (nothing["changed"], nothing["drained"]) == (False, [])
    assert run_module(celery_skew, app="a")["failed"]
    assert run_module(celery_skew, app="a", project_src="/tmp")["failed"]


def test_a_container_that_is_gone_is_one_clear_error(run_module, tmp_path):
    import celery_drain

    shim = tmp_path / "docker"
    shim.write_text("#!/bin/sh\necho 'Error: No such container: c' >&2\nexit 1\n")
    shim.chmod(0o755)
    result = run_module(celery_drain, app="a", container="c", nodes=["w@a"], docker_cli=str(shim))
    assert result["problem"] == "container_not_running"
    assert "No such container: c" in result["msg"]
    assert "docker compose up" in result["msg"]
