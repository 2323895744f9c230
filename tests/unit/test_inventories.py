"""Test inventories set no variable of a role but those whose reason molecule/README.md gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = ROOT / "molecule/inventory"


def role_variables() -> set[str]:
    names: set[str] = set()
    for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"):
        specs = yaml.safe_load(path.read_text())["argument_specs"]
        names |= {name for spec in specs.values() for name in spec.get("options", {})}
    return names


def set_in(data: Any) -> Iterator[str]:
    """Variables of an inventory's groups and hosts."""
    for group in (data or {}).values():
        yield from (group or {}).get("vars") or {}
        for host in ((group or {}).get("hosts") or {}).values():
            yield from host or {}
        yield from set_in((group or {}).get("children"))


def test_every_variable_that_a_test_inventory_sets_has_its_reason():
    found: set[str] = set()
    for path in INVENTORY.glob("*.yml"):
        found |= set(set_in(yaml.safe_load(path.read_text())))
    for path in INVENTORY.glob("group_vars/**/*.yml"):
        if not path.is_symlink():
            found |= set(yaml.safe_load(path.read_text()) or {})
    table = (ROOT / "molecule/README.md").read_text().partition("operators would not")[2]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    reasons = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
    assert found & role_variables() == reasons


def test_the_operators_scenario_sets_none():
    data = yaml.safe_load((INVENTORY / "ssh.yml").read_text())
    assert {name for name in set_in(data) if not name.startswith("crisper_server_")} == set()
