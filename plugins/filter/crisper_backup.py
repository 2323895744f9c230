"""Filters of role backup, which the plan of a deploy uses too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import remote_warning
from ansible_collections.crisper.stack.plugins.module_utils.backup.variables import (
    variable_findings,
)


class FilterModule:
    """Jinja filters about backups."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Map of filter name to function."""
        return {
            "crisper_backup_findings": variable_findings,
            "crisper_backup_remote_warning": remote_warning,
        }
