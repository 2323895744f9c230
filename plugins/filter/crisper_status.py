"""Filters of role status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.deploy.unanswered import (
    stranded_failure,
    unanswered,
)


class FilterModule:
    """Jinja filters about answers that are missing."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the functions by filter name."""
        return {"crisper_stranded_failure": stranded_failure, "crisper_unanswered": unanswered}
