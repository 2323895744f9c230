"""Variables of single roles that depend on each other are in the list before a deploy begins."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.model.role_checks import role_problems

BACKUP: dict[str, Any] = {
    "backup_keep": 7,
    "backup_keep_days": 0,
    "backup_encryption": "",
    "backup_recipient": "",
    "backup_remote_tool": "",
    "backup_remote_target": "",
}
TLS: dict[str, Any] = {"stack_tls": "self_signed", "tls_days": 397, "tls_renew_days": 30}


@pytest.mark.parametrize(
    ("values", "beginnings"),
    [
        ({**BACKUP, **TLS, "verify_paths": ["/", {"path": "/x", "status": [200, 204]}]}, []),
        ({**BACKUP, "backup_keep": "0"}, ["backup_keep is 0"]),
        (
            {**BACKUP, "backup_keep_days": -1, "backup_encryption": "age"},
            ["backup_keep_days is -1", "backup_encryption is age, but backup_recipient is empty"],
        ),
        # A wrong type has its finding already, and a role that the run lacks has no defaults.
        ({**BACKUP, "backup_keep": "many", "backup_encryption": "age"}, []),
        ({"backup_encryption": "age"}, []),
        # Regression: '30' >= '397' compares texts, and '30' >= 397 is an error of Python's.
        ({**TLS, "tls_renew_days": "30"}, []),
        ({**TLS, "tls_renew_days": "397"}, ["tls_renew_days is 397, but tls_days is 397"]),
        ({**TLS, "tls_renew_days": "397", "stack_tls": "own"}, []),
        # Regression: the deploy failed at its verification, and was undone.
        ({"verify_paths": ["up", {"path": "/", "status": "up"}]}, ["verify_paths[0] is 'up'", "v"]),
        ({"verify_paths": [1]}, ["verify_paths[0] is 1"]),
        ({"verify_paths": "health"}, []),
    ],
)  # fmt: skip
def test_findings_of_single_roles(values: dict[str, Any], beginnings: list[str]) -> None:
    found = list(role_problems(values))
    assert len(found) == len(beginnings)
    for sentence, beginning in zip(found, beginnings, strict=True):
        assert sentence.startswith(beginning)
        assert sentence.endswith(".")
