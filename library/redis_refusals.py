#!/usr/bin/python
"""Ansible module: what Redis has refused the application."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: redis_refusals
short_description: Report commands that the application's user of Redis was refused
description:
  - The application's user may not call commands such as KEYS or CONFIG, and an application that
    does finds out by errors alone. Redis keeps a log of them, which this module reads as its
    administrator.
  - It never fails, and warns when asked to.
extends_documentation_fragment: [crisper.docker, crisper.project]
options:
  hours:
    description: Age of refusals that are told; older ones may be of a release that is gone.
    type: float
    default: 24
  warn:
    description: Whether a warning is given for each.
    type: bool
    default: false
attributes:
  check_mode:
    description: Only looks.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Read the commands that Redis refused
  redis_refusals:
    project: crisper
    warn: true
"""

RETURN = r"""
refused:
  description: A sentence for each command, the most frequent first.
  returned: always
  type: list
  elements: str
  sample:
    - "The application's Redis user was refused the command 'keys' 12 times, last 5 s ago: …"
problem:
  description: Why Redis could not be asked; empty otherwise, and where the stack has none.
  returned: always
  type: str
  sample: ""
"""

import subprocess
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.redis import (
    redis_script,
)
from ansible_collections.crisper.stack.plugins.module_utils.deploy.redis_refusals import (
    MOST_BYTES,
    MOST_ENTRIES,
    UnreadableError,
    refusals,
)
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import DockerClient
from ansible_collections.crisper.stack.plugins.module_utils.process import capture
from ansible_collections.crisper.stack.plugins.module_utils.text import quote

SECONDS = 20.0
ARGUMENT_SPEC: dict[str, Any] = {
    "project": {"type": "str", "required": True},
    "hours": {"type": "float", "default": 24.0},
    "warn": {"type": "bool", "default": False},
    "docker_cli": {"type": "str", "default": "docker"},
}


def read_refusals(module: AnsibleModule) -> tuple[list[str], str]:
    """Return what was refused, and why that could not be found out."""
    container, problem = DockerClient(module, module.params["project"]).find_running("redis")
    if not container:
        # A stack without Redis has no such user.
        return [], "" if problem.startswith("container_not_running") else problem
    script = redis_script(f"exec timeout 10 redis-cli --json acl log {MOST_ENTRIES}")
    command = [module.params["docker_cli"], "exec", container, "sh", "-c", script]
    try:
        done = capture(command, "", SECONDS, most=MOST_BYTES)
        if done.cut:
            return [], f"ACL LOG of Redis has more than {MOST_BYTES >> 20} MiB, and was not read"
        if done.returncode != 0:
            why = done.stderr or done.stdout or f"exit code {done.returncode}"
            return [], f"ACL LOG of Redis was not read: {quote(why, 200)}"
        return refusals(done.stdout, module.params["hours"]), ""
    except (OSError, subprocess.TimeoutExpired, UnreadableError) as error:
        return [], quote(str(error), 300) if isinstance(error, OSError) else str(error)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    refused, problem = read_refusals(module)
    for sentence in refused if module.params["warn"] else []:
        module.warn(sentence)
    module.exit_json(changed=False, refused=refused, problem=problem)


if __name__ == "__main__":
    main()
