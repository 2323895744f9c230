"""The collections of requirements.yml are those that the pinned PyPI package carries."""

from __future__ import annotations

import json
from pathlib import Path

import ansible_collections
import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_collections_have_the_versions_of_the_pinned_ansible_package():
    wanted = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]
    assert wanted
    for collection in wanted:
        folder = Path(ansible_collections.__path__[0], *collection["name"].split("."))
        manifest = json.loads((folder / "MANIFEST.json").read_text())
        assert collection["version"] == manifest["collection_info"]["version"]


def test_every_collection_used_is_required():
    wanted = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]
    names = {collection["name"] for collection in wanted} | {"ansible.builtin"}
    text = "".join(
        path.read_text()
        for folder in ("roles", "playbooks", "molecule")
        for path in (ROOT / folder).rglob("*.yml")
    )
    for prefix in (
        "community.general",
        "ansible.posix",
        "community.crypto",
        "community.postgresql",
    ):
        assert prefix in names or f"{prefix}." not in text
