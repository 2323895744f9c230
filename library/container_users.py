#!/usr/bin/python
"""Compare the users of a stack's containers with the accounts of the host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_users
short_description: Compare the users of a stack's containers with the accounts of the host
description:
  - Warns of each account that somebody can log in with and whose user id processes of the stack's
    containers have. Such an account may signal them, and with the same group id read their
    environment in /proc.
  - Looks at the processes that run, as the host sees them, so that user namespaces of the engine
    count; and asks the host's user database for each user id.
extends_documentation_fragment: [crisper.docker, crisper.project]
attributes:
  check_mode:
    description: It only looks.
    support: full
author: Crisper
"""

EXAMPLES = r"""
- name: Compare container users with host accounts
  container_users:
    project: crisper
"""

RETURN = r"""
shared:
  description: An entry per account that shares its user id with containers.
  returned: always
  type: list
  elements: dict
  sample:
    - account: kim
      uid: 1000
      services: [backend]
      readable: [backend]
      message: backend run as user id 1000, which is the account 'kim' of this host.
"""

import pwd
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import (
    DockerClient,
    DockerError,
)
from ansible_collections.crisper.stack.plugins.module_utils.host.container_users import (
    Account,
    Process,
    find_shared,
)
from ansible_collections.crisper.stack.plugins.module_utils.text import quote_output


def identity(pid: int) -> tuple[int, int] | None:
    """Return the user and group id of a process; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(fields["Uid"].split()[0]), int(fields["Gid"].split()[0])


def account(uid: int) -> Account | None:
    """Return the account of a user id; None when the host's user database has none."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, entry.pw_shell)


def processes(records: list[dict[str, Any]]) -> list[Process]:
    """Return the first process of each running container."""
    found = []
    for record in records:
        pid = record["State"].get("Pid") or 0
        ids = identity(pid) if pid else None
        if ids:
            labels = record["Config"].get("Labels") or {}
            name = labels.get("com.docker.compose.service", record["Name"].lstrip("/"))
            found.append(Process(name, *ids))
    return found


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "project": {"type": "str", "required": True},
            "docker_cli": {"type": "str", "default": "docker"},
        },
        supports_check_mode=True,
    )
    client = DockerClient(module, module.params["project"])
    try:
        ids = client.list_ids()
    except DockerError as error:
        module.fail_json(
            msg=f"The containers of the stack were not listed: {quote_output(str(error))}"
        )
    records = client.records(ids) if ids else []
    running = processes(records)
    accounts = {uid: account(uid) for uid in {each.uid for each in running}}
    known = {uid: entry for uid, entry in accounts.items() if entry is not None}
    shared = find_shared(running, known)
    for each in shared:
        module.warn(each.message)
    module.exit_json(changed=False, shared=[each.as_dict() for each in shared])


if __name__ == "__main__":
    main()
