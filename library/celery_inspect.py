#!/usr/bin/python
"""Ask all Celery workers everything at once, and judge what they answer."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_inspect
short_description: Ask all Celery workers everything at once, and judge the answers
description:
  - Runs one Python process in a container of the application, which sends all methods of
    C(celery inspect) at once and collects the replies, and compares them with O(expect).
  - The module never changes anything; it fails once, with every finding, when O(expect) is not
    met or nobody can be asked.
  - With O(canary) the same process then sends a task through every queue and waits for it, as
    M(celery_canary) does; a pool that is busy in every process is no failure.
  - Addresses and passwords are taken out of everything that is returned.
extends_documentation_fragment: [crisper.docker, crisper.celery]
options:
  container:
    description: Container to ask in; or O(project) and O(service).
    type: str
  project:
    description: Compose project whose container is asked in.
    type: str
  service:
    description: Service of O(project) whose first running container is asked in.
    type: str
  timeout:
    description: Seconds to wait for answers; less when all nodes of O(expect) have answered.
    type: float
    default: 5.0
  settle:
    description: Seconds to go on listening for nodes nobody expects.
    type: float
    default: 0.3
  methods:
    description:
      - What to ask. Where workers hold more than 1,000 messages in Redis, C(scheduled) is left out;
        a worker with so many tasks that have an ETA would be busy for seconds with the answer.
    type: list
    elements: str
    choices: [ping, active, reserved, scheduled, registered, stats, active_queues, conf, revoked]
    default: [ping, active, reserved, scheduled, registered, stats, active_queues, conf, revoked]
  expect:
    description: What must be so; what is left out is not judged.
    type: dict
    default: {}
    suboptions:
      nodes:
        description: Exact names of the nodes that must answer.
        type: list
        elements: str
      count:
        description: How many workers must answer.
        type: int
      no_foreign_nodes:
        description: Whether an answer of a node that is not in O(expect.nodes) is a finding.
        type: bool
      pools:
        description: Pool (the node name before C(@)) to C({queues, concurrency}).
        type: dict
      registered:
        description: Tasks every node must know.
        type: list
        elements: str
      time_limit:
        description: Hard time limit, in seconds.
        type: int
      soft_time_limit:
        description: Soft time limit, in seconds.
        type: int
      accept_content:
        description: Content types the worker accepts.
        type: list
        elements: str
      task_serializer:
        description: Serializer of tasks.
        type: str
  canary:
    description: A task to send through queues; without it none is sent. None in check mode.
    type: dict
    suboptions:
      task:
        description: Name of the task; it must return, and may tell its C(worker).
        type: str
        required: true
      queues:
        description: Queues to send one through, each.
        type: list
        elements: str
        required: true
      nodes:
        description: Names of the nodes that may run them; empty accepts any.
        type: list
        elements: str
        default: []
      timeout:
        description: Seconds for all of them to come back, where a process is free to run them.
        type: float
        default: 30.0
attributes:
  check_mode:
    description: Asks as always; it changes nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Compare the workers with the inventory
  celery_inspect:
    project: crisper
    service: celery-worker
    app: backend.celery_app
    expect:
      nodes: "{{ expected_nodes }}"
      no_foreign_nodes: true
      pools:
        default: {queues: [default, embeddings], concurrency: 2}
      registered: [health_check]
      time_limit: 3600
      soft_time_limit: 3300
"""

RETURN = r"""
nodes:
  description: Node to method to reply.
  returned: always
  type: dict
  sample: {"default@app1-r1-0a1b2c3d4e5f": {"ping": {"ok": "pong"}}}
problem:
  description: Kind of trouble, empty when there is none - C(no_worker_answered),
    C(broker_unreachable), C(container_not_running), C(app_not_importable), C(nodes_silent),
    C(malformed_reply), C(docker_unavailable), C(unreadable_data) or C(expectations_not_met).
  returned: always
  type: str
  sample: nodes_silent
findings:
  description: Everything that is not as expected.
  returned: always
  type: list
  elements: dict
  sample:
    - code: node_silent
      node: default@app1-r1-0a1b2c3d4e5f
      message: default@app1-r1-0a1b2c3d4e5f did not answer.
      expected: an answer
      actual: none
      remedy: Look at that container.
canary:
  description:
    - What became of the canaries, as of M(celery_canary); C(problem) when none could be sent.
  returned: with O(canary)
  type: dict
  sample:
    {problem: "", queues: {default: {state: SUCCESS, seconds: 0.03}}, findings: [], busy: []}
held:
  description:
    - Number of messages that are unacknowledged in Redis; null with another broker, or without the
      method C(scheduled). More than workers tell of may be tasks that no worker knows
      (M(celery_stranded)).
  returned: when workers could be asked
  type: int
  sample: 0
restarted:
  description: When Redis was started, Unix seconds; null where it does not say or holds nothing.
  returned: when workers could be asked
  type: float
  sample: 1795212000.5
unreadable:
  description:
    - Which key that holds tasks has another type than Celery's, and the command that removes it;
      workers answer then and take no task. Where canaries did not come back it is a finding.
      Empty when there is none.
  returned: when workers could be asked
  type: str
  sample: ""
seconds:
  description: How long the workers took.
  returned: when they could be asked
  type: float
  sample: 0.19
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.celery.findings import describe_findings
from ansible_collections.crisper.stack.plugins.module_utils.celery.inspection import (
    report_inspection,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.judge import SHAPES
from ansible_collections.crisper.stack.plugins.module_utils.remote.workers import (
    CANARY_OPTIONS,
    CONNECTION_SPEC,
    EXPECT_OPTIONS,
    ask_workers,
)

METHODS = list(SHAPES)
ARGUMENT_SPEC: dict[str, Any] = {
    **CONNECTION_SPEC,
    "settle": {"type": "float", "default": 0.3},
    "methods": {"type": "list", "elements": "str", "choices": METHODS, "default": METHODS},
    "expect": {"type": "dict", "default": {}, "options": EXPECT_OPTIONS},
    "canary": {"type": "dict", "options": CANARY_OPTIONS},
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
    expect = {key: value for key, value in module.params["expect"].items() if value is not None}
    canary = None if module.check_mode else module.params["canary"]
    everybody = bool(expect.get("no_foreign_nodes")) or "count" in expect
    reply = ask_workers(
        module,
        {
            "methods": sorted({"ping", *module.params["methods"]}),
            "destination": expect.get("nodes") or [],
            "everybody": everybody,
            "settle": module.params["settle"],
            "canary": None if canary is None else {**canary, "args": [], "kwargs": {}},
        },
    )
    result = report_inspection(reply, expect, None if canary is None else canary["nodes"])
    findings = result["findings"] + result.get("canary", {}).get("findings", [])
    if findings:
        module.fail_json(msg=describe_findings(findings), **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
