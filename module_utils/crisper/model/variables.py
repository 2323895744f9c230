"""Judge which variables an operator has set, and of which kind their values are.

Pure functions over the argument specifications of all roles.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..playbook.call import nearest
from .validators import BOOLEAN, boolean_remedy, printable, quoted

# Names that no role has, but playbooks and defaults of roles refer to, such as the documented
# `-e restore_database=true`; only those that begin like a role's own need to stand here.
COMMAND_LINE = frozenset({"restore_database", "stack_become", "stack_hosts"})
# Variables that have another name now; the old one would be passed over without a word.
RENAMED = {
    f"gate_{name}": f"begin_{name}"
    for name in ("break", "enabled", "purpose", "put_back", "quiet_timeout", "registry_timeout")
}
# The fact of every run (docs/CONTRIBUTING.md). From the command line it would replace the fact.
FACT = "deploy"
# Booleans that are documented as `-e name=true`, a text: the roles convert these.
CONVERTED = frozenset(
    {"backup_foreign", "images_cache_save", "restore_confirmed", "restore_foreign"}
)
# Likeness (0 to 1) from which a name is taken for a mistyped one: of names as wholes, and of what
# follows a prefix that both have.
LIKE, LIKE_BEHIND = 0.85, 0.5


def reserved_prefixes(roles: Collection[str], known: Collection[str]) -> set[str]:
    """Return the beginnings of names that are this repository's: of roles, and of shared names."""
    return {f"{name}_" for name in roles} | {f"{name.partition('_')[0]}_" for name in known}


def name_problems(
    origins: Mapping[str, str], known: Collection[str], prefixes: Collection[str]
) -> list[str]:
    """Return one sentence for each variable that begins like a role's and that no role knows.

    Also for each that has another name now, and for one with the name of the fact `deploy`.

    Args:
        origins: name of each variable that is set -> where, or an empty text.
        known: names of all variables of all roles.
        prefixes: beginnings of names that are reserved.
    """
    found = []
    for name in sorted(origins):
        prefix = "".join(name.partition("_")[:2])
        place = f" ({origins[name]})" if origins[name] else ""
        if name in RENAMED:
            found.append(
                printable(f"{name}{place}: this variable is {RENAMED[name]} now: rename it.")
            )
            continue
        if name == FACT:
            found.append(
                printable(
                    f"{name}{place}: this is the name of a fact of every run: choose another."
                )
            )
            continue
        if prefix not in prefixes or name in known or name in COMMAND_LINE:
            continue
        meant = _guess(name, prefix, known)
        guess = f"did you mean {meant}? A variable" if meant else "remove it; a variable"
        found.append(
            printable(
                f"{name}{place}: no role knows this variable: {guess} of your own needs a name"
                f" that does not begin with {prefix}."
            )
        )
    return found


def _guess(name: str, prefix: str, known: Collection[str]) -> str:
    """Return the known name that was probably meant; empty when none is like it."""
    if meant := nearest(name, known, LIKE):
        return meant
    behind = [one.removeprefix(prefix) for one in known if one.startswith(prefix)]
    meant = nearest(name.removeprefix(prefix), behind, LIKE_BEHIND)
    return prefix + meant if meant else ""


def kind_problems(values: Mapping[str, Any], specs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return one sentence for each value of a kind that Ansible's own validation lets pass.

    It converts what it validates, and the roles get the variable as it is: the text ``false`` is
    true to Jinja. Numbers as texts (``-e name=4``) the roles convert, but not within lists and
    mappings, which end up in files as they are.

    Args:
        values: name -> resolved value of the variables that are set.
        specs: name -> option of the roles' argument specifications.
    """
    found = []
    for top in sorted(values.keys() & specs.keys() - CONVERTED):
        for where, value, kind in _leaves(top, values[top], specs[top]):
            if kind == "bool" and not BOOLEAN.matches(value):
                found.append(f"{where} is {quoted(value)}: {boolean_remedy(top, value)}")
            elif kind in ("int", "float") and isinstance(value, str) and where != top:
                found.append(f"{where} is {quoted(value)}: give a number, without quotes.")
    return [printable(finding) for finding in found]


def key_problems(values: Mapping[str, Any], specs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return one sentence for each key in a mapping that its specification does not have.

    And for each value that is no mapping, or no list of mappings, where one belongs: Ansible's own
    validation fails there with a TypeError, or without the name of the variable.

    Args:
        values: name -> resolved value of the variables that are set.
        specs: name -> option of the roles' argument specifications.
    """
    found = []
    for top in sorted(values.keys() & specs.keys()):
        for where, value, wanted in _foreign_shapes(top, values[top], specs[top]):
            # Ansible takes JSON as text there, as of --extra-vars name=….
            if where != top or not isinstance(value, str):
                found.append(f"{where} is {quoted(value)}: give {wanted}.")
        for where, key, known in _foreign_keys(top, values[top], specs[top]):
            meant = nearest(key, known, LIKE_BEHIND)
            guess = f"did you mean {meant}?" if meant else "remove it."
            found.append(
                f"{where}.{key}: {where} has no such key: {guess} It has"
                f" {', '.join(sorted(known))}."
            )
    return [printable(finding) for finding in found]


def _foreign_keys(
    where: str, value: Any, option: Mapping[str, Any]
) -> Iterator[tuple[str, str, Collection[str]]]:
    """Yield keys that are not specified: where each stands, its name, and the names there are."""
    options = option.get("options")
    if option.get("elements") == "dict" and isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _foreign_keys(f"{where}[{index}]", item, {"options": options})
    elif options and isinstance(value, Mapping):
        for key, item in value.items():
            if key in options:
                yield from _foreign_keys(f"{where}.{key}", item, options[key] or {})
            else:
                yield where, str(key), options.keys()


def _foreign_shapes(
    where: str, value: Any, option: Mapping[str, Any]
) -> Iterator[tuple[str, Any, str]]:
    """Yield values of another shape: where each stands, and what belongs there."""
    options = option.get("options")
    if option.get("type") == "int" and isinstance(value, float) and not math.isfinite(value):
        yield where, value, "a whole number"
    if not options or value is None:
        return
    if option.get("elements") == "dict":
        if not isinstance(value, (list, tuple)):
            yield where, value, "a list of mappings"
            return
        for index, item in enumerate(value):
            if item is None:
                yield f"{where}[{index}]", item, "a mapping"
            yield from _foreign_shapes(f"{where}[{index}]", item, {"options": options})
    elif not isinstance(value, Mapping):
        yield where, value, "a mapping"
    else:
        for key in sorted(value.keys() & options.keys()):
            yield from _foreign_shapes(f"{where}.{key}", value[key], options[key] or {})


def _leaves(where: str, value: Any, option: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield single values of an option and its suboptions: where each stands, and its type."""
    kind = str(option.get("type"))
    if kind == "dict" and isinstance(value, Mapping):
        for name, inner in (option.get("options") or {}).items():
            if name in value:
                yield from _leaves(f"{where}.{name}", value[name], inner)
    elif kind == "list" and isinstance(value, (list, tuple)):
        inner = {**option, "type": option.get("elements"), "elements": None}
        for index, item in enumerate(value):
            yield from _leaves(f"{where}[{index}]", item, inner)
    else:
        yield where, value, kind
