"""Filters that decide what a run does with the release before it, and word how it failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.deploy.failure_path import (
    database_words,
    deploy_outcome,
    go_on,
    may_act,
    rollback_outcome,
    undo_wanted,
)
from ansible_collections.crisper.stack.plugins.module_utils.release.sentences import (
    release_rows,
    restored_database,
    resumed_note,
    sbom_absence,
)


class FilterModule:
    """Jinja filters of role rollback."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Map of filter name to function."""
        return {
            "crisper_database_words": database_words,
            "crisper_deploy_outcome": deploy_outcome,
            "crisper_go_on": go_on,
            "crisper_may_act": may_act,
            "crisper_release_rows": release_rows,
            "crisper_restored_database": restored_database,
            "crisper_resumed_note": resumed_note,
            "crisper_rollback_outcome": rollback_outcome,
            "crisper_sbom_absence": sbom_absence,
            "crisper_undo_wanted": undo_wanted,
        }
