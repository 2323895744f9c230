#!/usr/bin/python
"""Plan a deploy without doing any of it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_plan
short_description: Tell what a deploy would do to each service
description:
  - Compares the rendered release with the one that serves and with what runs. Nothing is built,
    started or kept; the rendered files lie in a private temporary folder while Compose looks at
    them. Works on a host without Docker, where everything would be created.
extends_documentation_fragment: [crisper.files, crisper.docker, crisper.root, crisper.host]
options:
  stack:
    description: Name of the stack, and compose project.
    type: str
    required: true
  images:
    description: Name to C({ref, id}) of every image; an empty id is yet to be made.
    type: dict
    default: {}
  services:
    description: Service to C({kind, replicas}), as of M(compose_rollout).
    type: dict
    required: true
  migrate:
    description: The migration command; another one than that of the current release will run.
    type: list
    elements: str
    default: []
  check_command:
    description: Command that exits with 0 when no migration is pending.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: It only looks.
    support: full
  diff_mode:
    description: The plan is the diff.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Compute the plan of a deploy
  stack_plan:
    root: /opt/crisper
    stack: crisper
    files: "{{ release_files }}"
    images: "{{ stack_images }}"
    services: "{{ stack_model.rollout }}"
"""

RETURN = r"""
current:
  description: Id of the release that serves.
  returned: always
  type: str
  sample: 20261119t080000z-99887766
same:
  description: Whether the wanted release is the one that serves.
  returned: always
  type: bool
  sample: false
steps:
  description: One entry per service, as of M(compose_rollout).
  returned: always
  type: list
  elements: dict
  sample: [{service: backend, action: roll, reason: release 20261119t080000z-99887766 runs}]
images:
  description: Images that differ; an empty C(new) is yet to be made.
  returned: always
  type: list
  elements: dict
  sample: [{name: backend, old: "sha256:1a2b", new: ""}]
env_changed:
  description: Names of environment variables that differ.
  returned: always
  type: list
  elements: str
  sample: ["~LOG_LEVEL"]
files_changed:
  description: Paths of rendered files that differ.
  returned: always
  type: list
  elements: str
  sample: [nginx/nginx.conf]
migrations:
  description: V(none), or V(pending) or V(unknown) with the reason.
  returned: always
  type: str
  sample: none
refusals:
  description: Why the deploy would be refused, a sentence each; an image that cannot open the data.
  returned: always
  type: list
  elements: str
  sample: []
workers:
  description: Node names of running workers that would be drained.
  returned: always
  type: list
  elements: str
  sample: [default@app1-20261119t080000z-99887766-0a1b2c3d4e5f]
"""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.database.versions import find_misfits
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import DockerClient
from ansible_collections.crisper.stack.plugins.module_utils.files import make_folder
from ansible_collections.crisper.stack.plugins.module_utils.host.networks import networks_to_create
from ansible_collections.crisper.stack.plugins.module_utils.images.identity import (
    is_same as same_image,
)
from ansible_collections.crisper.stack.plugins.module_utils.output import describe_failure
from ansible_collections.crisper.stack.plugins.module_utils.release.manifest import (
    MANIFEST,
    decoded_files,
    env_names_changed,
    file_options,
    fingerprint,
)
from ansible_collections.crisper.stack.plugins.module_utils.rollout.plan import (
    Container,
    decide,
    node_name,
)

ARGUMENT_SPEC: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "stack": {"type": "str", "required": True},
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": file_options("0644", no_log=False),
    },
    "secret_files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": file_options("0600", no_log=True),
    },
    "images": {"type": "dict", "default": {}},
    "services": {"type": "dict", "required": True},
    "host": {"type": "str", "default": ""},
    "migrate": {"type": "list", "elements": "str", "default": []},
    "check_command": {"type": "list", "elements": "str", "default": []},
    "docker_cli": {"type": "str", "default": "docker"},
}
LIMIT = 120  # seconds for the question whether migrations are pending
UNTOLD = (124, 125, 126, 127, 137)  # exit codes of a check that could not run, or not to its end


