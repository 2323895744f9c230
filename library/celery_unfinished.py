#!/usr/bin/python
"""Find what became of the tasks that old workers had not finished when they were stopped."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_unfinished
short_description: Find what became of unfinished tasks of stopped workers
description:
  - Looks for each task in the result backend, in its queue and at the workers, and returns the
    tasks with what became of them - finished, ended, running again, back in the queue, or without a
    trace.
  - Changes nothing, and does not fail where nobody can be asked.
extends_documentation_fragment: [crisper.docker, crisper.celery]
options:
  project:
    description: Compose project whose container is asked in.
    type: str
    required: true
  service:
    description: Service of O(project) whose first running container is asked in.
    type: str
    required: true
  tasks:
    description: Tasks as M(celery_drain) returned them in RV(unfinished).
    type: list
    elements: dict
    required: true
  queues:
    description: Queues that they may be back in.
    type: list
    elements: str
    default: []
  nodes:
    description: Workers that may have them now; empty asks everybody.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds for the workers' answers.
    type: float
    default: 5.0
attributes:
  check_mode:
    description: Only looks, so it does the same in check mode.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Find what became of the unfinished tasks
  celery_unfinished:
    project: shop
    service: backend
    app: config.celery
    tasks: "{{ drained.unfinished }}"
    queues: [celery]
"""

RETURN = r"""
tasks:
  description: The tasks, each with its C(outcome).
  returned: always
  type: list
  elements: dict
  sample: [{id: 6f1c, name: shop.work, node: default@app1, outcome: is back in its queue (celery)}]
error:
  description: Why they could not be looked for; empty where they were.
  returned: always
  type: str
  sample: ""
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.celery.unfinished import (
    MOST,
    with_outcomes,
)
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import DockerClient
from ansible_collections.crisper.stack.plugins.module_utils.probes import (
    unfinished as unfinished_probe,
)
from ansible_collections.crisper.stack.plugins.module_utils.remote.run import ask

ARGUMENT_SPEC: dict[str, Any] = {
    "app": {"type": "str", "required": True},
    "project": {"type": "str", "required": True},
    "service": {"type": "str", "required": True},
    "tasks": {"type": "list", "elements": "dict", "required": True},
    "queues": {"type": "list", "elements": "str", "default": []},
    "nodes": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "float", "default": 5.0},
    "import_timeout": {"type": "int", "default": 60},
    "python": {"type": "str", "default": "python"},
    "docker_cli": {"type": "str", "default": "docker"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    tasks = params["tasks"][:MOST]
    container, problem = DockerClient(module, params["project"]).find_running(params["service"])
    reply: dict[str, Any] = {"problem": problem, "error": problem}
    if container:
        names = ("app", "queues", "nodes", "timeout", "import_timeout")
        request = {name: params[name] for name in names}
        request["tasks"] = [str(task.get("id")) for task in tasks]
        command = [params["docker_cli"], "exec", "--interactive", container, params["python"], "-"]
        limit = params["import_timeout"] + params["timeout"] * 4 + 60
        reply = ask(command, unfinished_probe, request, limit)
    traces = reply.get("traces")
    traces = traces if isinstance(traces, dict) else {}
    error = "" if traces or not tasks else str(reply.get("error") or "no answer")
    module.exit_json(changed=False, tasks=with_outcomes(tasks, traces), error=error)


if __name__ == "__main__":
    main()
