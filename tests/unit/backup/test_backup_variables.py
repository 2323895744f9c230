"""Findings in the variables of role backup."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.variables import (
    variable_findings,
)

VALUES: dict[str, Any] = {
    "keep": 7,
    "keep_days": 0.0,
    "encryption": "",
    "recipient": "",
    "remote_tool": "",
    "remote_target": "",
}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"keep": 1, "keep_days": 0.5},
        {"encryption": "age", "recipient": "age1xyz"},
        {"remote_tool": "rsync", "remote_target": "backup@elsewhere:/srv"},
    ],
)
def test_variables_that_belong_together(values: dict[str, Any]) -> None:
    assert variable_findings({**VALUES, **values}) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"keep": 0}, "backup_keep is 0: "),
        ({"keep_days": -1.0}, "backup_keep_days is -1.0: "),
        ({"encryption": "gpg"}, "backup_encryption is gpg, but backup_recipient is empty"),
        ({"recipient": "age1xyz"}, "backup_recipient is set, but backup_encryption is empty"),
        (
            {"encryption": "age", "recipient": "AGE-SECRET-KEY-1XYZ"},
            "backup_recipient holds a private key",
        ),
        (
            {"encryption": "gpg", "recipient": "-----BEGIN PGP PRIVATE KEY BLOCK-----"},
            "backup_recipient holds a private key",
        ),
        ({"remote_tool": "rclone"}, "backup_remote_tool is rclone, but backup_remote_target"),
        ({"remote_target": "/srv"}, "backup_remote_target is /srv, but backup_remote_tool"),
    ],
)
def test_a_wrong_variable_is_named_with_its_remedy(values: dict[str, Any], words: str) -> None:
    (finding,) = variable_findings({**VALUES, **values})
    assert finding.startswith(words)


def test_all_findings_come_at_once() -> None:
    wrong = {"keep": 0, "encryption": "age", "remote_target": "/x"}
    assert len(variable_findings({**VALUES, **wrong})) == 3
