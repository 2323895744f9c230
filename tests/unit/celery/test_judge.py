"""Judging workers, on what real workers replied (fixtures/celery/capture.py makes the replies)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery.findings import (
    REMEDIES,
    describe_findings,
    main_problem,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.judge import (
    SHAPES,
    answers,
    fold_replies,
    judge,
)
from ansible_collections.crisper.stack.plugins.module_utils.probes import serve as probe
from hypothesis import given, settings
from hypothesis import strategies as st

FIXTURES = Path(__file__).parents[1] / "fixtures" / "celery"
THREE = ["default@host1", "io@host1", "solo@host1"]
MET: dict[str, Any] = {
    "nodes": THREE,
    "count": 3,
    "no_foreign_nodes": True,
    "pools": {
        "default": {"queues": ["default", "embeddings"], "concurrency": 2},
        "io": {"queues": ["io"], "concurrency": 2},
        "solo": {"queues": ["solo"]},
    },
    "registered": ["health_check", "hourly"],
    "accept_content": ["json"],
    "task_serializer": "json",
}


def captured(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{name}.json").read_text())


def replies(name: str) -> dict[str, Any]:
    return captured(name)["replies"]


def codes(found: list[Any]) -> list[tuple[str, str]]:
    return sorted((finding.code, finding.node) for finding in found)


def test_three_pools_as_declared_are_accepted() -> None:
    assert judge(replies("three_pools"), MET) == []


def test_time_limits_are_those_a_pool_enforces() -> None:
    limits = {"time_limit": 3600, "soft_time_limit": 3300}
    found = judge(replies("three_pools"), limits)
    # threads and solo enforce no limit, whatever the configuration says
    assert codes(found) == sorted(
        ("wrong_time_limits", node) for node in THREE[1:] for _ in range(2)
    )


DEFAULT = "default@host1"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"nodes": [*THREE, "gone@host1"]}, [("node_silent", "gone@host1")]),
        ({"nodes": THREE[:2]}, [("foreign_node", "solo@host1")]),
        ({"count": 4}, [("wrong_count", "")]),
        ({"registered": ["renamed"]}, [("unregistered_task", node) for node in THREE]),
        ({"pools": {"default": {"queues": ["default"]}}}, [("wrong_queues", DEFAULT)]),
        ({"pools": {"default": {"queues": ["defualt"]}}}, [("wrong_queues", DEFAULT)]),
        ({"pools": {"default": {"concurrency": 4}}}, [("wrong_concurrency", DEFAULT)]),
        ({"task_serializer": "pickle"}, [("wrong_serializers", node) for node in THREE]),
        ({"accept_content": ["json", "pickle"]}, [("wrong_serializers", n) for n in THREE]),
    ],
)
def test_each_difference_is_named(change: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    found = judge(replies("three_pools"), {**MET, **change})
    assert codes(found) == sorted(expected)


def test_all_differences_are_told_together() -> None:
    expect = {**MET, "nodes": [*THREE, "gone@host1"], "registered": ["renamed"], "count": 4}
    found = judge(replies("three_pools"), expect)
    text = describe_findings([finding.as_dict() for finding in found])
    assert len(found) == 5
    assert all(word in text for word in ("gone@host1", "renamed", "3 workers answer, 4 expected"))


@pytest.mark.parametrize(
    ("name", "expect", "problem", "expected"),
    [
        ("no_worker", {"nodes": THREE}, "no_worker_answered", [("no_worker_answered", "")]),
        ("one_stopped", {"nodes": THREE}, "nodes_silent", [("node_silent", "solo@host1")]),
        ("one_stopped", {"count": 3}, "expectations_not_met", [("wrong_count", "")]),
        ("duplicate_name", {}, "expectations_not_met", [("duplicate_node", "io@host1")]),
        ("unknown_method", {}, "malformed_reply", [("malformed_reply", node) for node in THREE]),
        ("with_beat", {"nodes": ["io@host1"], "no_foreign_nodes": True, "count": 1}, "", []),
    ],
)
def test_situations(
    name: str, expect: dict[str, Any], problem: str, expected: list[tuple[str, str]]
) -> None:
    found = judge(replies(name), expect)
    assert codes(found) == expected
    assert main_problem(found) == problem


def test_beat_did_answer_in_its_fixture() -> None:
    nodes = [node for item in replies("with_beat")["ping"] for node in item]
    assert any(node.startswith("celerybeat@") for node in nodes)
    assert list(answers(replies("with_beat"), "ping")) == ["io@host1"]


@pytest.mark.parametrize("code", [*REMEDIES, "no_result_backend", "result_backend_unreachable"])
def test_the_checklist_explains_every_code(code: str) -> None:
    page = (FIXTURES.parents[3] / "docs" / "CHECKLIST.md").read_text()
    assert f"`{code}`" in page


@pytest.mark.parametrize(
    ("name", "problem", "told_why"),
    [
        ("broker_down", "broker_unreachable", "Connection refused"),
        ("wrong_password", "broker_unreachable", "AuthenticationError"),
        ("not_importable", "app_not_importable", "nonesuch"),
        ("import_fails", "app_not_importable", "ValueError"),
    ],
)
def test_the_probe_tells_troubles_apart(name: str, problem: str, told_why: str) -> None:
    reply = captured(name)
    assert reply["problem"] == problem
    assert told_why in reply["error"]
    assert problem in REMEDIES


def test_an_error_that_quotes_the_broker_url_is_masked() -> None:
    # broken.py raises with the whole broker URL, password included
    assert "see *** (" in captured("import_fails")["error"]


def test_where_a_worker_connects_is_not_shown() -> None:
    for node in fold_replies(replies("three_pools")).values():
        assert not {"broker_url", "result_backend", "broker_transport_options"} & set(node["conf"])
        assert node["conf"]["task_serializer"] == "json"


SECRETS = st.text(alphabet="abcdefgh0123456789", min_size=6)


@given(SECRETS, st.text(alphabet="xyz"), st.text(alphabet="xyz"))
def test_secrets_of_the_environment_never_leave(secret: str, left: str, right: str) -> None:
    environment = {"SECRET_KEY": secret, "CELERY_BROKER_URL": f"redis://:{secret}9@redis:6379/0"}
    secrets = probe.secrets_of(environment)
    value = {"a": [left + secret + right, {secret: f"redis://u:{secret}9@redis/0"}], "b": 1}
    assert secret not in json.dumps(probe.redact(value, secrets))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NODES = st.sampled_from([*THREE, "celerybeat@host1"])
ITEMS = st.lists(JSON | st.dictionaries(NODES, JSON, max_size=2), max_size=3)
ANY_REPLIES = st.dictionaries(st.sampled_from(list(SHAPES)), ITEMS, max_size=5)
FULL = {**MET, "time_limit": 3600, "soft_time_limit": 3300}


@settings(max_examples=300)
@given(ANY_REPLIES)
def test_judging_never_crashes_and_never_accepts_garbage(anything: dict[str, Any]) -> None:
    found = judge(anything, FULL)
    # nothing that hypothesis makes up is three workers with pools, tasks and time limits
    assert found
    assert main_problem(found)
    assert describe_findings([finding.as_dict() for finding in found])
    json.dumps(fold_replies(anything))


@st.composite
def workers(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Replies of some workers, and an expectation that may differ from them in places."""
    names = draw(st.sets(st.sampled_from(["a", "b", "c"]), min_size=1))
    some = st.sets(st.sampled_from(["q1", "q2", "q3"]), min_size=1)
    facts = {
        f"{name}@h": {
            "queues": sorted(draw(some)),
            "concurrency": draw(st.integers(1, 3)),
            "tasks": sorted(draw(some)),
        }
        for name in names
    }
    made: dict[str, list[Any]] = {
        "ping": [{node: {"ok": "pong"}} for node in facts],
        "active_queues": [{n: [{"name": q} for q in f["queues"]]} for n, f in facts.items()],
        "stats": [{n: {"pool": {"max-concurrency": f["concurrency"]}}} for n, f in facts.items()],
        "registered": [{n: f["tasks"]} for n, f in facts.items()],
    }
    expect = {
        "nodes": draw(st.sets(st.sampled_from(["a@h", "b@h", "c@h"]), min_size=1)),
        "no_foreign_nodes": True,
        "pools": {
            name: {"queues": sorted(draw(some)), "concurrency": draw(st.integers(1, 3))}
            for name in names
            if draw(st.booleans())
        },
        "registered": sorted(draw(st.sets(st.sampled_from(["q1", "q2"])))),
    }
    if draw(st.booleans()):  # often enough all is met, which chance alone seldom brings about
        expect["nodes"] = set(facts)
        expect["pools"] = {n.partition("@")[0]: f for n, f in facts.items()}
        expect["registered"] = sorted(set.intersection(*(set(f["tasks"]) for f in facts.values())))
    expect["nodes"] = sorted(expect["nodes"])
    return made, {"facts": facts, "expect": expect}


def is_met(facts: Mapping[str, Any], expect: Mapping[str, Any]) -> bool:
    """The same judgement, said in one breath."""
    return set(facts) == set(expect["nodes"]) and all(
        set(expect["registered"]) <= set(fact["tasks"])
        and all(fact[key] == value for key, value in _pool(node, expect).items() if key != "tasks")
        for node, fact in facts.items()
    )


def _pool(node: str, expect: Mapping[str, Any]) -> Mapping[str, Any]:
    return expect["pools"].get(node.partition("@")[0], {})


@settings(max_examples=300)
@given(workers())
def test_accepted_exactly_when_everything_is_met(case: tuple[dict[str, Any], Any]) -> None:
    made, known = case
    accepted = judge(made, known["expect"]) == []
    assert accepted == is_met(known["facts"], known["expect"])
