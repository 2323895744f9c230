"""Findings about the operator's variables, of all roles at once."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_findings
short_description: Findings about the operator's variables
description:
  - Gives one sentence for each variable that is wrong, with its place, its value, what is expected,
    what to write, and the file and line that set it. A secret has no value there.
  - "Judged are: names that begin like a variable of a role but that no role has, names of the
    command line that are nearly one which playbooks document, templates that
    cannot be resolved, types and choices (the argument specs of all roles), keys in mappings, and,
    with a term, the values of the stack against each other."
  - What only follows from another finding is left out.
  - Facts and registered results do not count.
options:
  _terms:
    description:
      - Name of the variable that maps the names of the stack's variables to their values, the
        input of its model. Without it only names, templates, types and choices are judged.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.crisper.stack.plugins.module_utils.model.findings import merge_findings
from ansible_collections.crisper.stack.plugins.module_utils.model.option_types import (
    Finding,
    secret_places,
    type_findings,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.role_checks import role_problems
from ansible_collections.crisper.stack.plugins.module_utils.model.service_files import (
    service_files,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from ansible_collections.crisper.stack.plugins.module_utils.model.validators import printable
from ansible_collections.crisper.stack.plugins.module_utils.model.variables import (
    FACT,
    RENAMED,
    name_problems,
    reserved_prefixes,
)
from ansible_collections.crisper.stack.plugins.module_utils.playbook.origin import (
    VAULT_REMEDY,
    is_about_a_vault,
    origin_of,
)

ROOT = Path(__file__).resolve().parents[2]
# The role whose variables the others read, and whose numbers the model converts.
SHARED = "stack"
REFERENCE = re.compile(r"\s*\{\{\s*(?P<name>[A-Za-z_]\w*)\s*\}\}\s*\Z")
UNDEFINED = re.compile(r"'(?P<name>[A-Za-z_]\w*)' is undefined")
STEP = re.compile(r"\.([\w-]+)|\[([0-9]+)\]")
LITERAL = "write a text with braces of its own as !unsafe '…'"


class LookupModule(LookupBase):
    """The lookup."""

    def run(
        self, terms: list[str], variables: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[str]:
        """Return the findings; an empty list when there are none."""
        known = variables or {}
        roles = read_specifications()
        specs = {name: option for options in roles.values() for name, option in options.items()}
        inventory = find_given(known, known["inventory_hostname"])
        values, unresolved = self._resolve_all(known, specs, roles[SHARED], inventory)
        judged: list[str] = []
        if terms:
            stack = self._model_input(known, terms[0], values)
            judged = [*validate(stack), *map(printable, role_problems(values))]
            judged += self._missing_sources(stack, known)
        types = type_findings(values, specs, roles[SHARED])
        own = [one for one in types if variable_of(one.place) in inventory]
        # Defaults of ours follow from the operator's variables; those of plays stand alone.
        found = merge_findings(unresolved, own, judged) or types
        prefixes = reserved_prefixes(roles, specs)
        extra = find_extra(known)
        origins = find_origins(inventory, prefixes, extra)
        names = name_problems(origins, specs, prefixes, extra)
        return [*names, *(f"{one.text}{tell_source(one.place, inventory)}" for one in found)]

    def _resolve_all(
        self,
        known: Mapping[str, Any],
        specs: Mapping[str, Any],
        shared: Mapping[str, Any],
        inventory: Mapping[str, Any],
    ) -> tuple[dict[str, Any], list[Finding]]:
        """Return the values of all variables, and what cannot be resolved in them."""
        values, found, consequences = {}, [], []
        secrets = secret_places(specs)
        for name in sorted(known.keys() & specs.keys()):
            problems: list[Finding] = []
            value = self._resolve(known[name], name, name in secrets, (known, specs, problems))
            if not all(problem.text for problem in problems):
                continue
            if not problems or name in inventory:
                values[name] = value
                found += problems
            elif name in shared:
                # A default of ours that refers to a variable of the operator's.
                consequences += problems
        hidden = [replace(each, text="") if found else each for each in consequences]
        return values, [*found, *hidden]

    def _missing_sources(self, stack: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[str]:
        """Yield files of services that the controller does not have."""
        for each in service_files(stack):
            if each.source and not self.find_file_in_search_path(
                known, "files", each.source, ignore_missing=True
            ):
                place = f"{each.place}.source is {each.source!r}"
                yield printable(f"{place}: no such file on the controller; correct the path.")

    def _model_input(
        self, known: Mapping[str, Any], name: str, values: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the values that the stack is judged by; what is not set has a default there."""
        found = {}
        for key, expression in known[name].items():
            if key in values:
                found[key] = values[key]
            elif key not in known:
                found[key] = self._templar.template(expression)
        return found

    def _resolve(
        self,
        value: Any,
        where: str,
        secret: bool,
        context: tuple[Mapping[str, Any], Mapping[str, Any], list[Finding]],
    ) -> Any:
        """Return a value as it would be used; an empty text stands for what cannot be resolved."""
        try:
            return self._templar.template(value)
        except AnsibleError as error:
            reason = " ".join(str(error).split()).rstrip(".")
        known, specs, found = context
        before = len(found)
        if isinstance(value, Mapping):
            inner = {k: self._resolve(v, f"{where}.{k}", secret, context) for k, v in value.items()}
        elif isinstance(value, (list, tuple)):
            inner = [
                self._resolve(item, f"{where}[{index}]", secret, context)
                for index, item in enumerate(value)
            ]
        else:
            inner = ""
            missing = UNDEFINED.search(reason)
            if missing and missing["name"] in specs and missing["name"] not in known:
                # A default of a role that comes later: nothing is known of this value yet.
                reason = ""
        if len(found) == before:
            # The text of an encrypted value would be decrypted once more.
            words = value if isinstance(value, str) else ""
            text = describe_unresolved(where, words, reason, secret, known) if reason else ""
            found.append(Finding(where, text))
        return inner


