"""Values of a wrong type are refused with their place and what to write, secrets never shown."""

from __future__ import annotations

import datetime
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.model.option_types import (
    CONVERTED,
    secret_places,
    type_findings,
)
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]


@cache
def options() -> dict[str, dict[str, Any]]:
    """Name to option of every variable of every role."""
    found: dict[str, dict[str, Any]] = {}
    for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"):
        specs = yaml.safe_load(path.read_text())["argument_specs"]
        found |= specs["variables"].get("options") or {}
    return found


def type_problems(
    values: dict[str, Any], specs: dict[str, Any] | None = None, converted: Any = ()
) -> list[str]:
    """Sentences about the types of values."""
    found = type_findings(values, options() if specs is None else specs, converted)
    return [finding.text for finding in found]


def booleans() -> list[str]:
    """Top-level variables of type bool."""
    return sorted(name for name, option in options().items() if option["type"] == "bool")


# --- Booleans ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", booleans())
@pytest.mark.parametrize("value", ["false", "no", "", 0, 1, None, [True]])
def test_every_boolean_of_every_role_refuses_all_else(name: str, value: Any) -> None:
    """Regression: `-e begin_enabled=false` was taken for true."""
    problems = type_problems({name: value})
    if name in CONVERTED:
        assert problems == []
        return
    assert len(problems) == 1
    assert re.match(rf"{name} (is|has) .*: give true or false", problems[0])
    assert f'"{name}": {"false" if value in ("false", "no", 0) else "true"}' in problems[0]


def test_booleans_are_taken_and_those_within_mappings_and_lists_are_judged() -> None:
    assert type_problems(dict.fromkeys(booleans(), True)) == []
    inner = {"on": {"type": "bool"}, "name": {"type": "str"}}
    specs = {
        "x_map": {"type": "dict", "options": inner},
        "x_list": {"type": "list", "elements": "dict", "options": inner},
        "x_flags": {"type": "list", "elements": "bool"},
    }
    values = {"x_map": {"on": "no"}, "x_list": [{"on": False}, {"on": "x"}], "x_flags": [True, "y"]}
    places = [problem.partition(" is ")[0] for problem in type_problems(values, specs)]
    assert places == ["x_flags[1]", "x_list[1].on", "x_map.on"]


def test_booleans_that_are_converted_are_so_wherever_they_are_used() -> None:
    for name in CONVERTED:
        uses = [
            line
            for path in (ROOT / "roles").glob("*/tasks/*.yml")
            for line in path.read_text().splitlines()
            if re.search(rf"\b{name}\b", line) and f"{name}=" not in line
        ]
        assert uses
        assert all(f"{name} | bool" in line for line in uses), uses


# --- Numbers and texts -------------------------------------------------------------------------


def test_numbers_within_lists_are_numbers() -> None:
    """Regression: the engine does not start with an address pool of the size "24"."""
    pools = {"docker_address_pools": [{"base": "10.200.0.0/16", "size": "24"}]}
    (problem,) = type_problems(pools)
    assert problem == "docker_address_pools[0].size is '24': give a number, without quotes."
    assert type_problems({"verify_canary_timeout": "4", "verify_closed_ports": [1]}) == []


def test_numbers_may_be_texts_where_the_model_converts_them() -> None:
    values = {"stack_app": {"web": {"port": "8000", "cpus": "0.5"}}}
    assert type_problems(values, converted={"stack_app"}) == []
    assert len(type_problems(values)) == 2


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("backup_keep", "many", "give a whole number"),
        ("backup_keep", True, "give a whole number"),
        ("backup_keep", 1.5, "give a whole number"),
        ("backup_keep", math.inf, "give a whole number"),
        ("backup_keep", None, "has no value: give a whole number"),
        ("backup_keep", [7], "is a list: give a whole number"),
        ("backup_keep_days", "1,5", "give a number"),
        ("backup_keep_days", math.nan, "give a number"),
        ("backup_recipient", True, "give a text (quote it)"),
        ("backup_recipient", datetime.date(2026, 1, 2), "give a text"),
        ("backup_recipient", {"a": 1}, "is a mapping: give a text"),
        ("backup_encryption", "agee", "did you mean age? choose '', age, gpg."),
        ("backup_remote_options", "-v", "give a list of texts (on the command line as JSON: -e"),
        ("backup_remote_options", "fast", "give a list of texts, such as [fast]."),
        ("backup_remote_options", [["-v"]], "backup_remote_options[0] is a list: give a text."),
        ("docker_daemon_options", "debug", "give a mapping (on the command line as JSON: -e"),
    ],
)
def test_a_wrong_type_is_one_sentence_with_the_remedy(name: str, value: Any, remedy: str) -> None:
    (problem,) = type_problems({name: value})
    assert problem.startswith(name)
    assert remedy in problem


