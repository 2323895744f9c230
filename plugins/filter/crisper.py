"""Filters that turn the stack's variables into findings, a model and rendered values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible adds the repository's module_utils for modules only; plugins must say where it is.
ansible.module_utils.__path__.append(str(Path(__file__).parents[2] / "module_utils"))

from ansible.module_utils.crisper_stack import (
    compose_value,
    env_file_line,
    find_problems,
    host_name,
    short_digest,
    size_bytes,
    stack_model,
    url_secret,
)


class FilterModule:
    """Jinja filters of this repository."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Map of filter name to function."""
        return {
            "crisper_compose_value": compose_value,
            "crisper_env_line": env_file_line,
            "crisper_findings": find_problems,
            "crisper_host_name": host_name,
            "crisper_model": stack_model,
            "crisper_short_digest": short_digest,
            "crisper_size_bytes": size_bytes,
            "crisper_url_secret": url_secret,
        }
