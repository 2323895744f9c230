"""Filters of role backup, which the plan of a deploy uses too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ansible.module_utils

# Ansible adds the repository's module_utils for modules only; plugins must say where it is.
ansible.module_utils.__path__.append(str(Path(__file__).parents[2] / "module_utils"))

from ansible.module_utils.crisper_backup import remote_warning


class FilterModule:
    """Jinja filters about backups."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Map of filter name to function."""
        return {"crisper_backup_remote_warning": remote_warning}
