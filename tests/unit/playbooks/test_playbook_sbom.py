"""The bill of materials that a server holds, as it reaches the controller."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from harness import Run, Site, deployed_site

RELEASE = "20261128t120000z-1a2b3c4d"
SBOM = json.dumps({"bomFormat": "CycloneDX"})
LISTED = {
    "path": "sbom.json",
    "sha256": hashlib.sha256(SBOM.encode()).hexdigest(),
    "packages": 1,
    "images": {"backend": {"pypi": 1}},
    "licences": {"MIT": 1},
    "licence_names": 1,
}


@pytest.fixture
def site() -> Site:
    """Return a deployed site."""
    return deployed_site("one")[0]


def fetch(site: Site, folder: Path, **altered: Any) -> Run:
    """Run the playbook; `altered` is what the server's manifest says otherwise."""
    release = site.one.root / "releases" / RELEASE
    release.mkdir()
    (release / "sbom.json").write_text(SBOM)
    (release / "manifest.json").write_text(json.dumps({"id": RELEASE, "sbom": LISTED} | altered))
    given = {"release_sbom_of": RELEASE, "release_sbom_folder": str(folder)}
    return site.deploy(playbook="playbooks/sbom.yml", **given)


def test_it_is_fetched_and_told(site: Site, tmp_path: Path) -> None:
    fetch(site, tmp_path / "sbom").succeeded(RELEASE, "1 packages, CycloneDX", "MIT")
    (path,) = (tmp_path / "sbom").iterdir()
    assert path.name.endswith(f"-{RELEASE}.cdx.json")
    assert path.read_text() == SBOM


@pytest.mark.parametrize(
    ("altered", "said"),
    [
        ({"id": "x/../../group_vars/all/zz"}, "was altered"),
        ({"sbom": {**LISTED, "path": "../../secrets.json"}}, "has no bill of materials"),
    ],
)
def test_a_server_does_not_choose_a_place_on_the_controller(
    site: Site, tmp_path: Path, altered: dict[str, Any], said: str
) -> None:
    """Regression: it wrote into group_vars, and the next playbook ran that."""
    fetch(site, tmp_path / "sbom", **altered).failed(said)
    assert list(tmp_path.iterdir()) == []
