#!/usr/bin/python
"""Close the host and link-local addresses from containers of a stack."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_firewall
short_description: Close the host and link-local addresses from containers of a stack
description:
  - Creates the networks of a release that are missing, and has rules of iptables in force for all
    networks of the stack - their containers get no new connection to the host itself, to
    link-local addresses (C(169.254.0.0/16) and others that clouds have their metadata at), and
    from the network C(clients) to nothing else than clients.
  - A systemd unit, C(crisper-firewall@<project>.service), has the rules in force before the engine
    starts. On a host without systemd that is the operator's.
  - With O(state=probed) it tries, out of the network of one container of each service, whether that
    is so.
extends_documentation_fragment: [crisper.docker, crisper.project, crisper.root]
author: [Crisper]
options:
  state:
    description: Whether rules are in force, removed, or tried.
    type: str
    choices: [present, absent, probed]
    default: present
  release:
    description: Folder of the release whose networks are created; empty creates none.
    type: path
    default: ""
  host_ports:
    description: Ports of the host that containers on networks with a way out may reach, such as
      V(5432) or V(53/udp).
    type: list
    elements: raw
    default: []
  published_ports:
    description: Ports that nginx publishes. They are open too, unless O(bind_address) is loopback.
    type: list
    elements: raw
    default: []
  bind_address:
    description: Address that they are published on; empty is all.
    type: str
    default: ""
attributes:
  check_mode:
    description: It changes nothing, and tells whether it would.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Close the host to the stack's containers
  stack_firewall:
    project: crisper
    root: /opt/crisper
    release: /opt/crisper/releases/20250101t000000z-0123abcd
    host_ports: [5432, 53/udp]
"""

RETURN = r"""
created:
  description: Networks that were created.
  returned: with O(state=present)
  type: list
  elements: str
  sample: [crisper_clients]
differs:
  description: Whether networks, rules or files were not as wanted; also where C(changed_when) says
    something else of the task.
  returned: with O(state=present) and O(state=absent)
  type: bool
findings:
  description: What containers reached and must not, one sentence with the remedy.
  returned: with O(state=probed)
  type: list
  elements: str
  sample: []
tried:
  description: How many connections were tried; none before rules have been in force.
  returned: with O(state=probed)
  type: int
  sample: 17
"""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.files import make_folder
from ansible_collections.crisper.stack.plugins.module_utils.host.firewall import (
    TABLES,
    daemon_nameservers,
    in_force,
    list_command,
    open_ports,
    parse_nameservers,
    render_rules,
    render_script,
    render_unit,
)
from ansible_collections.crisper.stack.plugins.module_utils.host.firewall_probe import (
    attempts,
    describe_reached,
    host_address,
    try_attempts,
)
from ansible_collections.crisper.stack.plugins.module_utils.host.networks import (
    PROJECT,
    networks_to_create,
    parse_networks,
)
from ansible_collections.crisper.stack.plugins.module_utils.text import quote_output

ARGUMENT_SPEC: dict[str, Any] = {
    "project": {"type": "str", "required": True},
    "root": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["present", "absent", "probed"], "default": "present"},
    "release": {"type": "path", "default": ""},
    "host_ports": {"type": "list", "elements": "raw", "default": []},
    "published_ports": {"type": "list", "elements": "raw", "default": []},
    "bind_address": {"type": "str", "default": ""},
    "docker_cli": {"type": "str", "default": "docker"},
}
UNITS = Path("/etc/systemd/system")
# Where the engine takes the nameservers from when the other one only names systemd-resolved.
RESOLVERS = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
DAEMON = Path("/etc/docker/daemon.json")


