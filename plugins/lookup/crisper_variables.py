"""Findings about the names and kinds of the variables that an operator has set."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_variables
short_description: Findings about names and kinds of the operator's variables
description:
  - Gives one sentence for each variable of inventory, vault and command line that begins like a
    variable of a role but that no role has, with the nearest name and where it is set; and for each
    that has another name now, or the name of the fact C(deploy).
  - Gives one sentence for each boolean of any role that is not a boolean, such as the text C(false)
    of C(-e name=false), which Jinja takes for true, and for each number in a list or mapping that
    is a text. Those of role C(stack) are judged by the filter C(crisper_findings).
  - Facts and registered results do not count, nor do variables of plays, roles and tasks.
options:
  _terms:
    description: C(keys) gives the findings about keys in mappings instead, which have to be told
      before Ansible's own validation.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

try:
    from ansible._internal._datatag._tags import Origin
except ImportError:  # an Ansible that does not tell where a variable is set
    Origin = None

ROOT = Path(__file__).resolve().parents[2]

from ansible_collections.crisper.stack.plugins.module_utils.model.variables import (
    FACT,
    RENAMED,
    key_problems,
    kind_problems,
    name_problems,
    reserved_prefixes,
)

# Judged by crisper_findings, with the other values of the stack.
JUDGED = "stack"


class LookupModule(LookupBase):
    """The lookup."""

    def run(
        self, terms: list[Any], variables: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[str]:
        """Return the findings; an empty list when there are none."""
        known = variables or {}
        if terms == ["keys"]:
            return self._keys(known)
        specs = read_specifications()
        names = {name for options in specs.values() for name in options}
        prefixes = reserved_prefixes(specs.keys(), names)
        operator = find_given(known, known["inventory_hostname"])
        origins = {
            name: tell_origin(key, value)
            for key, value in operator.items()
            if "".join((name := str(key)).partition("_")[:2]) in prefixes
            or name in RENAMED
            or name == FACT
        }
        others = {
            name: option
            for role, options in specs.items()
            if role != JUDGED
            for name, option in options.items()
            if name not in specs[JUDGED]
        }
        values = {}
        for name in origins.keys() & others.keys():
            try:
                values[name] = self._templar.template(known[name])
            except AnsibleError:
                continue  # the role's own validation tells why
        return [*name_problems(origins, names, prefixes), *kind_problems(values, others)]

    def _keys(self, known: Mapping[str, Any]) -> list[str]:
        values, specs = {}, read_specification(ROOT / "roles" / JUDGED)
        for name in known.keys() & specs.keys():
            try:
                values[name] = self._templar.template(known[name])
            except AnsibleError:
                continue  # lookup crisper_undefined says why
        return key_problems(values, specs)


def read_specifications() -> dict[str, dict[str, Any]]:
    """Return the options of every role of this repository, of all its entry points together."""
    folders = sorted(path.parents[1] for path in ROOT.glob("roles/*/meta/argument_specs.yml"))
    return {folder.name: read_specification(folder) for folder in folders}


def read_specification(role: Path) -> dict[str, Any]:
    """Return the options of one role, of all its entry points together."""
    text = (role / "meta/argument_specs.yml").read_text()
    parsed = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    options: dict[str, Any] = {}
    for entry in parsed["argument_specs"].values():
        options |= entry.get("options") or {}
    return options


def find_given(known: Mapping[str, Any], host: str) -> dict[str, Any]:
    """Return the variables of inventory, vault and command line for a host, facts left out."""
    hostvars = known["hostvars"]
    if isinstance(hostvars, dict):  # a plain mapping
        return dict(hostvars[host])
    try:
        manager = hostvars._variable_manager
        values = manager.get_vars(host=hostvars._inventory.get_host(host), include_hostvars=False)
        facts = manager._nonpersistent_fact_cache.get(host, {}).keys() - manager.extra_vars.keys()
    except AttributeError:
        # Ansible has no public way to tell facts from inventory. Where this one is gone, a wrong
        # name is not found; taking our own facts for wrong names would refuse every deploy.
        return {}
    return {name: value for name, value in values.items() if name not in facts}


def tell_origin(name: str, value: Any) -> str:
    """Return where a variable is set, as `file:line` or Ansible's description; empty if unknown."""
    origin = Origin and (Origin.get_tag(value) or Origin.get_tag(name))
    if not origin:
        return ""
    if not origin.path:
        return (origin.description or "").strip("<>")
    path = Path(origin.path)
    short = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{short}:{origin.line_num}" if origin.line_num else str(short)
