#!/usr/bin/python
"""Ansible module: a command in a container of the stack, whose output is bounded."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: container_exec
short_description: Run a command in a running container of a service
description:
  - What runs in the container may be compromised, so time and output are bounded. It has no
    terminal and nothing on standard input.
  - An exit code is no failure of the module; a command that cannot be run, is late or prints too
    much is one.
extends_documentation_fragment: [crisper.docker, crisper.project]
options:
  service:
    description: The service; one of its containers that run is taken.
    type: str
    required: true
  argv:
    description: The command.
    type: list
    elements: str
    required: true
  timeout:
    description: Seconds that it may take.
    type: float
    default: 120
  most:
    description: Bytes of its output that are taken; a command that prints more is ended.
    type: int
    default: 8000000
attributes:
  check_mode:
    description: It is skipped, as it is not known what the command does.
    support: none
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Check that uploads can be written
  container_exec:
    project: crisper
    service: backend
    argv: [test, -w, /app/media]
  changed_when: false
"""

RETURN = r"""
rc:
  description: Its exit code.
  returned: when it ended
  type: int
  sample: 0
stdout:
  description: What it printed.
  returned: when it ended
  type: str
  sample: ""
stderr:
  description: The end of its messages.
  returned: when it ended
  type: str
  sample: ""
"""

import subprocess
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import DockerClient
from ansible_collections.crisper.stack.plugins.module_utils.process import capture

ARGUMENT_SPEC: dict[str, Any] = {
    "project": {"type": "str", "required": True},
    "service": {"type": "str", "required": True},
    "argv": {"type": "list", "elements": "str", "required": True},
    "timeout": {"type": "float", "default": 120.0},
    "most": {"type": "int", "default": 8_000_000},
    "docker_cli": {"type": "str", "default": "docker"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=False)
    params = module.params
    container, problem = DockerClient(module, params["project"]).find_running(params["service"])
    if not container:
        module.fail_json(msg=problem)
    action = f"`{' '.join(params['argv'][:4])} …` in a container of {params['service']}"
    command = [params["docker_cli"], "exec", container, *params["argv"]]
    try:
        done = capture(command, "", params["timeout"], most=params["most"])
    except subprocess.TimeoutExpired:
        module.fail_json(msg=f"{action} did not end within {params['timeout']:g} s")
    except OSError as error:
        module.fail_json(msg=f"{action} was not run: {error}")
    if done.cut:
        module.fail_json(msg=f"{action} printed more than {params['most']} bytes, and was ended")
    module.exit_json(changed=False, rc=done.returncode, stdout=done.stdout, stderr=done.stderr)


if __name__ == "__main__":
    main()
