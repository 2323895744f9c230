#!/usr/bin/python
"""Give the data volumes of services to the users that the services run as."""

from __future__ import annotations

DOCUMENTATION = r"""
module: volume_owner
short_description: Give data volumes to the users that their services run as
description:
  - A release names the user of each service. Where the volume belongs to another one, because a
    release of another edition ran as that, or because the volume is new and took over the owner of
    the image's folder, the service is stopped and the files are given to the new user. The caller
    starts the service as the release has it.
  - While files are changed, the volume's folder belongs to root. A run that was killed is thereby
    known, and the next one goes through all files again, in whichever direction.
  - When the files cannot be changed, they are given back, and what ran is started again.
extends_documentation_fragment: [crisper.docker]
options:
  project_src:
    description: Folder of the release.
    type: path
    required: true
  project_name:
    description: Name of the stack, and compose project.
    type: str
    required: true
  services:
    description: Services to look at; those whose user is no number are left alone.
    type: list
    elements: str
    required: true
  timeout:
    description: Seconds that the change of the files of one volume may take.
    type: int
    default: 1800
attributes:
  check_mode:
    description: Changes nothing in check mode and tells whether it would.
    support: full
author: Crisper
"""

EXAMPLES = r"""
- name: Give the data volumes to their services
  volume_owner:
    project_src: /opt/crisper/current
    project_name: crisper
    services: [qdrant]
"""

RETURN = r"""
services:
  description: Services whose volumes were given to another user.
  returned: always
  type: list
  elements: dict
  sample: [{service: qdrant, volume: crisper_qdrant, before: 1000, after: 60905}]
"""

import json
import re
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import (
    DockerClient,
    DockerError,
)
from ansible_collections.crisper.stack.plugins.module_utils.text import composed, quote_output

USER = re.compile(r"(\d+)(?::(\d+))?\Z")
# $0: the folder, $1: user, $2: group. Its own owner says last that all is done.
GIVE = (
    'set -e; chown 0:0 "$0"; find "$0" -mindepth 1 ! -user "$1" -exec chown -h "$1:$2" {} +;'
    ' chown "$1:$2" "$0"'
)


class Volumes:
    """Data volumes of one stack's services."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.cli = module.params["docker_cli"]
        self.compose = ["compose", "--project-name", module.params["project_name"]]

    def call(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, output and errors of a Docker command in the release's folder."""
        folder = self.params["project_src"]
        answer: tuple[int, str, str] = self.module.run_command([self.cli, *arguments], cwd=folder)
        return answer

    def definitions(self) -> dict[str, Any]:
        """Return the release as Compose reads it."""
        code, out, err = self.call(*self.compose, "config", "--format", "json")
        if code != 0:
            self.module.fail_json(msg=f"Compose refuses the release: {quote_output(err)}")
        model: dict[str, Any] = json.loads(out)
        return model

    def is_mapped(self) -> bool:
        """Return whether ids in containers are others on the host (user namespaces, rootless)."""
        _code, out, _err = self.call("info", "--format", "{{json .SecurityOptions}}")
        return "name=userns" in out or "name=rootless" in out

    def owner(self, service: str, volume: str, folder: str) -> int | None:
        """Return the user id that a volume belongs to in containers; None without the volume."""
        form = ("--format", "{{.Mountpoint}}")
        code, out, _err = self.call("volume", "inspect", *form, volume)
        if code != 0:
            return None
        if not self.is_mapped():
            try:
                return Path(out.strip()).stat().st_uid
            except OSError:
                pass  # a driver that mounts it only for containers
        code, out, err = self.inside(service, ["stat", "-c", "%u", folder])
        if code != 0 or not out.strip().isdigit():
            self.module.fail_json(
                msg=composed(
                    f"The owner of volume {volume} is not known: {quote_output(err or out)}."
                    " Nothing was changed."
                )
            )
        return int(out)

    def inside(self, service: str, command: list[str]) -> tuple[int, str, str]:
        """Run a command as root in a container of the service, with rights over files alone."""
        rights = ["--cap-add", "CHOWN", "--cap-add", "DAC_READ_SEARCH"]
        limit = str(self.params["timeout"])
        return self.call(
            *(*self.compose, "run", "--rm", "--no-deps", "-T", *rights, "--user", "0:0"),
            *("--entrypoint", "timeout", service, "--kill-after=10", limit, *command),
        )

    def give(self, service: str, folder: str, uid: int, gid: int) -> str:
        """Give all files of the volume to a user; return why that failed, or nothing."""
        code, out, err = self.inside(service, ["sh", "-c", GIVE, folder, str(uid), str(gid)])
        if code == 0:
            return ""
        return quote_output((err or out).strip()[-1000:]) or f"exit code {code}"

    def stop(self, service: str) -> list[str]:
        """Stop the containers of a service; return those that ran."""
        client = DockerClient(self.module, self.params["project_name"])
        try:
            ids = client.list_ids(service)
        except DockerError as error:
            self.module.fail_json(msg=f"{service} was not stopped: {quote_output(str(error))}")
        code, _out, err = self.call("stop", *ids) if ids else (0, "", "")
        if code != 0:
            self.module.fail_json(msg=f"{service} was not stopped: {quote_output(err)}")
        return ids

    def ensure_owner(self, service: str, definition: dict[str, Any], names: dict[str, Any]) -> Any:
        """Give the volume of one service to its user; what was done, or None."""
        match = USER.match(str(definition.get("user", "")))
        mounts = [m for m in definition.get("volumes") or [] if m.get("type") == "volume"]
        if match is None or not mounts:
            return None
        uid, gid = int(match[1]), int(match[2] or match[1])
        source, folder = mounts[0]["source"], mounts[0]["target"]
        volume = (names.get(source) or {}).get("name", source)
        before = self.owner(service, volume, folder)
        if before == uid:
            return None
        done = {"service": service, "volume": volume, "before": before, "after": uid}
        if self.module.check_mode:
            return done
        running = self.stop(service)
        why = self.give(service, folder, uid, gid)
        if why:
            outcome = self.give_back(service, folder, before, running)
            self.module.fail_json(
                msg=composed(
                    f"The files of volume {volume} were not given to user id {uid}, as which"
                    f" {service} is to run: {why}. {outcome}"
                )
            )
        return done

    def give_back(self, service: str, folder: str, before: int | None, running: list[str]) -> str:
        """Give files back to the user of before, and start what ran; return what came of it."""
        outcome = "The next run goes through all of its files again."
        if before:
            why = self.give(service, folder, before, before)
            outcome = (
                f"Its files were not given back to user id {before} either: {why}."
                if why
                else f"Its files belong to user id {before} again."
            )
        if running:
            code, _out, err = self.call("start", *running)
            outcome += (
                " It runs again." if code == 0 else f" It was not started: {quote_output(err)}"
            )
        return outcome

    def result(self) -> dict[str, Any]:
        """Fit all of them; return the report."""
        release = self.definitions()
        found = [
            self.ensure_owner(name, release["services"][name], release.get("volumes") or {})
            for name in self.params["services"]
            if name in release["services"]
        ]
        done = [each for each in found if each]
        return {"changed": bool(done), "services": done}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "project_src": {"type": "path", "required": True},
            "project_name": {"type": "str", "required": True},
            "services": {"type": "list", "elements": "str", "required": True},
            "timeout": {"type": "int", "default": 1800},
            "docker_cli": {"type": "str", "default": "docker"},
        },
        supports_check_mode=True,
    )
    module.exit_json(**Volumes(module).result())


if __name__ == "__main__":
    main()
