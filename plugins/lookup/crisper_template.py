"""ansible.builtin.template for a controller that renders many files from many variables."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_template
short_description: Render a template, as ansible.builtin.template does
description:
  - That lookup copies all variables deeply for each file, results of earlier tasks included, which
    takes several times as long as the rendering. This one copies the mapping alone; templates only
    read what is in it.
options:
  _terms:
    description: Files to render.
    required: true
"""

from collections.abc import Mapping
from typing import Any

from ansible.plugins.loader import lookup_loader
from ansible.plugins.lookup import LookupBase


class Shallow(dict):
    """Variables whose deep copy is a shallow one."""

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        """Copy the mapping, not what it maps to."""
        return dict(self)


class LookupModule(LookupBase):
    """The lookup."""

    def run(
        self, terms: list[str], variables: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[str]:
        """Render each file."""
        builtin = lookup_loader.get(
            "ansible.builtin.template", loader=self._loader, templar=self._templar
        )
        return builtin.run(terms, variables=Shallow(variables or {}), **kwargs)
