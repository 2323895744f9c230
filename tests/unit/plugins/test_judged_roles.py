"""Variables of every role that a playbook runs are judged before the first of them acts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
INCLUDES = ("include_role", "import_role", "include_tasks", "import_tasks")


def load(path: Path) -> list[dict[str, Any]]:
    return yaml.safe_load(path.read_text()) or []


def tasks_of(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Return the tasks of plays, blocks and files, without the lists that they stand in."""
    for item in items:
        lists = [item[key] for key in ("tasks", "block", "rescue", "always") if key in item]
        if not lists:
            yield item
        for each in lists:
            yield from tasks_of(each)


def run_roles(items: list[dict[str, Any]], role: str, found: set[tuple[str, str]]) -> None:
    """Add what is run, as (role, file), to `found`; `role` is the one that the tasks are of."""
    for task in tasks_of(items):
        for word in INCLUDES:
            call = task.get(f"ansible.builtin.{word}")
            if call is None:
                continue
            if word.endswith("role"):
                place = (call["name"], f"{call.get('tasks_from', 'main')}.yml")
            else:
                place = (role, call if isinstance(call, str) else call["file"])
            path = ROOT / "roles" / place[0] / "tasks" / place[1]
            if place not in found and path.exists():
                found.add(place)
                run_roles(load(path), place[0], found)


def has_variables(role: str) -> bool:
    """Return whether a role has variables of an inventory: no task has to give one of them."""
    specs = load(ROOT / "roles" / role / "meta/argument_specs.yml")["argument_specs"]
    options = (specs.get("main") or {}).get("options") or {}
    return bool(options) and not any(each.get("required") for each in options.values())


@pytest.mark.parametrize(
    "name", ["deploy.yml", *(f"playbooks/{p.name}" for p in (ROOT / "playbooks").glob("*.yml"))]
)
def test_all_roles_of_a_playbook_are_judged_at_its_start(name: str) -> None:
    """Regression: a restore found a bad variable of role verify when the data was overwritten."""
    plays = load(ROOT / name)
    found: set[tuple[str, str]] = set()
    for play in plays:
        run_roles([play], "", found)
    found.discard(("begin", "fact.yml"))  # role stack sets the fact, and takes no variable
    roles = {role for role, _file in found if role != "stack" and has_variables(role)}
    if "upgrade" in name:  # its deploy comes first, and judges them
        plays, roles = load(ROOT / "deploy.yml"), roles | {"database"}
    given = [task.get("vars", {}) for play in plays for task in play.get("tasks", [])]
    lists = [each["stack_roles"] for each in given if "stack_roles" in each]
    if len(roles) > 1:  # one alone is judged by Ansible before its first task
        assert roles <= set(*lists), f"not judged: {roles - set(*lists)}"
    for role in set().union(*lists):
        assert has_variables(role), role
