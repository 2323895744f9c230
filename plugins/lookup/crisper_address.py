"""The address by which the controller reaches this host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_address
short_description: Address of the host as the controller reaches it
description:
  - Returns the address that the connection of the current host really uses. With C(ssh) that is
    what the client's own configuration makes of C(ansible_host), for only SSH knows an alias of
    C(~/.ssh/config). An empty text stands for the controller itself.
  - Call it in a task of the host. In a delegated task the connection is another host's.
"""

import shlex
import subprocess
from collections.abc import Mapping
from typing import Any

from ansible import constants, context
from ansible.errors import AnsibleError
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader
from ansible.plugins.lookup import LookupBase

SSH_ARGUMENTS = ("ssh_args", "ssh_common_args", "ssh_extra_args")
VARIABLES = (
    *(f"ansible_{option}" for option in SSH_ARGUMENTS),
    *("ansible_ssh_executable", "ansible_user", "ansible_ssh_user"),
    *("ansible_port", "ansible_ssh_port"),
)


def configured_host(output: str, host: str) -> str:
    """Return the ``hostname`` of what ``ssh -G`` prints; `host` when there is none."""
    for line in output.splitlines():
        name, _, value = line.partition(" ")
        if name == "hostname" and value:
            return value.strip()
    return host


class LookupModule(LookupBase):
    """The lookup."""

    def run(
        self, terms: list[str], variables: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> list[str]:
        """Return one address."""
        known = variables or {}
        chosen = known.get("ansible_connection") or context.CLIARGS.get("connection")
        name = str(self._templar.template(chosen or constants.DEFAULT_TRANSPORT))
        name = name.rpartition(".")[2]
        if name == "local":
            return [""]
        host = known.get("ansible_host") or known.get("inventory_hostname", "")
        host = str(self._templar.template(host))
        return [self._configured(host, known) if name in ("ssh", "smart") else host]

    def _configured(self, host: str, known: Mapping[str, Any]) -> str:
        connection = connection_loader.get("ansible.builtin.ssh", PlayContext(), "/dev/null")
        try:
            values = {k: self._templar.template(known[k]) for k in VARIABLES if k in known}
            connection.set_options(var_options=values)
            arguments = " ".join(str(connection.get_option(o) or "") for o in SSH_ARGUMENTS)
            command = [connection.get_option("ssh_executable"), *shlex.split(arguments)]
            # A client's configuration may decide by the user.
            for option, name in (("User", "remote_user"), ("Port", "port")):
                value = connection.get_option(name)
                command += ["-o", f"{option}={value}"] if value else []
            done = subprocess.run(
                [*command, "-G", host], capture_output=True, text=True, timeout=10, check=False
            )
        except (AnsibleError, ValueError, OSError, subprocess.TimeoutExpired):
            return host  # the connection itself will say what is wrong
        return configured_host(done.stdout, host) if done.returncode == 0 else host
