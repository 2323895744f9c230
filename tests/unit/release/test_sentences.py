"""Sentences about releases: interrupted, restored, or without a bill of materials."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.release.sentences import (
    release_rows,
    restored_database,
    resumed_note,
    sbom_absence,
)


def test_a_rollback_says_what_it_did_with_the_database() -> None:
    entries = [{"id": "r2", "backup": "b1"}, {"id": "r3", "backup": "b2"}]
    assert restored_database(entries) == "; the database was restored from b1"
    assert restored_database([]).startswith("; the database was left as it is")


def test_a_deploy_says_what_becomes_of_the_interrupted_one() -> None:
    staged = {"release": {"id": "r2"}, "resumed": True, "replaced": ""}
    assert resumed_note(staged, "x") == "It is resumed with release r2."
    staged |= {"resumed": False, "replaced": "r1"}
    assert resumed_note(staged, "r2 is deployed") == "Its release r1 is given up: r2 is deployed."
    staged |= {"replaced": ""}
    assert resumed_note(staged, "x") == "Nothing of it is left to resume: x."


def test_a_missing_bill_of_materials_has_its_reason() -> None:
    assert sbom_absence({}, "r9") == "Release r9 is not kept"
    assert sbom_absence({}, "") == "No release serves"
    release = "20261128t120000z-1a2b3c4d"
    assert sbom_absence({"id": release}, "") == (
        f"Release {release} has no bill of materials: an older edition made it"
    )
    listed = {"id": release, "sbom": {"path": "sbom.json"}}
    assert sbom_absence(listed, "") == sbom_absence(listed, release) == ""


@pytest.mark.parametrize(
    ("altered", "wanted"),
    [
        ({"id": "x/../../inventories/local/group_vars/all/zz"}, ""),
        ({"id": "../x"}, ""),
        ({"id": ["20261128t120000z-1a2b3c4d"]}, ""),
        ({"id": "20261128t120000z-1a2b3c4d"}, "20261128t120000z-00000000"),
        ({"sbom": {"path": "../../../secrets.json"}}, ""),
        ({"sbom": "sbom.json"}, ""),
    ],
)
def test_a_server_does_not_choose_where_the_controller_writes(
    altered: dict[str, Any], wanted: str
) -> None:
    """Regression: an id with `../` wrote into group_vars, and the next playbook ran it."""
    manifest = {"id": "20261128t120000z-1a2b3c4d", "sbom": {"path": "sbom.json"}}
    assert sbom_absence(manifest | altered, wanted) != ""


def test_a_kept_release_is_one_line() -> None:
    """Regression: `--tags releases` printed JSON with a whole log of each release that failed."""
    good = {"id": "r2", "created": "now", "operator": "kim", "revision": "1f", "verified": True}
    good |= {"failed": "", "current": True}
    bad = {**good, "id": "r1", "revision": "", "verified": False, "current": False}
    bad["failed"] = "Release | Start: \x1b[2Jnot healthy.\n--- demo-backend-3:\n| Traceback"
    assert release_rows([good, bad]) == [
        "r2  made now by kim, revision 1f, verified, the current one",
        "r1  made now by kim, not verified; failed: Release | Start: \\x1b[2Jnot healthy.",
    ]
    assert release_rows([]) == ["none"]
