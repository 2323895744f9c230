"""Several answers in one name: somebody else who can write into Redis has sent one of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery.judge import (
    SHAPES,
    judge,
    judge_named,
)
from hypothesis import given, settings
from hypothesis import strategies as st

FIXTURES = Path(__file__).parents[1] / "fixtures" / "celery"
CAPTURED: dict[str, Any] = json.loads((FIXTURES / "three_pools.json").read_text())["replies"]
# Whole answers to `conf` and `stats` are long to copy.
BRIEF = {"conf": ("task_serializer",), "stats": ("pool",)}
GOOD: dict[str, Any] = {
    method: [
        {
            node: {key: reply[key] for key in BRIEF[method]} if method in BRIEF else reply
            for node, reply in message.items()
        }
        for message in messages
    ]
    for method, messages in CAPTURED.items()
}
NODES = ["default@host1", "io@host1", "solo@host1"]
FIRST = NODES[0]
EXPECT: dict[str, Any] = {
    "nodes": NODES,
    "count": 3,
    "no_foreign_nodes": True,
    "pools": {
        "default": {"queues": ["default", "embeddings"], "concurrency": 2},
        "io": {"queues": ["io"], "concurrency": 2},
    },
    "registered": ["health_check"],
    "task_serializer": "json",
}
NONSENSE: list[Any] = [
    {"ok": 1},
    {"error": "no"},
    [],
    [1],
    None,
    "pong",
    [{"name": "theirs"}],
    ["other_task"],
    {"pool": {"max-concurrency": 99}},
]


def codes(found: list[Any]) -> list[tuple[str, str]]:
    return [(finding.code, finding.node) for finding in found]


def with_answer(method: str, node: Any, reply: Any, *, first: bool) -> dict[str, Any]:
    """Return good replies, and one more."""
    made = copy.deepcopy(GOOD)
    made[method].insert(0 if first else len(made[method]), {node: reply})
    return made


def without(method: str, node: str) -> dict[str, Any]:
    """Return good replies without those of a worker to this method."""
    made = copy.deepcopy(GOOD)
    made[method] = [message for message in made[method] if node not in message]
    return made


def test_good_answers_are_good_in_both_ways() -> None:
    assert judge(GOOD, EXPECT) == judge_named(GOOD, EXPECT) == []


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("reply", NONSENSE, ids=str)
@pytest.mark.parametrize("method", sorted(SHAPES))
def test_a_forged_bad_answer_makes_no_worker_look_bad_and_proves_none(
    method: str, reply: Any, first: bool
) -> None:
    """Regression: nobody could tell the workers to leave while one of them forged answers."""
    forged = with_answer(method, FIRST, reply, first=first)

    assert judge_named(forged, EXPECT) == []
    assert ("duplicate_node", FIRST) in codes(judge(forged, EXPECT))


@pytest.mark.parametrize("node", ["evil@elsewhere", "\x1b[2J", 7])
def test_what_nodes_say_that_were_not_asked_is_judged_only_for_a_proof(node: Any) -> None:
    """Regression: one reply of a stranger failed the look at the new workers."""
    for method in ("ping", "registered"):
        forged = with_answer(method, node, {"ok": 1}, first=True)
        assert judge_named(forged, EXPECT) == []
    assert judge(with_answer("ping", node, {"ok": "pong"}, first=True), EXPECT)


def test_messages_that_are_none_are_judged_only_for_a_proof() -> None:
    forged = copy.deepcopy(GOOD)
    forged["stats"].insert(0, "(a reply that cannot be read: ValueError)")

    assert judge_named(forged, EXPECT) == []
    assert codes(judge(forged, EXPECT)) == [("malformed_reply", "")]


@pytest.mark.parametrize(
    ("method", "good", "bad", "code"),
    [
        ("active_queues", [{"name": "io"}], [{"name": "default"}], "wrong_queues"),
        ("stats", {"pool": {"max-concurrency": 2}}, {"pool": {}}, "wrong_concurrency"),
        ("registered", ["health_check"], [], "unregistered_task"),
        ("conf", {"task_serializer": "json"}, {"task_serializer": "pickle"}, "wrong_serializers"),
    ],
)
def test_a_forged_good_answer_proves_no_bad_worker(
    method: str, good: Any, bad: Any, code: str
) -> None:
    """Regression: of several answers the first counted, and only two pings were a finding."""
    made = without(method, "io@host1")
    made[method] += [{"io@host1": bad}]
    assert codes(judge(made, EXPECT)) == codes(judge_named(made, EXPECT)) == [(code, "io@host1")]

    made[method].insert(0, {"io@host1": good})
    assert codes(judge(made, EXPECT)) == [("duplicate_node", "io@host1")]


def test_a_worker_that_does_not_answer_is_silent_whatever_others_say() -> None:
    made = without("ping", FIRST)
    assert codes(judge_named(made, EXPECT)) == [("node_silent", FIRST)]
    made = {method: [] for method in GOOD}
    made["ping"] = [{"evil@elsewhere": {"ok": "pong"}}]
    assert codes(judge_named(made, EXPECT)) == [("no_worker_answered", "")]


def test_a_worker_all_of_whose_answers_are_malformed_is_told() -> None:
    made = without("registered", FIRST)
    made["registered"] += [{FIRST: {"ok": 1}}, {FIRST: [1]}]
    found = codes(judge_named(made, EXPECT))
    assert found == [("malformed_reply", FIRST), ("unregistered_task", FIRST)]


REPLY = st.sampled_from(NONSENSE) | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
NODE = st.sampled_from([*NODES, "evil@elsewhere"])
FORGED = st.lists(st.tuples(st.sampled_from(sorted(SHAPES)), NODE, REPLY), max_size=6)


@settings(max_examples=60)
@given(FORGED, st.randoms(use_true_random=False), st.sampled_from(["", *NODES]))
def test_more_answers_add_no_finding_to_a_look_and_take_none_from_a_proof(
    forged: list[tuple[str, str, Any]], random: Any, wrong: str
) -> None:
    honest = without("active_queues", wrong)
    if wrong:
        honest["active_queues"].append({wrong: [{"name": "elsewhere"}]})
    made = copy.deepcopy(honest)
    for method, node, reply in forged:
        made[method].append({node: reply})
    for messages in made.values():
        random.shuffle(messages)

    assert len(judge_named(made, EXPECT)) <= len(judge_named(honest, EXPECT))
    twice = {node for _method, node, _reply in forged} & set(NODES)
    assert judge(made, EXPECT) or not (twice or judge(honest, EXPECT))
