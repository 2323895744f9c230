#!/usr/bin/python
"""A canary task through every queue, and how long each took."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_canary
short_description: Send a canary task through every queue and wait for all of them
description:
  - Sends one harmless task through each of O(queues), all at once and from one Python process in
    a running container, and waits for the results with one time limit.
  - Fails with every queue whose canary was lost, failed, could not be sent, or was run by a worker
    that is not in O(nodes).
  - Results are forgotten afterwards. A canary that nobody took expires, and with a Redis broker is
    taken out of its queue again.
options:
  container:
    description: Id or name of the container to send from; its image has the application.
    type: str
  project:
    description: Compose project; with O(service), names the container instead of O(container).
    type: str
  service:
    description: Compose service in O(project); the first of its containers that runs is used.
    type: str
  app:
    description: The Celery application as C(celery -A) takes it.
    type: str
    required: true
  task:
    description:
      - Name of the task. When it returns a dictionary with the key C(worker) (its
        C(request.hostname)), that node must be one of O(nodes).
    type: str
    required: true
  args:
    description: Positional arguments of the task.
    type: list
    elements: raw
    default: []
  kwargs:
    description: Keyword arguments of the task.
    type: dict
    default: {}
  queues:
    description: Queues to go through.
    type: list
    elements: str
    required: true
  nodes:
    description: Node names that may run it; anyone may when empty.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds for all canaries together.
    type: float
    default: 10.0
  import_timeout:
    description: Seconds the application has to be imported in the container.
    type: float
    default: 60.0
  python:
    description: The Python interpreter in the container.
    type: str
    default: python
  docker_cli:
    description: The Docker client.
    type: str
    default: docker
  fail_on_findings:
    description: Whether findings fail the task; otherwise they are only returned.
    type: bool
    default: true
attributes:
  check_mode:
    description: Sends nothing in check mode.
    support: full
  diff_mode:
    description: Changes nothing.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Every queue brings a canary back
  celery_canary:
    project: crisper
    service: celery-worker
    app: backend.celery_app
    task: health_check
    queues: [default, embeddings]
    timeout: 10
"""

RETURN = r"""
problem:
  description:
    - Kind of trouble; empty when there is none.
    - One of V(canaries), V(broker_unreachable), V(result_backend_unreachable),
      V(no_result_backend), V(container_not_running), V(app_not_importable), V(malformed_reply),
      V(docker_unavailable).
  returned: always
  type: str
  sample: ""
findings:
  description: One per queue whose canary did not come back as it should.
  returned: always
  type: list
  elements: dict
  sample:
    - code: canary_lost
      node: embeddings
      expected: SUCCESS
      actual: PENDING
      text: "Nobody took the canary health_check from queue embeddings within 10 s. …"
queues:
  description: Queue to what became of its canary.
  returned: always
  type: dict
  sample:
    default: {task_id: 6f6a…, state: SUCCESS, latency_ms: 12, node: "default@web1"}
inspect_rc:
  description: Exit code of the probe.
  returned: always
  type: int
  sample: 0
stderr:
  description: What Docker or Python said when the probe gave no reply.
  returned: when the probe gave no reply
  type: str
  sample: "Error response from daemon: container 0f1e is not running"
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.crisper_celery import (
    Finding,
    canary_node,
    judge_canaries,
    message_of,
)
from ansible.module_utils.crisper_celery_exec import CONTAINER_SPEC, ProbeError, run_probe

ARGUMENT_SPEC: dict[str, Any] = {
    **CONTAINER_SPEC,
    "task": {"type": "str", "required": True},
    "args": {"type": "list", "elements": "raw", "default": []},
    "kwargs": {"type": "dict", "default": {}},
    "queues": {"type": "list", "elements": "str", "required": True},
    "nodes": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "float", "default": 10.0},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_one_of=[("container", "project")],
        mutually_exclusive=[("container", "project")],
        required_together=[("project", "service")],
        supports_check_mode=True,
    )
    params = module.params
    base: dict[str, Any] = {"changed": False, "problem": "", "findings": [], "queues": {}}
    if module.check_mode or not params["queues"]:
        module.exit_json(**base, inspect_rc=0)
    request = {
        "command": "canary",
        "task": params["task"],
        "args": params["args"],
        "kwargs": params["kwargs"],
        "queues": list(dict.fromkeys(params["queues"])),
    }
    try:
        reply, outcome = run_probe(params, request)
    except ProbeError as error:
        finding = Finding(error.problem, "", None, None, str(error))
        result = {
            **base,
            "problem": error.problem,
            "findings": [finding.as_dict()],
            "msg": str(error),
            **error.outcome,
        }
        if params["fail_on_findings"]:
            module.fail_json(**result)
        module.exit_json(**result)
    queues = reply.get("queues") or {}
    findings = judge_canaries(queues, params["task"], params["timeout"], params["nodes"])
    result = {
        **base,
        "problem": "canaries" if findings else "",
        "findings": [finding.as_dict() for finding in findings],
        "queues": {
            queue: {
                "task_id": entry["task_id"],
                "state": entry["state"],
                "latency_ms": None if entry["seconds"] is None else round(entry["seconds"] * 1000),
                "node": canary_node(entry["result"]),
            }
            for queue, entry in queues.items()
        },
        "inspect_rc": outcome["inspect_rc"],
    }
    if findings:
        result["msg"] = message_of("Not every queue brought its canary back", findings)
        if params["fail_on_findings"]:
            module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
