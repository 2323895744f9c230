"""Every role has a molecule scenario that converges it, and those that share a server run there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
PLAYBOOK = re.compile(r"\b(deploy\.yml|playbooks/\w+\.yml)")
# What every role reads: it does nothing on a server.
DATA = "stack"


class Loader(yaml.SafeLoader):
    """Reads Ansible's own tags as plain text."""


Loader.add_constructor("!unsafe", lambda loader, node: node.value)


def load(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader)  # noqa: S506 (a safe loader)


def roles_in(data: Any) -> Iterator[str]:
    """Yield the roles that a playbook runs, by whatever way."""
    if isinstance(data, list):
        for item in data:
            yield from roles_in(item)
    elif isinstance(data, dict):
        for key, value in data.items():
            if key == "roles":
                yield from (entry if isinstance(entry, str) else entry["role"] for entry in value)
            elif key.rpartition(".")[2] in ("import_role", "include_role"):
                yield value["name"]
            else:
                yield from roles_in(value)


def converged(scenario: Path) -> set[str]:
    """Return the roles of a scenario, those of playbooks that it runs included."""
    files = [scenario / "converge.yml", scenario / "verify.yml"]
    text = "".join(path.read_text() for path in files if path.exists())
    playbooks = [ROOT / name for name in set(PLAYBOOK.findall(text))]
    return {role for path in [files[0], *playbooks] for role in roles_in(load(path))}


def on_shared(*servers: str) -> list[str]:
    """Return the scenarios that share a server, as scripts/test finds them."""
    found = (ROOT / "molecule").glob("*/verify.yml")
    hosts = re.compile(rf"^  hosts: ({'|'.join(servers)})$", re.M)
    return sorted(p.parent.name for p in found if hosts.search(p.read_text()))


@pytest.mark.parametrize("role", ROLES)
def test_every_role_has_a_scenario_that_converges_it(role: str) -> None:
    """Regression: eleven of 21 roles had none of their own."""
    scenario = ROOT / "molecule" / role
    assert (scenario / "molecule.yml").is_file(), f"role {role} has no molecule/{role}"
    assert (scenario / "verify.yml").is_file(), f"nothing looks at what role {role} does"
    assert role in converged(scenario)


@pytest.mark.parametrize("scenario", sorted({*on_shared("prepared", "changing")} & {*ROLES}))
def test_a_scenario_on_a_shared_server_converges_its_role_alone(scenario: str) -> None:
    folder = ROOT / "molecule" / scenario
    assert set(roles_in(load(folder / "converge.yml"))) - {DATA} == {scenario} - {DATA}
    # Twice: the second time nothing changes, or the reason stands in molecule.yml.
    sequence = load(folder / "molecule.yml")["scenario"]["test_sequence"]
    assert "idempotence" in sequence or sequence.count("converge") == 2
    # The hosts of its plays, or molecule would run it on a server that nobody made.
    plays = [play for name in ("converge", "verify") for play in load(folder / f"{name}.yml")]
    assert {play["hosts"] for play in plays} in ({"prepared"}, {"changing"})


def test_scenarios_that_change_what_is_deployed_have_a_server_of_their_own() -> None:
    """What the others look at is the stack as create.yml has deployed it."""
    script = (ROOT / "scripts/test").read_text()
    changing = re.search(r"changing=\((.*)\)", script)
    assert changing
    names = changing[1].split()
    # `rollback` begins with the only release, `teardown` leaves none.
    assert (names[0], names[-1]) == ("rollback", "teardown")
    assert sorted(names) == on_shared("changing")
    # create.yml makes the servers of the group that is named as the scenario.
    inventory = load(ROOT / "molecule/inventory/whole_stack.yml")["whole_stack"]["children"]
    shared = inventory["changing"]
    for name in names:
        assert shared["children"][name]["hosts"].keys() == shared["hosts"].keys()
