"""The fact `deploy` always has its keys, and a new run begins anew."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.deploy.fact import (
    KEYS,
    STATE,
    staged_release,
    updated_fact,
)
from hypothesis import given
from hypothesis import strategies as st

RUN = {"root": "/opt/x", "id": "r1"}
FOUND = {**STATE, "current": "a", "intact": True, "locked": True, "changed": False}
NEWS = st.fixed_dictionaries(
    {},
    optional={
        "run": st.sampled_from([None, RUN]),
        "lock": st.sampled_from([{}, {"passed": True}, {"held": True}]),
        "state": st.sampled_from([{}, FOUND, {"current": "b"}]),
        "docker_cli": st.sampled_from(["", "/usr/bin/docker"]),
        "release": st.sampled_from([{}, {"id": "b", "path": "/opt/x/releases/b"}]),
    },
)


@given(st.lists(NEWS, max_size=5))
def test_every_key_is_there_after_any_change(changes: list[dict[str, Any]]) -> None:
    fact: dict[str, Any] = {}
    for news in [{}, *changes]:
        fact = updated_fact(fact, news)
        assert tuple(fact) == KEYS
        assert fact["state"].keys() == STATE.keys()
        assert fact["docker_cli"]
        assert {"id", "path", "staged", "differs"} <= fact["release"].keys()
        assert {type(fact["lock"][key]) for key in ("held", "passed")} == {bool}


def test_before_anything_was_asked_nothing_is_as_it_should_be() -> None:
    fact = updated_fact({}, {})
    assert (fact["run"], fact["docker_cli"]) == (None, "docker")
    assert not fact["state"]["intact"]
    assert fact["lock"] == {"held": False, "passed": False}


def test_the_lock_is_that_of_the_server() -> None:
    asked = updated_fact({}, {"run": RUN})
    assert not asked["lock"]["held"]
    held = updated_fact(asked, {"state": FOUND})
    assert held["lock"] == {"held": True, "passed": False}
    passed = updated_fact(held, {"lock": {"passed": True}})
    assert passed["lock"] == {"held": True, "passed": True}
    assert "changed" not in passed["state"]


def test_a_run_begins_anew() -> None:
    """A playbook with two plays: what the first one had is not the second one's."""
    first = updated_fact({}, {"run": RUN, "docker_cli": "/opt/docker", "release": {"id": "b"}})
    first = updated_fact(first, {"state": FOUND, "lock": {"passed": True}})
    second = updated_fact(first, {"run": {**RUN, "id": "r2"}})
    assert second["lock"] == {"held": False, "passed": False}
    assert second["state"] == STATE
    assert second["release"]["id"] == ""
    assert second["docker_cli"] == "/opt/docker"


@pytest.mark.parametrize(
    ("docker", "client", "wanted"),
    [
        (True, "/usr/bin/docker", "/usr/bin/docker"),
        (False, "/usr/bin/docker", "docker"),
        (True, "", "docker"),
    ],
)
def test_the_client_of_the_last_deploy_is_used_where_role_docker_has_nothing_to_do(
    docker: bool, client: str, wanted: str
) -> None:
    state = {**FOUND, "same": {"docker": docker, "images": False}, "docker_cli": client}
    assert updated_fact({}, {"state": state})["docker_cli"] == wanted


def test_a_key_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no key relase: it has run, lock, state"):
        updated_fact({}, {"relase": {}})


def test_the_staged_release_is_told_with_what_differs() -> None:
    staged = {"release": {"id": "b", "path": "/b", "staged": True}, "current": "a"}
    staged |= {"facts_changed": ["data"], "images_changed": ["backend"], "resumed": True}
    sbom = {"changed": True, "sbom": {"packages": 3}}
    told = updated_fact({}, {"release": staged_release(staged, sbom)})["release"]
    assert (told["id"], told["before"], told["resumed"], told["staged"]) == ("b", "a", True, True)
    assert told["differs"] == {"facts": ["data"], "images": ["backend"], "env": [], "secrets": []}
    assert told["sbom"] == {"packages": 3}
    assert staged_release(staged, {"changed": False, "sbom": {"packages": 3}})["sbom"] == {}
