"""Checks of the variables of role backup that depend on each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRIVATE_KEYS = ("AGE-SECRET-KEY", "PRIVATE KEY")


def variable_findings(values: Mapping[str, Any]) -> list[str]:
    """Return a sentence with the remedy for each wrong variable.

    Args:
        values: variable -> its value, without the prefix ``backup_``.
    """
    keep, days = values["keep"], values["keep_days"]
    encryption, recipient = values["encryption"], values["recipient"]
    tool, target = values["remote_tool"], values["remote_target"]
    checks = [
        (keep < 1, f"backup_keep is {keep}: at least one set has to stay; set 1 or more"),
        (days < 0, f"backup_keep_days is {days}: set the days, or 0 for no limit"),
        (
            encryption and not recipient,
            f"backup_encryption is {encryption}, but backup_recipient is empty: set it to the"
            " public key",
        ),
        (
            recipient and not encryption,
            "backup_recipient is set, but backup_encryption is empty: set it to age or gpg",
        ),
        (
            any(words in recipient for words in PRIVATE_KEYS),
            "backup_recipient holds a private key: set it to the public one",
        ),
        (
            tool and not target,
            f"backup_remote_tool is {tool}, but backup_remote_target is empty: set where the sets"
            " go",
        ),
        (
            target and not tool,
            f"backup_remote_target is {target}, but backup_remote_tool is empty: set it to rsync"
            " or rclone",
        ),
    ]
    return [sentence for wrong, sentence in checks if wrong]
