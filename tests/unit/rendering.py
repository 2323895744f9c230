"""What Ansible makes of an inventory: findings, or the files of a release. In this process."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader, init_plugin_loader, lookup_loader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[2]
# The applications of the scenarios, and what their inventories leave to whoever deploys them.
APPS = ROOT / "tests/apps"
GIVEN = "\nstack_secrets_generate: true\nawkward_backend_image: crisper/backend:src-0123456789ab\n"


def load_package() -> None:
    """Import all of our package: what Python has begun to load, Ansible cannot continue."""
    package = sys.modules.get("ansible_collections.crisper.stack.plugins.module_utils")
    if package is not None:
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)


@cache
def roles() -> dict[str, Any]:
    """Defaults and variables of the roles up to the release, as Ansible reads them."""
    load_package()
    init_plugin_loader([str(ROOT / "collections")])
    filter_loader.add_directory(str(ROOT / "plugins/filter"))
    lookup_loader.add_directory(str(ROOT / "plugins/lookup"))
    found: dict[str, Any] = {}
    for role in ("stack", "release"):
        for part in ("defaults", "vars"):
            found |= _read(ROOT / "roles" / role / part / "main.yml")
    return found


@cache
def specification() -> dict[str, Any]:
    """The argument specification of role stack."""
    specs = _read(ROOT / "roles/stack/meta/argument_specs.yml")
    return specs["argument_specs"]["variables"]["options"]


def _read(path: Path) -> dict[str, Any]:
    return DataLoader().load_from_file(str(path), trusted_as_template=True) or {}


class Inventory:
    """One operator's inventory, from its text to the files of a release."""

    def __init__(self, text: str) -> None:
        """Read YAML, or JSON as of ``--extra-vars``."""
        known = dict(roles())
        loader = DataLoader()
        loader.set_basedir(str(ROOT))
        self.given = loader.load(trust_as_template(text))
        known |= self.given
        known |= {
            "role_path": str(ROOT / "roles/release"),
            "playbook_dir": str(ROOT),
            "ansible_search_path": [str(ROOT)],
            "inventory_dir": str(ROOT / "inventories/example"),
            "inventory_hostname": "app-1",
            "hostvars": {"app-1": self.given},
            "ansible_managed": "Ansible managed",
        }
        self.templar = Templar(loader=loader, variables=known)
        self.known = known

    def value(self, expression: str) -> Any:
        """What an expression of the roles comes to."""
        return self.templar.template(trust_as_template("{{ " + expression + " }}"))

    def findings(self) -> list[str]:
        """What the deploy says before it touches anything; empty when all is fit."""
        return self.value("__stack_findings")

    def files(self) -> dict[str, str]:
        """Path to content of the rendered release; only for an inventory without findings."""
        # As role tasks do it: facts, no templates any more.
        model = self.value("__stack_values | crisper_model")
        given = self.value("__release_given_secrets")
        made = {name: f"made-{name}" for name in model["required_secrets"] if name not in given}
        self.known |= {"stack_model": model, "release_secrets": made | given}
        rendered = self.value("{'compose': __release_compose, 'nginx': __release_nginx}")
        self.known["release_rendered"] = rendered
        listed = self.value(
            "__release_files + __release_secret_files + __release_application_files"
        )
        if self.value("mariadb_enabled"):
            listed += self.value("__release_mariadb_files")
        return {item["path"]: item["content"] for item in listed}


def outcome(text: str) -> tuple[list[str], dict[str, str]]:
    """Findings, or else the files; a file that Ansible cannot read is its own clear error."""
    try:
        inventory = Inventory(text)
    except AnsibleError as error:
        return [str(error)], {}
    findings = inventory.findings()
    return (findings, {}) if findings else ([], inventory.files())
