#!/usr/bin/python
"""All that Celery workers tell about themselves, in one call, judged."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_inspect
short_description: Ask all Celery workers at once, and judge what they answer
description:
  - Gathers what C(celery inspect) tells by nine commands (C(ping), C(active), C(reserved),
    C(scheduled), C(registered), C(stats), C(active_queues), C(conf), C(revoked)) from all workers
    in one Python process inside a running container, and compares it with O(expect).
  - Every finding is listed, not only the first; the module then fails once with all of them.
  - It returns as soon as every node in O(destination) has answered everything. Without
    O(destination) nobody knows who is missing, and it waits the whole O(timeout).
  - Changes nothing. Settings that tell where a worker connects are not returned, and values of
    the container's secret environment variables are masked in everything that is.
options:
  container:
    description: Id or name of the container to ask from; its image has the application.
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
  destination:
    description:
      - Node names that are expected to answer. O(expect.nodes) when absent.
    type: list
    elements: str
    default: []
  methods:
    description: What to ask.
    type: list
    elements: str
    choices: [ping, active, reserved, scheduled, registered, stats, active_queues, conf, revoked]
    default: [ping, active, reserved, scheduled, registered, stats, active_queues, conf, revoked]
  timeout:
    description: Seconds the workers have to answer.
    type: float
    default: 5.0
  import_timeout:
    description: Seconds the application has to be imported in the container.
    type: float
    default: 60.0
  settle:
    description:
      - Seconds of silence to wait, after everyone named has answered, for those who were not
        named. Foreign nodes and duplicate node names show in this time.
      - 0.5 with O(expect.no_foreign_nodes), else 0.05, when absent.
    type: float
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
  expect:
    description: What must hold; what is not given is not judged.
    type: dict
    default: {}
    suboptions:
      nodes:
        description: Node names that must answer.
        type: list
        elements: str
        default: []
      no_foreign_nodes:
        description: Whether nobody else may answer. Beat's own node is never counted.
        type: bool
        default: false
      count:
        description: How many workers must answer.
        type: int
      queues:
        description: Node or pool name (what stands before C(@)) to exactly the queues it consumes.
        type: dict
        default: {}
      tasks:
        description: Tasks that every worker must know.
        type: list
        elements: str
        default: []
      concurrency:
        description: Node or pool name to its number of processes or threads.
        type: dict
        default: {}
      time_limit:
        description: Hard time limit of tasks in seconds, as the pool enforces it.
        type: float
      soft_time_limit:
        description: Soft time limit of tasks in seconds, as the pool enforces it.
        type: float
      task_serializer:
        description: The setting V(task_serializer) of every worker.
        type: str
      result_serializer:
        description: The setting V(result_serializer) of every worker.
        type: str
      accept_content:
        description: Exactly the content types that every worker accepts.
        type: list
        elements: str
        default: []
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
- name: The workers of this release, and nobody else, consume their queues
  celery_inspect:
    project: crisper
    service: celery-worker
    app: backend.celery_app
    expect:
      nodes: [default@web1-20261120t221500z-1a2b3c4d-0f1e2d3c4b5a]
      no_foreign_nodes: true
      queues: {default: [default, embeddings]}
      concurrency: {default: 2}
      tasks: [health_check]
      time_limit: 3600
      soft_time_limit: 3300
      accept_content: [json]

- name: What runs right now
  celery_inspect:
    container: crisper-celery-worker-1
    app: backend.celery_app
    methods: [active, reserved]
    timeout: 2
  register: work
"""