@pytest.mark.parametrize(
    "values",
    [
        {"backup_keep": "3", "backup_keep_days": "1.5"},  # of the command line
        {"backup_keep_days": 0, "backup_recipient": 5, "backup_encryption": ""},
        {"status_tasks": "a,b", "stack_client_connections": None},  # raw
        {"stack_app": {"frontend": None, "locations": []}},
        {"celery_workers": [{"name": "x", "queues": ("a",)}]},
    ],
)
def test_fitting_values_are_taken(values: dict[str, Any]) -> None:
    assert type_problems(values) == []


# --- Mappings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"stack_app": {"enviroment": {}}},
            "stack_app.enviroment: stack_app has no such key: did you mean environment?",
        ),
        (
            {"celery_workers": [{"name": "a", "queues": []}, {"concurency": 2}]},
            "celery_workers[1].concurency: celery_workers[1]"
            " has no such key: did you mean concurrency? It has autoscale, cap_add, concurrency",
        ),
        ({"stack_app": {"web": {"zzz": 1}}}, "stack_app.web has no such key: remove it."),
        (
            {"celery_workers": [{"queues": ["a"]}]},
            "celery_workers[0].name is missing: give a text",
        ),
    ],
)
def test_a_wrong_key_is_one_sentence_with_the_nearest(
    values: dict[str, Any], sentence: str
) -> None:
    """Regression: 13 KB with the whole specification, and no "did you mean"."""
    assert len([problem for problem in type_problems(values) if sentence in problem]) == 1


def test_keys_of_ones_own_are_no_problem() -> None:
    own = {"stack_app": {"environment": {"ANY": 1}, "secret_environment": {"X": "y"}}}
    assert type_problems(own | {"stack_secrets": {"mine": "x"}, "image_refs": {}}) == []


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"web": True}, "stack_app.web is True: give a mapping."),
        ({"web": b"x"}, "stack_app.web is b'x': give a mapping."),
        ({"web": "port=8000"}, "stack_app.web is 'port=8000': give a mapping."),
        ({"locations": 16}, "stack_app.locations is 16: give a list of mappings."),
        ({"locations": b"x"}, "stack_app.locations is b'x': give a list of mappings."),
        ({"locations": [None]}, "stack_app.locations[0] has no value: give a mapping."),
        ({"web": {"replicas": math.inf}}, "stack_app.web.replicas is inf: give a whole number."),
        ([], "stack_app is a list: give a mapping."),
    ],
)
def test_what_is_no_mapping_is_told_by_its_place(value: Any, problem: str) -> None:
    """Regression: Ansible's validation ended with "argument of type 'bool' is not iterable"."""
    assert type_problems({"stack_app": value}) == [problem]


# --- Secrets -----------------------------------------------------------------------------------


def test_the_places_of_secrets_are_those_of_the_specification() -> None:
    assert secret_places(options()) >= {
        *("stack_secrets", "registry_logins", "stack_proxy", "stack_container_proxy"),
        *("stack_app.environment", "stack_app.secret_environment"),
    }


@pytest.mark.parametrize(
    "values",
    [
        {"stack_secrets": "hunter2"},
        {"stack_secrets": ["hunter2"]},
        {"registry_logins": "hunter2"},
        {"registry_logins": [{"registry": "r", "password": ["hunter2"]}, "hunter2"]},
        {"stack_proxy": "hunter2"},
        {"stack_app": {"environment": "hunter2"}},
        {"stack_app": [{"environment": {"A": "hunter2"}}]},
    ],
)
def test_no_sentence_has_a_secret(values: dict[str, Any]) -> None:
    problems = type_problems(values)
    assert problems
    assert "hunter2" not in " ".join(problems)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(options())), ANYTHING)
def test_any_value_of_any_variable_is_judged_in_printable_sentences(name: str, value: Any) -> None:
    for problem in type_problems({name: value}):
        assert problem.isprintable()
        assert problem.startswith(name)
        assert problem.endswith((".", ")."))
