"""The fact `deploy`, with what is new."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_deploy
short_description: The fact deploy with some keys changed
description:
  - Gives the fact C(deploy) as it is by now, with all its keys (docs/CONTRIBUTING.md), and with
    those of the term changed. Only role C(begin) sets the fact.
options:
  _terms:
    description: Keys that change, as a mapping.
    required: true
"""

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase
from ansible_collections.crisper.stack.plugins.module_utils.deploy.fact import updated_fact


class LookupModule(LookupBase):
    """The lookup."""

    def run(
        self, terms: list[Any], variables: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """Return the fact; one for each term."""
        fact = self._templar.template((variables or {}).get("deploy") or {})
        try:
            return [updated_fact(fact, news) for news in terms]
        except ValueError as error:
            raise AnsibleError(f"crisper_deploy: {error}") from error
