"""Whether a pool that has not run a canary is busy or broken, by what its workers answered."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery.busy import (
    BUSY,
    FREE,
    MARGIN,
    OVERDUE,
    RUNNING,
    SILENT,
    STILL,
    UNCONSUMED,
    Pool,
    describe_busy,
    duration,
    judge,
    own_limits,
    pool_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st

CANARY = "canary"
NOW = 1_000_000.0


def pool(at: float = 0.0, *tasks: str, **more: Any) -> Pool:
    """A worker of two processes that consumes `q` and runs these tasks for 50 s each."""
    running = {task: {"name": "nap", "seconds": 50.0, "limit": 0.0} for task in tasks}
    facts: dict[str, Any] = {"at": at, "queues": ["q"], "processes": 2, "running": running}
    return Pool(**{**facts, "reserved": set(), "begun": len(tasks), "limit": 3600.0, **more})


def full(at: float = 0.0, **more: Any) -> Pool:
    return pool(at, "a", "b", **more)


def late(at: float = 0.0, seconds: float = 3600 + MARGIN + 1, **more: Any) -> Pool:
    """A full pool whose tasks run for so long."""
    found = full(at, **more)
    for task in found.running.values():
        task["seconds"] = seconds
    return found


@pytest.mark.parametrize(
    ("looks", "kind", "nodes"),
    [
        # nobody answers; somebody does, and does not consume the queue
        ([], SILENT, []),
        ([{}, {}], SILENT, []),
        ([{"x": full(queues=["other"])}] * 2, UNCONSUMED, []),
        ([{"x": full(queues=["q", "other"])}, {"x": full(1, queues=["other"])}], UNCONSUMED, []),
        # every process is busy at two looks
        ([{"x": full()}, {"x": full(1)}], BUSY, ["x"]),
        ([{"x": pool()}, {"x": full(1)}, {"x": full(2)}], BUSY, ["x"]),
        ([{"x": full(), "y": full()}, {"x": full(1), "y": full(1)}], BUSY, ["x", "y"]),
        # more run than there are processes: a pool that was made smaller
        ([{"x": full(processes=1)}, {"x": full(1, processes=1)}], BUSY, ["x"]),
        # a process is free at one of the last two looks, of whichever worker
        ([{"x": full()}, {"x": pool(1, "a")}], FREE, ["x"]),
        ([{"x": pool(0, "a")}, {"x": full(1)}], FREE, ["x"]),
        ([{"x": pool()}, {"x": pool(1)}], FREE, ["x"]),
        ([{"x": full(), "y": pool()}, {"x": full(1), "y": pool(1)}], FREE, ["y"]),
        # one look, or one that is missing, shows nothing
        ([{"x": full()}], SILENT, ["x"]),
        ([{"x": full()}, {}, {"x": full(2)}], SILENT, ["x"]),
        ([{"x": full()}, {"x": full(1)}, {}], SILENT, ["x"]),
        ([{"x": full(), "y": full()}, {"x": full(1)}], SILENT, ["y"]),
        # a solo pool that answered before its task, and not during it
        ([{"x": pool(processes=1)}, {}], SILENT, ["x"]),
        # who holds the canary is the one that matters
        (
            [
                {"x": full(), "y": pool()},
                {"x": full(1, reserved={CANARY}), "y": pool(1)},
                {"x": full(2, reserved={CANARY}), "y": pool(2)},
            ],
            BUSY,
            ["x"],
        ),
        ([{"x": pool(0, reserved={CANARY})}, {"x": pool(1, reserved={CANARY})}], FREE, ["x"]),
        ([{"x": pool(0, CANARY, "a")}, {"x": pool(1, CANARY, "a")}], RUNNING, ["x"]),
        # tasks beyond their limit by a margin, where nothing ends
        ([{"x": late()}, {"x": late(1)}], OVERDUE, ["x"]),
        ([{"x": late(seconds=3600)}, {"x": late(1, 3601)}], BUSY, ["x"]),
        ([{"x": late(limit=0.0)}, {"x": late(1, limit=0.0)}], BUSY, ["x"]),
        ([{"x": late()}, {"x": late(1, begun=9)}], BUSY, ["x"]),
    ],
)
def test_verdicts(looks: list[dict[str, Pool]], kind: str, nodes: list[str]) -> None:
    found = judge("q", CANARY, looks)
    assert (found.kind, found.nodes) == (kind, nodes)


def test_the_numbers_are_those_of_the_last_look() -> None:
    looks = [{"x": full(), "y": full()}, {"x": full(1.5), "y": full(1.5)}]
    looks[-1]["y"].running["b"] = {"name": "report", "seconds": 840.0, "limit": 0.0}
    found = judge("q", CANARY, looks)
    assert (found.processes, found.active, found.tasks) == (4, 4, ["nap", "report"])
    assert (found.oldest, found.still, found.ended) == (840.0, 1.5, False)
    text = describe_busy(found.as_dict(), 30.0)
    assert text == ("busy: 4 of 4 processes run nap, report, oldest 14 min; canary not waited for")


def test_a_pool_where_tasks_end_is_waited_for() -> None:
    """A batch of short tasks: the canary is the next message, and comes."""
    by_id = [{"x": pool(0, "a", "b")}, {"x": pool(9, "b", "c")}]
    by_count = [{"x": full()}, {"x": full(9, begun=5)}]
    for looks in (by_id, by_count):
        found = judge("q", CANARY, looks)
        assert (found.kind, found.ended) == (BUSY, True)
        assert found.still < STILL
        assert describe_busy(found.as_dict(), 30.0).endswith(
            "; tasks end, and the canary had no turn within 30 s"
        )


def test_a_canary_that_cannot_be_the_next_message_may_lie_behind_others() -> None:
    looks = [{"x": pool(0, "a", "b", begun=2)}, {"x": pool(1, "c", begun=5)}]
    assert judge("q", CANARY, looks).kind == FREE
    found = judge("q", CANARY, looks, exact=False)
    assert (found.kind, found.ended, found.active) == (BUSY, True, 1)
    idle = [{"x": pool(0, begun=5)}, {"x": pool(1, begun=5)}]
    assert judge("q", CANARY, idle, exact=False).kind == FREE


def replies(pool_facts: dict[str, Any], *starts: float) -> dict[str, Any]:
    active = [{"id": str(i), "name": "nap", "time_start": at} for i, at in enumerate(starts)]
    return {
        "active": active,
        "reserved": [{"id": "r"}],
        "active_queues": [{"name": "q"}],
        "stats": {"pool": pool_facts, "total": {"nap": 3, "other": 4}},
    }


@pytest.mark.parametrize(
    ("facts", "processes", "limit", "own"),
    [
        # as prefork, threads, gevent and solo tell themselves
        ({"max-concurrency": 2, "processes": [1, 2], "timeouts": [50, 60]}, 2, 60.0, 900.0),
        ({"max-concurrency": 2, "processes": [1, 2], "timeouts": [0, 0]}, 2, 0.0, 900.0),
        ({"max-concurrency": 4, "threads": 1}, 4, 0.0, 0.0),
        ({"max-concurrency": 100}, 100, 0.0, 0.0),
        ({"max-concurrency": 1, "processes": [1], "timeouts": []}, 1, 0.0, 0.0),
        # autoscaled to more than it began with; nothing of use
        ({"max-concurrency": 1, "processes": [1, 2, 3], "timeouts": [0, 0]}, 3, 0.0, 900.0),
        ({}, 1, 0.0, 0.0),
    ],
)
def test_pools_tell_their_processes_and_limits(facts, processes, limit, own):
    found = pool_of(replies(facts, NOW - 30, NOW + 5), 7.0, NOW, {"nap": 900.0})
    assert (found.processes, found.limit, found.begun) == (processes, limit, 7)
    assert (found.at, found.queues, found.reserved) == (7.0, ["q"], {"r"})
    # The clocks of two hosts differ.
    assert [task["seconds"] for task in found.running.values()] == [30.0, 0.0]
    assert {task["limit"] for task in found.running.values()} == {own}


def test_a_task_has_the_limit_of_its_own():
    asked = ["nap [time_limit=60]", "other", "odd [time_limit=x]", "half [time_limit=1.5]"]
    assert own_limits(asked) == {"nap": 60.0, "odd": 0.0, "half": 1.5}
    assert own_limits({"error": "no"}) == own_limits(None) == {}


def test_a_task_of_a_short_limit_of_its_own_is_overdue_in_a_pool_of_a_long_one():
    looks = [{"x": full()}, {"x": full(1)}]
    for look in looks:
        look["x"].running["a"].update(limit=60.0, seconds=61.0 + MARGIN)
    found = judge("q", CANARY, looks)
    assert (found.kind, found.task_id, found.limit) == (OVERDUE, "a", 60.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119, "119 s"), (840, "14 min"), (7100, "118 min"), (9000, "2.5 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "1", "x"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=5,
)
KEYS = st.sampled_from(["stats", "active", "reserved", "active_queues"])
FACTS = st.sampled_from(["max-concurrency", "processes", "timeouts"])


@given(
    st.dictionaries(KEYS, JSON),
    st.dictionaries(FACTS, JSON),
    st.dictionaries(st.sampled_from(["id", "name", "time_start"]), JSON),
)
def test_no_answer_breaks_the_look(anything, facts, request):
    assert pool_of({"active": anything}, 0.0, NOW, {}) is None
    found = pool_of({**replies(facts), **anything}, 0.0, NOW, {})
    assert found is None or found.processes >= 1
    found = pool_of({**replies(facts), "active": [request]}, 0.0, NOW, {})
    assert found is not None
    judge("q", CANARY, [{"x": found}, {"x": found}]).as_dict()


NODES = ["x", "y", "z"]
POOLS = st.builds(
    lambda tasks, queues, processes: pool(0.0, *tasks, queues=queues, processes=processes),
    st.sets(st.sampled_from("abcd")),
    st.sampled_from([["q"], ["other"], ["q", "other"], []]),
    st.integers(1, 4),
)
LOOKS = st.lists(st.dictionaries(st.sampled_from(NODES), POOLS), max_size=5)


@settings(max_examples=300)
@given(LOOKS)
def test_busy_is_only_what_was_full_at_the_last_two_looks(looks):
    found = judge("q", CANARY, looks)
    latest = {node: one for look in looks for node, one in look.items()}
    consumers = sorted(node for node, one in latest.items() if "q" in one.queues)
    if found.kind == BUSY:
        assert found.nodes == consumers
        assert all(look[node].full for look in looks[-2:] for node in consumers)
        assert found.active >= found.processes
    elif found.kind == FREE:
        assert set(found.nodes) <= set(consumers)
        assert found.active < found.processes
    elif found.kind == UNCONSUMED:
        assert not consumers