class Plan:
    """Differences between the wanted release and what serves and runs."""

    def __init__(self, module: AnsibleModule) -> None:
        self.params = module.params
        self.engine = DockerClient(module, module.params["stack"])
        self.files = decoded_files([*module.params["files"], *module.params["secret_files"]])
        self.current: dict[str, Any] = {}
        link = Path(module.params["root"]) / "current"
        self.folder = link.resolve() if link.is_symlink() else None
        if self.folder:
            try:
                self.current = json.loads((self.folder / MANIFEST).read_text())
            except (OSError, ValueError) as error:
                module.fail_json(msg=f"{self.folder}/{MANIFEST} cannot be read: {error}.")

    def old_text(self, path: str) -> str:
        """Return a file of the release that serves; empty where it has none, or no text."""
        try:
            return (self.folder / path).read_bytes().decode() if self.folder else ""
        except (OSError, UnicodeError):
            return ""

    def write(self, folder: Path) -> None:
        """Write the release as Compose would see it, its images by id: they have no names yet."""
        for item in self.files:
            text = item["content"]
            if item["path"] == ".env":
                text += "RELEASE=planned\n"
            if item["path"] == "docker-compose.prod.yml":
                for name in ("backend", "frontend"):
                    image = self.params["images"].get(name, {}).get("id")
                    if image:
                        named = f"{self.params['stack']}/{name}:${{RELEASE}}"
                        text = text.replace(f"image: {named}\n", f"image: {image}\n")
                # Files of the application lie in the release, which is not there yet.
                text = text.replace(f"{self.params['root']}/releases/${{RELEASE}}/", f"{folder}/")
            path = folder / item["path"]
            make_folder(path.parent, 0o700)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as stream:
                stream.write(text.encode())
            if os.geteuid() == 0:
                os.chown(path, item["owner"], -1)

    def missing_networks(self) -> list[str]:
        """Return the networks of the wanted backend that the engine does not have."""
        import yaml  # role docker has seen to it: modules of community.docker need it too

        text = next(f["content"] for f in self.files if f["path"] == "docker-compose.prod.yml")
        composed = yaml.safe_load(text) or {}
        mine = composed.get("services", {}).get("backend", {}).get("networks") or []
        wanted = {k: v for k, v in (composed.get("networks") or {}).items() if k in mine}
        code, out, _err = self.engine.call("network", "ls", "--format", "{{.Name}}")
        missing = networks_to_create(wanted, self.params["stack"], out.split())
        return [name for name, _options in missing] if code == 0 else []

    def migrations(self, folder: Path) -> str:
        """Return whether migrations are pending, by the wanted image's own word."""
        migrate, check = self.params["migrate"], self.params["check_command"]
        if migrate and self.current.get("migrate", migrate) != migrate:
            return "pending: stack_app.migrate.command changed, so it runs"
        if not check:
            return "unknown: stack_app.migrate.check_command is not set"
        if not self.params["images"].get("backend", {}).get("id"):
            return "unknown: the image is yet to be made"
        if missing := self.missing_networks():
            return (
                f"unknown: the networks {', '.join(missing)} are yet to be made, and Compose would"
                " make them before the firewall's rules are in force: the deploy makes both"
            )
        command = ["compose", "--project-name", self.params["stack"], "run", "--rm", "--no-deps"]
        command += ["-T", "backend", "timeout", "--kill-after=10", str(LIMIT), *check]
        code, out, err = self.engine.call(*command, folder=str(folder))
        if code in UNTOLD:
            failed = {"rc": code, "stdout": out, "stderr": err}
            action = f"stack_app.migrate.check_command ({' '.join(check)})"
            return f"unknown: {describe_failure(failed, action, LIMIT)}"
        return "pending" if code else "none"

    def refusals(self) -> list[str]:
        """Return why a deploy would be refused: data that a wanted image cannot open."""
        if not self.engine.available():
            return []
        found = find_misfits(self.engine.call, self.params["stack"], self.params["images"])
        return [f"{each.message}: {each.remedy}." for each in found]

    def ask_compose(
        self, containers: Sequence[Container], unchanged: bool
    ) -> tuple[list[str], str]:
        """Return the services whose definition changed, and what is known of migrations.

        Args:
            containers: of the stack.
            unchanged: whether the release that serves is the wanted one.
        """
        redefined: list[str] = []
        migrations = "none" if unchanged else "all: there is no database yet"
        draft = Path(tempfile.mkdtemp(prefix="crisper-plan-"))
        try:
            self.write(draft)
            if containers:
                services = self.params["services"]
                redefined = self.engine.definitions_changed(services, containers, str(draft))
            if self.current and not unchanged:
                migrations = self.migrations(draft)
        finally:
            shutil.rmtree(draft)
        return redefined, migrations

    def differences(self) -> dict[str, list[Any]]:
        """Return what differs from the release that serves: images, environment and files."""
        old = self.current.get("images", {})
        env = next((f["content"] for f in self.files if f["path"] == ".env.prod"), "")
        return {
            "images": [
                {"name": name, "old": old.get(name, {}).get("id", ""), "new": image["id"]}
                for name, image in self.params["images"].items()
                if not image["id"] or not same_image(old.get(name, {}), image)
            ],
            "env_changed": env_names_changed(self.old_text(".env.prod"), env),
            "files_changed": [
                item["path"]
                for item in self.files
                if item["path"] != ".env" and self.old_text(item["path"]) != item["content"]
            ],
        }

    def result(self) -> dict[str, Any]:
        """Return the plan, as RETURN describes it."""
        services, images = self.params["services"], self.params["images"]
        print_ = fingerprint(self.files, images, self.params["migrate"])
        unchanged = bool(self.current) and self.current.get("fingerprint") == print_
        containers = self.engine.containers() if self.engine.available() else []
        redefined, migrations = self.ask_compose(containers, unchanged)
        wanted = self.current.get("id", "") if unchanged else "planned"
        return {
            "changed": False,
            "current": self.current.get("id", ""),
            "same": unchanged,
            "steps": [s.as_dict() for s in decide(services, containers, wanted, redefined)],
            **self.differences(),
            "migrations": migrations,
            "refusals": self.refusals(),
            "workers": [
                node_name(container, self.params["host"])
                for container in containers
                if container.pool and container.state == "running" and container.release != wanted
            ],
        }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.exit_json(**Plan(module).result())


if __name__ == "__main__":
    main()
