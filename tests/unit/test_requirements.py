"""The collections of requirements.yml are those that the pinned PyPI packages carry."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import ansible_collections
import yaml

ROOT = Path(__file__).resolve().parents[2]
# Of the package `ansible`, and not the collection that this repository is.
BUNDLED = next(p for p in ansible_collections.__path__ if Path(p, "community").is_dir())


def test_collections_have_the_versions_of_the_pinned_ansible_package():
    """The oldest comes with the Ansible for Python 3.11, the newest with that for later ones."""
    wanted = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"]
    assert wanted
    for collection in wanted:
        folder = Path(BUNDLED, *collection["name"].split("."))
        manifest = json.loads((folder / "MANIFEST.json").read_text())
        oldest, newest = re.fullmatch(r">=([\d.]+),<=([\d.]+)", collection["version"]).groups()
        installed = manifest["collection_info"]["version"]
        assert installed == (newest if sys.version_info >= (3, 12) else oldest)


def test_the_documents_name_the_pinned_versions():
    text = (ROOT / "docs/COMPATIBILITY.md").read_text()
    collection = yaml.safe_load((ROOT / "requirements.yml").read_text())["collections"][0]
    carried = re.findall(r"=([\d.]+)", collection["version"])
    for minor, docker in zip((11, 12), carried, strict=True):
        path = f"requirements/controller-python3.{minor}.txt"
        pins = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / path).read_text(), re.MULTILINE))
        row = f"| {pins['ansible']} | {pins['ansible-core']} | {docker} | `{path}` |"
        assert row in text, f"docs/COMPATIBILITY.md lacks {row}"
        assert f"| {pins['ansible-core']} | 3." in text


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
