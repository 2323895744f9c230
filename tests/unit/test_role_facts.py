"""What roles read of each other: the fact `deploy`, and what docs/CONTRIBUTING.md lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.deploy.fact import (
    KEYS,
    LOCK,
    RELEASE,
    STATE,
)

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
# A second fact of a role: the address is the host's own, the tags are of the same look at images,
# and what the inventory has not applied goes with the model of the release that serves.
SECOND = {"stack_address", "stack_images_by_tag", "stack_unapplied"}
# Role rollback judges a release by that release's own model; role release puts into it what the
# inventory leaves to the application.
OTHERS = {("rollback", "stack_model"), ("release", "stack_model")}
# Variables that an inventory names in stack_app.environment_templates: words of every role.
NAMED = {"postgres", "redis", "qdrant", "mariadb", "secret"}
COMMENT = re.compile(r"(?m)(?:^|(?<=\s))#.*$")


def documented() -> list[tuple[str, str]]:
    """Role and fact of each row of the table in docs/CONTRIBUTING.md."""
    page = (ROOT / "docs/CONTRIBUTING.md").read_text()
    table = page.partition("## What roles return")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \| `(\w+)` \|", table, re.MULTILINE)


@cache
def files(role: str) -> dict[str, str]:
    """Path to text of what a role runs and renders, without comments."""
    found = [
        path
        for folder in ("tasks", "vars", "defaults", "templates")
        for path in sorted((ROOT / "roles" / role / folder).rglob("*"))
        if path.is_file()
    ]
    return {str(path.relative_to(ROOT)): COMMENT.sub("", path.read_text()) for path in found}


def playbooks() -> dict[str, str]:
    """Path to text of the playbooks, without comments."""
    found = [ROOT / "deploy.yml", *sorted((ROOT / "playbooks").glob("*.yml"))]
    return {str(path.relative_to(ROOT)): COMMENT.sub("", path.read_text()) for path in found}


def tasks(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the tasks of a file, those of blocks included."""
    for task in node if isinstance(node, list) else []:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks(task.get(part))


@cache
def made(role: str) -> frozenset[str]:
    """Names that a role registers, sets as facts or has as variables besides its defaults."""
    names = set()
    for path in (ROOT / "roles" / role / "tasks").glob("*.yml"):
        for task in tasks(yaml.safe_load(path.read_text())):
            names |= {task["register"]} if "register" in task else set()
            names |= set(task.get("ansible.builtin.set_fact") or {}) - {"cacheable"}
    variables = ROOT / "roles" / role / "vars/main.yml"
    if variables.exists():
        names |= set(yaml.safe_load(variables.read_text()) or {})
    return frozenset(names)


def read_names(text: str) -> set[str]:
    """Words of a text that may be names of variables."""
    return set(re.findall(r"(?<![\w.$-])[A-Za-z_]\w*", text))


@pytest.mark.parametrize("role", ROLES)
def test_a_role_reads_of_others_only_what_they_return(role: str) -> None:
    """Registers of role rollout were read by three roles, and one of status by role restore."""
    facts = {fact for _, fact in documented()} | {"deploy"} | NAMED
    foreign = {
        name for other in ROLES if other != role for name in made(other) if name not in made(role)
    }
    for path, text in files(role).items():
        assert not (read_names(text) & foreign) - facts, path


@pytest.mark.parametrize("role", ROLES)
def test_private_names_stay_in_their_role(role: str) -> None:
    mine = re.compile(rf"\b__{role}_\w+")
    others = {path: text for other in ROLES if other != role for path, text in files(other).items()}
    found = {path: mine.findall(text) for path, text in {**others, **playbooks()}.items()}
    assert not {path: names for path, names in found.items() if names}


def test_a_role_returns_one_fact_and_sets_it_itself() -> None:
    table = documented()
    assert len(table) > 5
    for role, fact in table:
        assert fact in made(role), f"docs/CONTRIBUTING.md: role {role} sets no {fact}"
    first = [role for role, fact in table if fact not in SECOND]
    assert len(first) == len(set(first))
    for role in ROLES:
        theirs = {fact for other, fact in table if other != role}
        assert {(role, fact) for fact in theirs & made(role)} <= OTHERS


# --- the fact deploy ----------------------------------------------------------------------------

KNOWN = "|".join(
    ["deploy"]
    + [rf"deploy\.{key}" for key in KEYS]
    + [rf"deploy\.state\.{key}" for key in STATE]
    + [rf"deploy\.lock\.{key}" for key in LOCK]
    + [rf"deploy\.release\.{key}" for key in RELEASE]
)
GUARDED = re.compile(rf"(?<![\w.-])(?:{KNOWN})\)*\s*(?:\|\s*d(?:efault)?\(|is (?:not )?defined)")


def everywhere() -> dict[str, str]:
    """Path to text of all roles, playbooks and templates."""
    templates = {
        str(path.relative_to(ROOT)): path.read_text() for path in (ROOT / "templates").rglob("*.j2")
    }
    return {**{p: t for role in ROLES for p, t in files(role).items()}, **playbooks(), **templates}


def test_nobody_gives_a_default_for_the_fact() -> None:
    """Regression: 58 of 65 readers of docker_cli_path did, and not the same one."""
    assert GUARDED.search("x: {{ deploy.state.current | default('') }}")
    assert GUARDED.search("x: {{ (deploy | d({})).run }}")
    assert GUARDED.search("when: deploy.run is defined")
    assert not GUARDED.search("{{ deploy.state.held.purpose | default('deploy') }}")
    found = {path: GUARDED.findall(text) for path, text in everywhere().items()}
    assert not {path: names for path, names in found.items() if names}


def test_readers_name_keys_that_there_are() -> None:
    for path, text in everywhere().items():
        for key, inner in re.findall(r"(?<![\w.-])deploy\.(\w+)(?:\.(\w+))?", text):
            if key == "yml":
                continue
            assert key in KEYS, f"{path}: deploy.{key}"
            parts = {"state": STATE, "lock": LOCK, "release": {**RELEASE, "images": {}}}
            assert not inner or inner in parts.get(key, {"id": "", "root": ""}), f"{path}: {inner}"


def test_one_task_sets_the_fact() -> None:
    setting = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "roles").glob("*/tasks/*.yml")
        for task in tasks(yaml.safe_load(path.read_text()))
        if "deploy" in (task.get("ansible.builtin.set_fact") or {})
        or task.get("register") == "deploy"
    ]
    assert setting == ["roles/begin/tasks/fact.yml"]


def test_every_playbook_that_runs_a_role_begins_with_the_one_that_sets_the_fact() -> None:
    """But the one that installs an engine and knows no stack."""
    for path, text in playbooks().items():
        for play in yaml.safe_load(text):
            named = re.findall(
                r"(?:import|include)_role: *\{name: (\w+)",
                yaml.safe_dump(play, width=1000, default_flow_style=None),
            )
            if named and path != "playbooks/engine.yml":
                assert named[0] == "stack", path
    main = (ROOT / "roles/stack/tasks/main.yml").read_text()
    assert "{name: begin, tasks_from: fact}" in main
