"""Mappings of an inventory are merged with the defaults."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.model.build import stack_model
from ansible_collections.crisper.stack.plugins.module_utils.model.defaults import (
    IMAGE_REFS,
    LIMITS,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from stack_values import GOOD


def test_one_reference_leaves_the_others_at_their_defaults() -> None:
    values = GOOD | {"image_refs": {"postgres": "r/postgres:18"}}
    assert validate(values) == []
    assert stack_model(values)["image_refs"] == IMAGE_REFS | {"postgres": "r/postgres:18"}


def test_one_limit_leaves_the_others_at_their_defaults() -> None:
    values = GOOD | {"stack_limits": {"redis": {"memory": "2g"}}}
    assert validate(values) == []
    found = stack_model(values)["limits"]
    assert (found["redis"]["memory"], found["redis"]["cpus"]) == ("2g", LIMITS["redis"]["cpus"])
    assert found["postgres"]["memory"] == LIMITS["postgres"]["memory"]


@pytest.mark.parametrize("values", [{}, {"stack_limits": {}, "image_refs": {}}])
def test_nothing_needs_to_be_said(values: dict[str, Any]) -> None:
    given = {name: value for name, value in GOOD.items() if name != "stack_limits"} | values
    assert validate(given) == []
    assert stack_model(given)["image_refs"] == IMAGE_REFS
    assert stack_model(given)["limits"].keys() == LIMITS.keys()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image_refs": {"postgress": "x:1"}}, "image_refs.postgress: image_refs has no such key"),
        ({"image_refs": {"postgress": "x:1"}}, "did you mean postgres?"),
        ({"stack_limits": {"worker": {"memory": "1g"}}}, "stack_limits has no such key"),
        ({"stack_limits": []}, "stack_limits is []: give a mapping"),
        ({"stack_limits": {"redis": "2g"}}, "stack_limits.redis is '2g': give a mapping"),
    ],
)
def test_what_nothing_would_read_is_refused(values: dict[str, Any], said: str) -> None:
    (finding,) = validate(GOOD | values)
    assert said in finding


@pytest.mark.parametrize("point", ["before_migrate", "after_migrate"])
def test_hooks_of_a_migration_need_one(point: str) -> None:
    hooks = {point: [{"name": "x", "command": ["true"]}]}
    (finding,) = validate(GOOD | {"rollout_hooks": hooks})
    assert f"rollout_hooks.{point} never runs" in finding
    assert "before_start" in finding
    app = GOOD["stack_app"] | {"migrate": {"command": ["migrate"]}}
    assert validate(GOOD | {"rollout_hooks": hooks, "stack_app": app}) == []
