"""Findings about undefined variables: what Ansible cannot resolve, each with a remedy."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_undefined
short_description: Findings about variables that refer to undefined ones
description:
  - Resolves every text in the named variables by itself and gives one sentence for each that
    fails, with the place where it stands, the reason and what to write instead. Templates that
    are none, such as braces of a password, fail too.
  - No finding has a part of a secret, not even in the reason, wherever it is referred to.
options:
  _terms:
    description: Names of variables; those that are not set are skipped.
    required: true
  secret:
    description: Names of those whose values are secrets.
    type: list
    elements: str
    default: []
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

REFERENCE = re.compile(r"\s*\{\{\s*(?P<name>[A-Za-z_]\w*)\s*\}\}\s*\Z")
LITERAL = "write a text with braces of its own as !unsafe '…'"


class LookupModule(LookupBase):
    """The lookup."""

    def run(
        self, terms: list[str], variables: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[str]:
        """Return the findings of all terms; an empty list when there are none."""
        self.set_options(var_options=variables, direct=kwargs)
        known = variables or {}
        secret = self.get_option("secret")
        return [
            finding
            for name in terms
            if name in known
            for where, text in _texts(known[name], name)
            if (finding := self._finding(where, text, known, name in secret))
        ]

    def _finding(self, where: str, text: str, known: Mapping[str, Any], secret: bool) -> str:
        try:
            self._templar.template(text)
        except AnsibleError as error:
            reason = " ".join(str(error).split()).rstrip(".")
        else:
            return ""
        referred = REFERENCE.match(text)
        if referred and referred["name"] not in known:
            return f"{where} refers to {referred['name']}, which is not set: set it, or {LITERAL}."
        # What the reason quotes may come from another variable, and that one be a secret.
        quoted = re.findall(r"'(?!end of )([^']*)'", reason)
        if secret or any(part not in text for part in quoted):
            place = referred["name"] if referred else "it"
            reason = (
                f"{place} refers to a variable that is not set, or has braces that are no template"
            )
        return f"{where} cannot be resolved: {reason}. Define what it refers to, or {LITERAL}."


def _texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _texts(item, f"{where}[{index}]")
