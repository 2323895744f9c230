"""What roles say of their variables, as one specification."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_argument_specs
short_description: Argument specs of several roles as one
description:
  - For one M(ansible.builtin.validate_argument_spec) at the start of a play instead of one before
    each role. It takes a tenth of the time, and tells what is wrong before anything was done.
options:
  _terms:
    description: Names of roles beside this repository's others, each for its entry point C(main).
    required: true
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

ROLES = Path(__file__).resolve().parents[2] / "roles"


class LookupModule(LookupBase):
    """The lookup."""

    def run(
        self, terms: list[str], variables: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        """One mapping of variable to its specification."""
        found: dict[str, Any] = {}
        for role in terms:
            path = ROLES / role / "meta/argument_specs.yml"
            try:
                text = path.read_text()
            except OSError as error:
                raise AnsibleError(f"crisper_argument_specs: {role}: {error}") from error
            specs = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
            for name, option in specs["argument_specs"]["main"]["options"].items():
                # Only what validation reads: documentation would be templated.
                found[name] = without_documentation(option)
        return [found]


def without_documentation(option: Mapping[str, Any]) -> dict[str, Any]:
    """The option as a module's argument spec has it; defaults are the roles' own."""
    kept = {key: value for key, value in option.items() if key not in ("description", "default")}
    if isinstance(kept.get("options"), Mapping):
        kept["options"] = {
            name: {k: v for k, v in inner.items() if k != "description"}
            for name, inner in kept["options"].items()
        }
    return kept
