"""Filters of role database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.database.changes import (
    data_services_unchanged,
    migration_wanted,
)


class FilterModule:
    """Jinja filters about changes of the databases."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the functions by filter name."""
        return {
            "crisper_data_services_unchanged": data_services_unchanged,
            "crisper_migration_wanted": migration_wanted,
        }
