"""Releases that are broken, each in its own way: the cause is told, and what served serves."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Site, deployed_site, temporary_site

FAILURES: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "an image that no registry has": (
        {"build": 9},
        {"point": "docker_image_pull", "answer": {"msg": "no such host registry.example.com"}},
        ["The pull", "no such host registry.example.com", "Correct stack_app.image"],
    ),
    "a migration that fails": (
        {"revision": "2"},
        {"point": "command:migrate", "answer": {"msg": "column id is missing"}},
        [
            "The migration (alembic upgrade 2) failed with exit code 1",
            "column id is missing",
            "the dump from before it is",
        ],
    ),
    "a hook that fails": (
        {
            "x": "2",
            "rollout_hooks": {
                "after_switch": [{"name": "warm", "command": ["warm"], "timeout": 9}]
            },
        },
        {"point": "command:hook", "answer": {"msg": "no cache"}},
        [
            "The hook 'warm' of rollout_hooks.after_switch (warm) failed with exit code 1",
            "no cache",
        ],
    ),
}


@pytest.fixture
def site() -> Site:
    return deployed_site("one")[0]


@pytest.mark.parametrize("name", FAILURES)
def test_a_broken_release_is_undone_and_its_cause_is_told(name: str, site: Site) -> None:
    wanted, rule, said = FAILURES[name]
    before = site.one.current
    if rule["point"] == "docker_image_pull":
        site.one.change(missing=["registry.example.com/myapp/backend"])
    site.script({**rule, "do": "fail"})

    site.deploy(**wanted).failed(*said, f"What serves: release {before}")

    host = site.one
    assert (host.serving, host.current, host.staged, host.lock) == (before, before, "", {})
    assert host.releases == host.consuming == [before]


def test_waiting_tasks_that_the_release_does_not_know_refuse_it_untouched(site: Site) -> None:
    host = site.one
    before = host.engine["containers"]
    answer = {"msg": "Tasks wait that the release does not know: gone (1)", "unknown": {"gone": 1}}
    rule = {"point": "celery_skew", "do": "fail", "answer": {**answer, "problem": "unknown_tasks"}}
    site.script(rule)

    site.deploy(x="2", rollout_ledger=False).failed(answer["msg"])

    assert host.engine["containers"] == before
    assert (host.staged, host.lock) == ("", {})


def test_a_first_deploy_that_fails_leaves_nothing_half_running() -> None:
    with temporary_site("one") as site:
        site.script({"point": "compose_rollout:replace", "do": "fail"})
        site.deploy().failed("the containers of this first deploy were removed")
        assert site.one.engine["containers"] == []

        site.script()
        site.deploy().succeeded()
        assert site.one.serving == site.one.current
