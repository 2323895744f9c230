"""Judge values by the types that the roles' argument specifications give them.

Pure functions. Ansible's own validation names no place within a value, ends with the first role,
and judges what it has converted: the roles get the variable as it is, a text where a list is due.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..playbook.call import nearest
from .validators import BOOLEAN, DECIMAL, boolean_remedy, choice_remedy, printable, quoted

Option = Mapping[str, Any]

# Booleans that are documented as `-e name=true`, a text: the roles convert these.
CONVERTED = frozenset(
    {"backup_foreign", "images_cache_save", "restore_confirmed", "restore_foreign"}
)
INTEGER = re.compile(r"-?[0-9]{1,19}\Z")
# A text that YAML and JSON take as it is, so that it can stand in an example.
PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./:-]{0,60}\Z")
# Likeness (0 to 1) from which a key is taken for a mistyped one.
LIKE = 0.5
ONE = {
    "bool": "true or false",
    "dict": "a mapping",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "path": "a path",
    "str": "a text",
}
SEVERAL = {
    "dict": "mappings",
    "float": "numbers",
    "int": "whole numbers",
    "list": "lists",
    "path": "paths",
    "str": "texts",
}


@dataclass(frozen=True)
class Finding:
    """A value that is not as it should be.

    `place` is where it stands, such as ``celery_workers[0].queues``; `text` is the whole sentence;
    `whole` is whether a list or a mapping is wrong, so that nothing inside it can be judged.
    """

    place: str
    text: str
    whole: bool = False


@dataclass(frozen=True)
class Spot:
    """A place in a variable: its name, and what is known of it."""

    name: str
    variable: str
    secret: bool
    converts: bool  # whether the roles convert numbers that are texts, wherever they stand

    @property
    def is_variable(self) -> bool:
        """The variable itself, and no place within it."""
        return self.name == self.variable

    def inner(self, step: str) -> Spot:
        """Return a place within this one."""
        return replace(self, name=f"{self.name}{step}")


def type_findings(
    values: Mapping[str, Any], specs: Mapping[str, Option], converted: Collection[str] = ()
) -> list[Finding]:
    """Return what is wrong with the types of values, a sentence each with the remedy.

    No sentence has a part of a value whose specification says ``no_log``.

    Args:
        values: name -> resolved value of variables.
        specs: name -> option of the argument specifications.
        converted: variables in which numbers may be texts at every depth. On the command line
            (``-e name=4``) every number is a text, and the roles convert variables, but not what is
            in lists and mappings of others: that ends up in files as it is.
    """
    return [
        replace(finding, text=printable(finding.text))
        for name in sorted(values.keys() & specs.keys())
        for finding in _judge(
            Spot(name, name, secret=False, converts=name in converted), values[name], specs[name]
        )
    ]


def secret_places(specs: Mapping[str, Option], prefix: str = "") -> set[str]:
    """Return the places whose values are secret, without indices: ``registry_logins.password``."""
    found = set()
    for name, option in specs.items():
        if option.get("no_log"):
            found.add(f"{prefix}{name}")
        found |= secret_places(option.get("options") or {}, f"{prefix}{name}.")
    return found


def _judge(spot: Spot, value: Any, option: Option) -> Iterator[Finding]:
    spot = replace(spot, secret=spot.secret or bool(option.get("no_log")))
    kind = str(option.get("type") or "str")
    if kind == "raw" or spot.variable in CONVERTED:
        return
    if kind == "list" and isinstance(value, (list, tuple)):
        yield from _judge_items(spot, value, option)
    elif kind == "dict" and isinstance(value, Mapping):
        yield from _judge_keys(spot, value, option)
    elif value is None and not spot.is_variable and not spot.name.endswith("]"):
        return  # a key without a value is one that is left out
    elif remedy := _remedy(spot, value, kind, option):
        text = f"{spot.name} {_description(spot, value)}: {remedy}"
        yield Finding(spot.name, text, kind in ("list", "dict"))


def _judge_items(spot: Spot, value: Collection[Any], option: Option) -> Iterator[Finding]:
    element = {**option, "type": option.get("elements") or "raw", "elements": None}
    for index, item in enumerate(value):
        yield from _judge(spot.inner(f"[{index}]"), item, element)


def _judge_keys(spot: Spot, value: Mapping[Any, Any], option: Option) -> Iterator[Finding]:
    options: Mapping[str, Option] = option.get("options") or {}
    if not options:
        return  # keys of the operator's own
    for key in options:
        if options[key].get("required") and key not in value:
            place = spot.inner(f".{key}").name
            yield Finding(place, f"{place} is missing: give {_noun(options[key])}.")
    for key, item in value.items():
        inner = spot.inner(f".{key}")
        if key in options:
            yield from _judge(inner, item, options[key])
            continue
        meant = nearest(str(key), options, LIKE)
        guess = f"did you mean {meant}?" if meant else "remove it."
        yield Finding(
            inner.name,
            f"{inner.name}: {spot.name} has no such key: {guess} It has"
            f" {', '.join(sorted(options))}.",
        )


def _remedy(spot: Spot, value: Any, kind: str, option: Option) -> str:
    """Return what to write instead of a value; empty when its type and choice are right."""
    if kind == "bool":
        if BOOLEAN.matches(value):
            return ""
        return boolean_remedy(spot.name, value) if spot.is_variable else BOOLEAN.remedy
    if kind in ("int", "float"):
        return _number_remedy(spot, value, kind)
    plain = isinstance(value, str) or (
        kind == "str" and isinstance(value, (int, float)) and not isinstance(value, bool)
    )
    if kind in ("str", "path") and plain:
        choices = option.get("choices") or []
        return choice_remedy(value, choices) if choices and value not in choices else ""
    if kind in ("list", "dict"):
        return f"give {_noun(option)}{_example(spot, value, kind)}."
    quote = " (quote it)" if isinstance(value, bool) else ""
    return f"give {_noun(option)}{quote}."


def _number_remedy(spot: Spot, value: Any, kind: str) -> str:
    remedy = f"give {ONE[kind]}."
    if isinstance(value, str):
        matches = bool((INTEGER if kind == "int" else DECIMAL).match(value))
        if matches and not (spot.is_variable or spot.converts):
            return "give a number, without quotes."
        return "" if matches else remedy
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return remedy
    matches = isinstance(value, int) or (kind == "float" and math.isfinite(value))
    return "" if matches else remedy


def _noun(option: Option) -> str:
    kind = str(option.get("type") or "str")
    several = SEVERAL.get(str(option.get("elements") or ""), "")
    return f"a list of {several}" if kind == "list" and several else ONE.get(kind, "a value")


def _example(spot: Spot, value: Any, kind: str) -> str:
    """Return how a text would be written as a list; on the command line every value is a text."""
    if not isinstance(value, str) or spot.secret:
        return ""
    if kind == "list" and PLAIN.match(value):
        return f", such as [{value}]"
    if spot.is_variable:
        form = json.dumps({spot.name: [] if kind == "list" else {}})
        return f" (on the command line as JSON: -e '{form[:-2]}…{form[-2:]}')"
    return ""


def _description(spot: Spot, value: Any) -> str:
    """Return how a message names a value: lists and mappings may hold secrets."""
    if value is None:
        return "has no value"
    if isinstance(value, Mapping):
        return "is a mapping"
    if isinstance(value, (list, tuple)):
        return "is a list"
    if isinstance(value, (set, frozenset)):
        return "is a set"
    return "has a value of another type" if spot.secret else f"is {quoted(value)}"
