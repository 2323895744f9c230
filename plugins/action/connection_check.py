"""The first contact with a host: connect, become, and say in one message what stands against it.

Before that, a full disk of the controller is reported: it would fail in the middle of a deploy.

It runs a command there that does nothing, over the connection that all later tasks use again, and
needs no Python there.
A host that cannot be managed is reported as unreachable, whether ssh or sudo refuses: Ansible then
ends with exit code 4, which no failed deploy has.
"""

from __future__ import annotations

import shutil
from typing import Any

from ansible import constants
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.crisper.stack.plugins.module_utils.playbook.connection import (
    Target,
    describe_connection_failure,
)

# What Ansible packs of all modules of a deploy, and of the one that undoes it, is some 20 MB.
ROOM_BYTES = 64 * 1024 * 1024


def find_lack_of_room(folder: str, free: int) -> str:
    """Return why this controller cannot carry a deploy through; empty when it can."""
    if free >= ROOM_BYTES:
        return ""
    return (
        f"This controller has {free / 1e6:.0f} MB free in {folder} (Ansible's local_tmp), and a"
        f" deploy needs {ROOM_BYTES / 1e6:.0f} MB there until its end: it packs modules. Free space"
        " (df -h), or set ANSIBLE_LOCAL_TEMP to a folder with room. No server was touched."
    )


class ActionModule(ActionBase):
    """Takes no options."""

    _supports_check_mode = True
    _VALID_ARGS = frozenset()

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict:
        """Raise one message when the host cannot be managed."""
        super().run(tmp, task_vars)
        folder = str(constants.DEFAULT_LOCAL_TMP)
        if problem := find_lack_of_room(folder, shutil.disk_usage(folder).free):
            raise AnsibleActionFail(problem)
        try:
            # As modules are sent: sudo with `requiretty` refuses what comes without a terminal.
            piped = self._connection.is_pipelining_enabled()
            done = (
                self._low_level_execute_command("cat >/dev/null", in_data=b"\n")
                if piped
                else self._low_level_execute_command("true")
            )
            output = "" if done["rc"] == 0 else f"{done['stdout']}\n{done['stderr']}"
            failed = done["rc"] != 0
        except AnsibleError as error:
            output, failed = str(error), True
        if not failed:
            return {"changed": False}
        name = (task_vars or {}).get("inventory_hostname", "")
        message = describe_connection_failure(self._target(name), output)
        # Raised, because Ansible shows the lines of an error as lines, and those of a result not.
        raise AnsibleConnectionFailure(message)

    def _target(self, name: str) -> Target:
        become = self._connection.become
        known = {
            "address": self._option("host"),
            "port": self._option("port"),
            "user": self._option("remote_user"),
        }
        if become is not None:
            known["method"] = become.name.rpartition(".")[2]
            known["become_user"] = become.get_option("become_user") or "root"
        # A connection plugin without an address, such as that of a container, has a login at most.
        return Target(name, **(known if known["address"] else {**known, "user": ""}))

    def _option(self, name: str) -> str:
        try:
            return str(self._connection.get_option(name) or "")
        except KeyError:
            return ""