RETURN = r"""
problem:
  description:
    - Kind of trouble; empty when there is none.
    - One of V(no_worker_answered), V(nodes_silent), V(malformed_reply), V(expectations),
      V(broker_unreachable), V(container_not_running), V(app_not_importable),
      V(docker_unavailable).
  returned: always
  type: str
  sample: nodes_silent
findings:
  description: Everything that is not as expected.
  returned: always
  type: list
  elements: dict
  sample:
    - code: queue_missing
      node: default@web1-20261120t221500z-1a2b3c4d-0f1e2d3c4b5a
      expected: embeddings
      actual: [default]
      text: "default@… does not consume queue embeddings; it consumes default. …"
nodes:
  description: Node name to method to the worker's reply.
  returned: always
  type: dict
  sample: {"default@web1": {"ping": {"ok": "pong"}, "active": []}}
workers:
  description: One line per worker.
  returned: always
  type: list
  elements: dict
  sample:
    - {node: default@web1, pool: default, concurrency: 2, queues: [default], active: 0,
       reserved: 0, scheduled: 0}
beats:
  description: Node names of beats that answered.
  returned: always
  type: list
  elements: str
  sample: []
seconds:
  description: Time between the question and the last answer, without Python's start.
  returned: when workers were asked
  type: float
  sample: 0.031
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
    SHAPES,
    Expectation,
    Finding,
    judge,
    message_of,
    parse_replies,
    problem_of,
    workers_of,
)
from ansible.module_utils.crisper_celery_exec import CONTAINER_SPEC, ProbeError, run_probe

EXPECT_SPEC: dict[str, Any] = {
    "nodes": {"type": "list", "elements": "str", "default": []},
    "no_foreign_nodes": {"type": "bool", "default": False},
    "count": {"type": "int"},
    "queues": {"type": "dict", "default": {}},
    "tasks": {"type": "list", "elements": "str", "default": []},
    "concurrency": {"type": "dict", "default": {}},
    "time_limit": {"type": "float"},
    "soft_time_limit": {"type": "float"},
    "task_serializer": {"type": "str"},
    "result_serializer": {"type": "str"},
    "accept_content": {"type": "list", "elements": "str", "default": []},
}
ARGUMENT_SPEC: dict[str, Any] = {
    **CONTAINER_SPEC,
    "destination": {"type": "list", "elements": "str", "default": []},
    "methods": {
        "type": "list",
        "elements": "str",
        "choices": list(SHAPES),
        "default": list(SHAPES),
    },
    "timeout": {"type": "float", "default": 5.0},
    "settle": {"type": "float"},
    "expect": {"type": "dict", "default": {}, "options": EXPECT_SPEC},
}
# What an expectation needs to be judged; asking less would accept what nobody looked at.
NEEDS = {
    "queues": "active_queues",
    "tasks": "registered",
    "concurrency": "stats",
    "time_limit": "stats",
    "soft_time_limit": "stats",
    "task_serializer": "conf",
    "result_serializer": "conf",
    "accept_content": "conf",
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
    values = params["expect"] or {}
    expect = Expectation.of(values)
    blind = sorted(
        f"expect.{name} needs {method}"
        for name, method in NEEDS.items()
        if values.get(name) not in (None, [], {}) and method not in params["methods"]
    )
    if blind:
        module.fail_json(msg=f"methods is {params['methods']}, but {', '.join(blind)}: add them.")
    settle = params["settle"]
    request = {
        "command": "inspect",
        "methods": params["methods"],
        "destination": params["destination"] or list(expect.nodes),
        "everybody": expect.no_foreign_nodes,
        "settle": (0.5 if expect.no_foreign_nodes else 0.05) if settle is None else settle,
    }
    base: dict[str, Any] = {"changed": False, "nodes": {}, "workers": [], "beats": []}
    try:
        reply, outcome = run_probe(params, request)
    except ProbeError as error:
        finding = Finding(error.problem, "", None, None, str(error))
        failed = {"problem": error.problem, "findings": [finding.as_dict()], **error.outcome}
        if params["fail_on_findings"]:
            module.fail_json(msg=str(error), **{**base, **failed})
        module.exit_json(msg=str(error), **{**base, **failed})
    snapshot = parse_replies(reply.get("replies"), params["methods"])
    destination = tuple(dict.fromkeys([*params["destination"], *expect.nodes]))
    findings = judge(snapshot, expect, params["methods"])
    known = {finding.node for finding in findings if finding.code == "node_silent"}
    if destination != expect.nodes:
        only = Expectation(nodes=destination)
        findings += [
            finding
            for finding in judge(snapshot, only, [])
            if finding.code == "node_silent" and finding.node not in known
        ]
    result = {
        "changed": False,
        "problem": problem_of(findings),
        "findings": [finding.as_dict() for finding in findings],
        "nodes": snapshot.nodes,
        "workers": workers_of(snapshot),
        "beats": list(snapshot.beats),
        "seconds": reply.get("seconds"),
        "inspect_rc": outcome["inspect_rc"],
    }
    if findings:
        result["msg"] = message_of("The workers are not as expected", findings)
        if params["fail_on_findings"]:
            module.fail_json(**result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
