"""Filters of role backup, which the plan of a deploy uses too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import remote_warning


class FilterModule:
    """Jinja filters about backups."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Map of filter name to function."""
        return {
            "crisper_backup_remote_warning": remote_warning,
        }
