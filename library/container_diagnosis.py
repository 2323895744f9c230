#!/usr/bin/python
"""Tell why containers of a compose project do not serve."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_diagnosis
short_description: Tell why containers of a compose project do not serve
description:
  - Looks at the containers of a project and returns, for each one that is not running and healthy,
    its state, the last words of its health check, its last log lines, and what to do about known
    causes. Changes nothing and does not fail.
  - M(community.docker.docker_compose_v2) says that a container is unhealthy, and not why.
extends_documentation_fragment: [crisper.docker, crisper.project]
options:
  services:
    description: Services whose containers are looked at; empty takes all.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: It only looks.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Diagnose the data services
  container_diagnosis:
    project: crisper
    services: [postgres, redis]
  register: database_diagnosis
"""

RETURN = r"""
containers:
  description: Containers that do not serve.
  returned: always
  type: list
  elements: dict
  sample:
    - name: crisper-redis-1
      service: redis
      state: "restarting, exit code 1"
      health: ""
      logs: Bad file format reading the append only file appendonly.aof.1.incr.aof
      remedies: [The append-only file of Redis is damaged.]
text:
  description: The same as the end of a message; empty when all containers serve.
  returned: always
  type: str
  sample: "--- crisper-redis-1 (restarting, exit code 1)"
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import DockerClient
from ansible_collections.crisper.stack.plugins.module_utils.docker.diagnosis import describe

ARGUMENT_SPEC: dict[str, Any] = {
    "project": {"type": "str", "required": True},
    "services": {"type": "list", "elements": "str", "default": []},
    "docker_cli": {"type": "str", "default": "docker"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    engine, services = DockerClient(module, module.params["project"]), module.params["services"]
    lost = [
        c
        for c in engine.containers()
        if not c.is_healthy and (not services or c.service in services)
    ]
    reports = engine.diagnose([container.id for container in lost])
    module.exit_json(
        changed=False,
        containers=[each.as_dict() for each in reports],
        text=describe(reports).strip("\n"),
    )


if __name__ == "__main__":
    main()