def describe_unresolved(
    where: str, text: str, reason: str, secret: bool, known: Mapping[str, Any]
) -> str:
    """Return the sentence for a template that cannot be resolved; without a part of a secret."""
    referred = REFERENCE.match(text)
    if referred and referred["name"] not in known:
        return f"{where} refers to {referred['name']}, which is not set: set it, or {LITERAL}."
    if is_about_a_vault(reason):
        return f"{where} cannot be decrypted: no vault password fits. {VAULT_REMEDY}"
    # What the reason quotes may come from another variable, and that one be a secret.
    quoted = re.findall(r"'(?!end of )([^']*)'", reason)
    if secret or any(part not in text for part in quoted):
        place = referred["name"] if referred else "it"
        reason = f"{place} refers to a variable that is not set, or has braces that are no template"
    return f"{where} cannot be resolved: {reason}. Define what it refers to, or {LITERAL}."


def read_specifications() -> dict[str, dict[str, Any]]:
    """Return the options of every role of this repository, of all its entry points together."""
    folders = sorted(path.parents[1] for path in ROOT.glob("roles/*/meta/argument_specs.yml"))
    return {folder.name: read_specification(folder) for folder in folders}


def read_specification(role: Path) -> dict[str, Any]:
    """Return the options of one role, of all its entry points together."""
    text = (role / "meta/argument_specs.yml").read_text()
    parsed = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
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


def find_extra(known: Mapping[str, Any]) -> set[str]:
    """Return the names of the variables that `-e` sets, also by a file."""
    # Empty where Ansible does not tell them, as in `find_given`: such a typo is not found then.
    manager = getattr(known["hostvars"], "_variable_manager", None)
    return {str(name) for name in getattr(manager, "extra_vars", {})}


def find_origins(
    inventory: Mapping[str, Any], prefixes: set[str], extra: set[str]
) -> dict[str, str]:
    """Return name -> origin of the variables whose names are judged."""
    return {
        name: origin_of(value, key)
        for key, value in inventory.items()
        if "".join((name := str(key)).partition("_")[:2]) in prefixes
        or name in RENAMED
        or name in extra
        or name == FACT
    }


def variable_of(place: str) -> str:
    """Return the variable that a place lies in."""
    return re.split(r"[.\[]", place, maxsplit=1)[0]


def tell_source(place: str, inventory: Mapping[str, Any]) -> str:
    """Return the sentence that says where a place is set, or what it is missing in; or nothing."""
    name = variable_of(place)
    if name not in inventory:
        return ""
    steps = STEP.findall(place[len(name) :])
    pairs = list(walk(inventory, name, steps))
    origin = printable(origin_of(*(one for pair in reversed(pairs) for one in reversed(pair))))
    verb = "Set in" if len(pairs) > len(steps) else "See"
    return f" {verb} {origin}." if origin else ""


def walk(
    inventory: Mapping[str, Any], name: str, steps: Sequence[tuple[str, str]]
) -> Iterator[tuple[Any, Any]]:
    """Yield keys and values on the way to a place, as far as there are such."""
    key: Any = next(key for key in inventory if key == name)
    value: Any = inventory[name]
    yield key, value
    for word, index in steps:
        if isinstance(value, Mapping):
            key = next((each for each in value if str(each) == word), None)
            if key is None:
                return
            value = value[key]
        elif isinstance(value, (list, tuple)) and index and int(index) < len(value):
            key, value = None, value[int(index)]
        else:
            return
        yield key, value
