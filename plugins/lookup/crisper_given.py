"""The operator's variables as they would be used, whatever they refer to."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_given
short_description: Values of the variables whose names match
description:
  - Gives one mapping of name to JSON text, of variables that inventory, command line or facts set.
    A value that refers to something which is not known yet, such as a default of a role that
    comes later, stands there as it was written.
options:
  _terms:
    description: Regular expression of the names.
    required: true
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase


class LookupModule(LookupBase):
    """The lookup."""

    def run(
        self, terms: list[str], variables: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[dict[str, str]]:
        """Return one mapping for all terms."""
        known = variables or {}
        values = known["hostvars"][known["inventory_hostname"]]
        wanted = re.compile("|".join(f"(?:{term})" for term in terms))
        return [{name: self._as_text(known[name]) for name in sorted(values) if wanted.match(name)}]

    def _as_text(self, value: Any) -> str:
        try:
            return json.dumps(self._templar.template(value), sort_keys=True, default=str)
        except AnsibleError:
            return json.dumps(value, sort_keys=True, default=str)
