"""A stack on the disk whose backup sets are tested: its settings, and its timer."""

from __future__ import annotations

from ansible_collections.crisper.stack.plugins.module_utils.backup import timer as backup_timer
from ansible_collections.crisper.stack.plugins.module_utils.backup.set import Settings

RELEASE = "20261119t080000z-99887766"
KEY = "k" * 43


def settings(root, **changes):
    return Settings(root=root, project="demo", who="ops", **changes)


def quiet(_step):
    return None


def timer(stack, **changes):
    given = {"root": str(stack), "project": "demo", "who": "backup timer", "keep": 1, **changes}
    return backup_timer.back_up(given, patience=0)
