#!/usr/bin/python
"""Send one task through every queue and see it come back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_canary
short_description: Send one task through every queue and see it come back
description:
  - Sends the canary task to each queue in one process, and waits for all results together.
  - With Redis a canary is the next message that the queue's consumer takes, whatever waits there,
    and is removed again if nobody took it. With another broker it has the highest priority of its
    queue, and expires with O(timeout).
  - While a canary is not back the workers are looked at. A queue whose consumers run a task in
    every process is no failure, and is returned in C(busy) - where nothing ends for 3 seconds, the
    canary is not waited for. It is a failure when no worker consumes the queue, when a worker has a
    free process and does not take the canary, when a task runs beyond its hard time limit, and when
    the workers stop answering.
extends_documentation_fragment: [crisper.docker, crisper.celery]
options:
  container:
    description: Container to send from; or O(project) and O(service).
    type: str
  project:
    description: Compose project whose container is used.
    type: str
  service:
    description: Service of O(project) whose first running container is used.
    type: str
  task:
    description:
      - Name of the task. When it returns a mapping with the key C(worker), that node is compared
        with O(nodes).
    type: str
    required: true
  args:
    description: Its positional arguments.
    type: list
    elements: raw
    default: []
  kwargs:
    description: Its keyword arguments.
    type: dict
    default: {}
  queues:
    description: The queues.
    type: list
    elements: str
    required: true
  nodes:
    description: Nodes that may run it; empty accepts any.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds until every canary must be back, where a process is free to run it.
    type: float
    default: 5.0
attributes:
  check_mode:
    description: Sends nothing in check mode.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Send a task through every queue
  celery_canary:
    project: crisper
    service: celery-worker
    app: backend.celery_app
    task: health_check
    queues: [default, embeddings]
    timeout: 20
"""

RETURN = r"""
queues:
  description: Queue to what became of its canary.
  returned: always
  type: dict
  sample:
    default: {task_id: 46909b11, state: SUCCESS, seconds: 0.03, result: {worker: default@app1}}
busy:
  description: The queues whose canary was not run, because every process that could runs a task.
  returned: always
  type: list
  elements: dict
  sample:
    - queue: default
      nodes: [default@app1]
      processes: 2
      active: 2
      oldest_seconds: 840.2
      tasks: [make_report]
      text: "busy: 2 of 2 processes run make_report, oldest 14 min; canary not waited for"
findings:
  description: The queues whose canary did not come back as it should.
  returned: always
  type: list
  elements: dict
  sample: []
problem:
  description: Why nothing could be sent; empty otherwise.
  returned: always
  type: str
  sample: ""
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.celery.canaries import report_canaries
from ansible_collections.crisper.stack.plugins.module_utils.celery.findings import describe_findings
from ansible_collections.crisper.stack.plugins.module_utils.remote.workers import (
    CONNECTION_SPEC,
    ask_workers,
)

ARGUMENT_SPEC: dict[str, Any] = {
    **CONNECTION_SPEC,
    "task": {"type": "str", "required": True},
    "args": {"type": "list", "elements": "raw", "default": []},
    "kwargs": {"type": "dict", "default": {}},
    "queues": {"type": "list", "elements": "str", "required": True},
    "nodes": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_one_of=[("container", "service")],
        required_together=[("project", "service")],
        mutually_exclusive=[("container", "service")],
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, queues={}, findings=[], busy=[], problem="")
    keys = ("task", "args", "kwargs", "queues", "nodes", "timeout")
    reply = ask_workers(module, {"canary": {key: module.params[key] for key in keys}})
    # The application or the broker may have kept it from sending anything.
    result = report_canaries(reply.get("canary", reply), module.params["nodes"])
    if result["findings"]:
        module.fail_json(msg=describe_findings(result["findings"]), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
