"""Argument specifications of several roles as one."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_argument_specs
short_description: Argument specs of several roles as one
description:
  - For one M(ansible.builtin.validate_argument_spec) at the start of a play instead of one before
    each role. It takes a tenth of the time, and tells what is wrong before anything was done.
options:
  _terms:
    description: Names of roles of this repository, each for its entry point C(main); role C(stack)
      has its variables at C(model).
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
        """Return one mapping of variable to its specification."""
        found: dict[str, Any] = {}
        for role in terms:
            path = ROLES / role / "meta/argument_specs.yml"
            try:
                text = path.read_text()
            except OSError as error:
                raise AnsibleError(f"crisper_argument_specs: {role}: {error}") from error
            specs = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
            entries = specs["argument_specs"]
            for name, option in (entries.get("main") or entries["model"])["options"].items():
                # Only what validation reads: documentation would be templated.
                found[name] = without_documentation(option)
        return [found]


def without_documentation(option: Mapping[str, Any]) -> dict[str, Any]:
    """Return the option as a module's argument spec has it; defaults are the roles' own."""
    result = {key: value for key, value in option.items() if key not in ("description", "default")}
    if isinstance(result.get("options"), Mapping):
        result["options"] = {
            name: {k: v for k, v in inner.items() if k != "description"}
            for name, inner in result["options"].items()
        }
    return result
