"""Filters about the guard of Celery's workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.celery.guard import (
    guard_rows,
    guard_warnings,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.guard import guard_files


class FilterModule:
    """Jinja filters about the guard."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Map of filter name to function."""
        return {
            "crisper_guard_files": guard_files,
            "crisper_guard_rows": guard_rows,
            "crisper_guard_warnings": guard_warnings,
        }
