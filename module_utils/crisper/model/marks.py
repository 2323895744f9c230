"""Marks: what stands in a text for a value of the stack until a release is rendered (no I/O)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from .validators import as_mapping

MARK = re.compile(r"\[\[crisper:([a-z_.]+)(?:\(([^()\[\]]{0,100})\))?\]\]")
SECRET = "secret"  # noqa: S105 - the name of the function


def mark(name: str, argument: Any = None) -> str:
    """Return the mark of a name."""
    return f"[[crisper:{name}{'' if argument is None else f'({argument})'}]]"


def marks(value: Any) -> Iterator[tuple[str, str | None]]:
    """Yield name and argument of every mark in a text."""
    if isinstance(value, str):
        yield from ((found[1], found[2]) for found in MARK.finditer(value))


def named_secrets(templates: Any) -> list[str]:
    """Return the secrets that stack_app.environment_templates names."""
    return [
        argument
        for text in as_mapping(templates).values()
        for name, argument in marks(text)
        if name == SECRET and argument
    ]
