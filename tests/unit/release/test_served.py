"""The release that serves, compared with what the inventory wants."""

from __future__ import annotations

import copy
import json
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.model.build import stack_model
from ansible_collections.crisper.stack.plugins.module_utils.release.served import (
    model_differences,
    unapplied,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from stack_values import GOOD


def model() -> dict[str, Any]:
    """A model as a manifest has it."""
    found: dict[str, Any] = json.loads(json.dumps(stack_model(GOOD)))
    return found


def test_the_same_inventory_differs_in_nothing() -> None:
    assert unapplied("r", model(), stack_model(GOOD)) == ""


def test_a_model_of_an_older_edition_differs_in_what_both_have_alone() -> None:
    older = model()
    del older["probes"], older["registry_references"], older["pools"][0]["pids"]
    assert unapplied("r", older, stack_model(GOOD)) == ""
    assert unapplied("r", {}, stack_model(GOOD)) == ""


def test_each_difference_is_named_with_both_values() -> None:
    wanted = copy.deepcopy(model())
    pool = wanted["pools"][0]
    pool["concurrency"], pool["queues"] = 9, ["new1", "new2"]
    wanted["celery"]["time_limit"] = 77
    wanted["rollout"]["backend"]["replicas"] = 5
    wanted["rollout"]["mongo"] = {"kind": "stateful"}
    wanted["proxy"]["port"] = 8080
    wanted["registry_references"] = {**wanted["registry_references"], "x": "y"}
    own = model()
    own["pools"].append({"name": "old\n", "service": "celery-worker-old"})
    text = unapplied("r1", own, wanted)
    name = pool["name"]
    assert f"pool {name}: concurrency 9 instead of " in text
    assert f"pool {name}: queues new1, new2 instead of " in text
    assert "pool old\\n is to go" in text
    assert "celery: time_limit 77 instead of " in text
    assert "service backend: replicas 5 instead of " in text
    assert "service mongo is new" in text
    assert "entry point" in text
    assert text.count("release r1") == 1


def test_many_differences_are_counted() -> None:
    own = model()
    pools = [{"name": f"p{n}", "service": f"s{n}"} for n in range(20)]
    assert "; 12 more. The release" in unapplied("r", {**own, "pools": []}, {**own, "pools": pools})


VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["proxy", "hooks", "uploads", "x"]), VALUES))
def test_a_model_never_differs_from_itself(found: dict[str, Any]) -> None:
    assert model_differences(found, found) == []