class Firewall:
    """The rules of one stack on this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module, params = module, module.params
        self.project, self.cli = params["project"], params["docker_cli"]
        self.folder = Path(params["root"]) / "firewall"
        self.unit = f"crisper-firewall@{self.project}.service"
        self.ports = open_ports(
            params["host_ports"], params["published_ports"], params["bind_address"]
        )

    def fail(self, message: str) -> NoReturn:
        """End with what failed and what to do."""
        self.module.fail_json(msg=message)
        raise AssertionError  # fail_json has ended the process

    def run(self, *command: str, check: bool = True) -> tuple[int, str]:
        """Return exit code and output of a command."""
        code, out, err = self.module.run_command(list(command))
        if code != 0 and check:
            self.fail(
                f"`{' '.join(command[:4])} …` failed: {quote_output((err or out).strip()[-1000:])}"
            )
        return code, out

    def networks(self) -> list[dict[str, Any]]:
        """Return ``docker network inspect`` of the stack's networks."""
        label = f"label={PROJECT}={self.project}"
        ids = self.run(self.cli, "network", "ls", "--quiet", "--no-trunc", "--filter", label)[1]
        if not ids.split():
            return []
        # One that goes away meanwhile is left out.
        out = self.run(self.cli, "network", "inspect", *ids.split(), check=False)[1]
        records: list[dict[str, Any]] = json.loads(out)
        return records

    def create_networks(self) -> list[str]:
        """Create the release's networks that are missing; return their names."""
        path = Path(self.module.params["release"]) / "docker-compose.prod.yml"
        if not self.module.params["release"] or not path.is_file():
            return []
        import yaml  # role docker has seen to it: modules of community.docker need it too

        composed = (yaml.safe_load(path.read_text()) or {}).get("networks") or {}
        existing = self.run(self.cli, "network", "ls", "--format", "{{.Name}}")[1].split()
        missing = networks_to_create(composed, self.project, existing)
        if not self.module.check_mode:
            for name, options in missing:
                self.run(self.cli, "network", "create", *options, name)
        return [name for name, _options in missing]

    def nameservers(self) -> list[str]:
        """Return those that containers' names are looked up at."""
        found = daemon_nameservers(_read(DAEMON))
        for path in RESOLVERS:
            found += parse_nameservers(_read(path))
        return list(dict.fromkeys(found))

    def tables(self) -> dict[int, str]:
        """Return the programs that write rules, by version of IP; fail where one is missing."""
        versions = [4, *([6] if Path("/proc/sys/net/ipv6").is_dir() else [])]
        # Wherever they are: not every way to become root has sbin in its PATH.
        tables = {v: self.module.get_bin_path(TABLES[v]) or "" for v in versions}
        missing = [TABLES[v] for v, path in tables.items() if not path]
        if missing:
            self.fail(
                f"{' and '.join(missing)} is missing on this host: the host cannot be closed to the"
                " containers of the stack. Install it (apt-get install iptables), or set"
                " stack_isolation to false (docs/SECURITY.md). No container was changed."
            )
        return tables

    def present(self) -> dict[str, Any]:
        """Have the rules in force, now and after a reboot."""
        tables = self.tables()
        created = self.create_networks()
        bridges, nameservers = parse_networks(self.networks()), self.nameservers()
        rules = {v: render_rules(self.project, bridges, self.ports, nameservers, v) for v in tables}
        files = {self.folder / f"rules.v{version}": text for version, text in rules.items()}
        files[self.folder / "firewall.sh"] = render_script(self.project, str(self.folder))
        changed = any(_read(path) != text for path, text in files.items())
        changed |= not all(
            in_force(self.run(*list_command(tables[v]), check=False)[1], self.project, text)
            for v, text in rules.items()
        )
        changed |= bool(created)
        result: dict[str, Any] = {"changed": changed, "differs": changed, "created": created}
        if self.module.check_mode:
            return result
        self.apply(files, rules)
        result["changed"] |= self.enable()
        return result

    def apply(self, files: Mapping[Path, str], versions: Iterable[int]) -> None:
        """Write the files and have their rules in force, or leave no file of rules behind."""
        make_folder(self.folder, 0o700)
        for path, text in files.items():
            _write(path, text)
        # Also what looks the same: a rule may have been exchanged for another one.
        code, _out, err = self.module.run_command(["sh", str(self.folder / "firewall.sh"), "apply"])
        if code != 0:
            # A later run would take them for rules that have been in force.
            for version in versions:
                (self.folder / f"rules.v{version}").unlink(missing_ok=True)
            self.fail(
                f"The rules of iptables were refused: {err.strip()[-1000:]}. They need the kernel's"
                " table mangle with the matches conntrack, addrtype and owner; set"
                " stack_isolation to false to do without (docs/SECURITY.md). No container was"
                " changed."
            )

    def enable(self) -> bool:
        """Have systemd apply the rules at boot; return whether that was changed."""
        if not Path("/run/systemd/system").is_dir():
            return False
        path, text = UNITS / self.unit, render_unit(self.project, str(self.folder))
        if _read(path) != text:
            _write(path, text, 0o644)
            self.run("systemctl", "daemon-reload")
        elif self.run("systemctl", "is-active", "--quiet", self.unit, check=False)[0] == 0:
            return False
        self.run("systemctl", "enable", "--quiet", "--now", self.unit)
        return True

    def absent(self) -> dict[str, Any]:
        """Remove rules, unit and files."""
        script, unit = self.folder / "firewall.sh", UNITS / self.unit
        changed = script.exists() or unit.exists()
        if self.module.check_mode:
            return {"changed": changed, "differs": changed}
        if unit.exists():
            self.run("systemctl", "disable", "--quiet", "--now", self.unit, check=False)
            unit.unlink()
            self.run("systemctl", "daemon-reload", check=False)
        if script.exists():
            self.run("sh", str(script), "remove")
            shutil.rmtree(self.folder)
        return {"changed": changed, "differs": changed}

    def probed(self) -> dict[str, Any]:
        """Try what containers must not reach."""
        result: dict[str, Any] = {"changed": False, "findings": [], "tried": 0}
        if not (self.folder / "rules.v4").exists():
            return result
        label = f"label={PROJECT}={self.project}"
        ids = self.run(self.cli, "ps", "--quiet", "--no-trunc", "--filter", label)[1].split()
        if not ids:
            return result
        # Those that end meanwhile are left out.
        out = self.run(self.cli, "container", "inspect", *ids, check=False)[1]
        bridges = parse_networks(self.networks())
        tries = attempts(json.loads(out or "[]"), bridges, self.ports, host_address())
        result["tried"] = sum(map(len, tries.values()))
        result["findings"] = describe_reached(try_attempts(tries), self.project)
        return result


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _write(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file as a whole."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(text)
    draft.chmod(mode)
    draft.replace(path)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        firewall = Firewall(module)
        module.exit_json(**getattr(firewall, module.params["state"])())
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"The firewall of the stack failed: {error}")


if __name__ == "__main__":
    main()
