#!/usr/bin/python
"""Make named Celery workers finish what they have and take nothing more."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_drain
short_description: Make named Celery workers finish what they have and take nothing more
description:
  - Tells each of O(nodes), by its exact name, to leave all its queues, and waits until it runs no
    task. Idle workers are done after two polls, some ten milliseconds apart. Other workers of the
    same queues go on.
  - A worker that has reserved messages beyond what it runs is not waited for. It puts them back
    when it is told to stop (SIGTERM), and ends what runs.
  - Tasks with an ETA that a worker holds do not run and are not waited for; the worker puts them
    back when its process ends (SIGTERM). RV(scheduled) counts them, without asking for each.
  - The whole wait is one Python process in a running container that has the application. It does
    not stop the workers; that is the caller's turn.
  - Tasks that still run at the end of O(timeout) do not fail the module; they are listed.
  - With O(state=resumed) workers consume again, for a rollback. A worker that was restarted
    consumes by itself.
  - A C(solo) pool does not answer while a task runs; O(silent_after) must then be as long as the
    longest task.
extends_documentation_fragment: [crisper, crisper.docker, crisper.celery]
options:
  state:
    description:
      - C(drained) leaves the queues and waits for what runs; C(resumed) takes them up again.
    type: str
    choices: [drained, resumed]
    default: drained
  nodes:
    description:
      - Node names of the workers, exactly. Needed with O(state=drained), where none is nothing
        to do.
      - With O(state=resumed) limits O(queues) to these nodes.
    type: list
    elements: str
  queues:
    description:
      - Node name to the queues it is to consume, as RV(queues) of draining returned them. Needed
        with O(state=resumed).
    type: dict
  container:
    description: Id or name of a running container that has the application.
    type: str
  project:
    description: Compose project; with O(service), names the container instead of O(container).
    type: str
  service:
    description: Compose service in O(project); the first of its containers that runs is used.
    type: str
  project_src:
    description:
      - Folder of a release of O(project), with its compose file and C(.env). With
        O(state=resumed) a one-off container of its O(service) is asked where no container runs,
        or the one that runs gives no answer; it has less time then. It may be broken or
        compromised, and about to be replaced.
    type: path
  timeout:
    description: Budget in seconds for the whole wait.
    type: float
    default: 300
  since:
    description:
      - Unix time at which they were told to leave already (C(left.left_at) of M(compose_rollout)
        or RV(left_at) of an earlier call); the time since then is taken off O(timeout). 0 takes
        nothing off.
    type: float
    default: 0
  interval:
    description: Longest pause between two polls in seconds; the first pauses are shorter.
    type: float
    default: 1.0
  reply_timeout:
    description: Seconds that one poll waits for its answers.
    type: float
    default: 2.0
  silent_after:
    description: Seconds without an answer after which a worker is not waited for any more.
    type: float
    default: 10.0
  allow_silent:
    description: Whether workers that do not answer are only reported; otherwise they fail the task.
    type: bool
    default: true
attributes:
  check_mode:
    description: Looks once and tells what each worker holds; tells the workers nothing.
    support: full
  diff_mode:
    description: The result is the diff.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Drain the old workers
  celery_drain:
    project: crisper
    service: celery-worker
    app: backend.celery_app
    nodes: [default@app1-20261119t080000z-99887766-0a1b2c3d4e5f]
    timeout: 300
  register: drained

- name: Resume the old workers
  celery_drain:
    state: resumed
    project: crisper
    service: celery-worker
    app: backend.celery_app
    queues: "{{ drained.queues }}"
"""

RETURN = r"""
drained:
  description: Nodes that consume nothing and hold nothing to run.
  returned: with O(state=drained)
  type: list
  elements: str
  sample: [default@app1-20261119t080000z-99887766-0a1b2c3d4e5f]
resumed:
  description: Nodes that consume all their queues.
  returned: with O(state=resumed)
  type: list
  elements: str
  sample: []
left_at:
  description: Unix time at which the nodes were told to leave.
  returned: always
  type: float
  sample: 1795212000.5
unfinished:
  description:
    - Tasks that nodes still held when the wait ended; C(running) for C(seconds), or C(waiting)
      in the worker. Of a node that fell silent, what it said last.
  returned: always
  type: list
  elements: dict
  sample:
    - id: 5b0c5d0e-3a3c-4b7a-9c53-7f3f0e1c9a55
      name: regenerate_embedding_task
      node: default@app1-20261119t080000z-99887766-0a1b2c3d4e5f
      seconds: 312.4
      state: running
stale:
  description:
    - Tasks that nodes list as running although they have ended, with some versions of Celery after
      a restart of Redis. They are not waited for.
  returned: always
  type: list
  elements: dict
  sample:
    - id: 5b0c5d0e-3a3c-4b7a-9c53-7f3f0e1c9a55
      name: regenerate_embedding_task
      node: default@app1-20261119t080000z-99887766-0a1b2c3d4e5f
longest:
  description: Seconds that the longest task had run which the nodes were seen to run.
  returned: always
  type: float
  sample: 18.4
scheduled:
  description:
    - Tasks with an ETA that the nodes hold; they go back to their queues at SIGTERM. Where all
      workers together hold more than 1,000 messages, a worker would be busy for seconds with the
      answer. Then this is what all of them hold and the nodes do not run.
  returned: always
  type: int
  sample: 0
silent:
  description: Nodes that did not answer.
  returned: always
  type: list
  elements: str
  sample: []
queues:
  description: Node name to the queues that it was told to leave (or to take up again).
  returned: always
  type: dict
  sample: {"default@app1-20261119t080000z-99887766-0a1b2c3d4e5f": [default, embeddings]}
nodes:
  description:
    - Node name to what it reported last - queues, and numbers of tasks. C(scheduled) is null where
      it was not asked.
  returned: always
  type: dict
  sample:
    default@app1-20261119t080000z-99887766-0a1b2c3d4e5f:
      {queues: [], active: 0, reserved: 0, scheduled: 0}
seconds:
  description: Length of the wait, without the import of the application.
  returned: always
  type: float
  sample: 0.09
import_seconds:
  description: Time until the application was imported, in the container.
  returned: always
  type: float
  sample: 0.6
problem:
  description:
    - Kind of trouble, empty when there is none; V(broker_unreachable), V(app_not_importable),
      V(container_not_running), V(docker_unavailable), V(malformed_reply), V(nodes_silent).
  returned: always
  type: str
  sample: ""
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.celery.findings import REMEDIES
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import find_container
from ansible_collections.crisper.stack.plugins.module_utils.journal import (
    RUN_SPEC,
    NotOwnerError,
    note,
)
from ansible_collections.crisper.stack.plugins.module_utils.remote.drain import (
    NOTHING,
    ask_release,
    ask_running,
    other_way,
    request_of,
)
from ansible_collections.crisper.stack.plugins.module_utils.remote.run import RemoteError
from ansible_collections.crisper.stack.plugins.module_utils.text import listed, quote

ARGUMENT_SPEC: dict[str, Any] = {
    "state": {"type": "str", "choices": ["drained", "resumed"], "default": "drained"},
    "nodes": {"type": "list", "elements": "str"},
    "queues": {"type": "dict"},
    "container": {"type": "str"},
    "project": {"type": "str"},
    "service": {"type": "str"},
    "project_src": {"type": "path"},
    "app": {"type": "str", "required": True},
    "timeout": {"type": "float", "default": 300},
    "since": {"type": "float", "default": 0},
    "interval": {"type": "float", "default": 1.0},
    "reply_timeout": {"type": "float", "default": 2.0},
    "silent_after": {"type": "float", "default": 10.0},
    "allow_silent": {"type": "bool", "default": True},
    "import_timeout": {"type": "int", "default": 60},
    "python": {"type": "str", "default": "python"},
    "docker_cli": {"type": "str", "default": "docker"},
    "run": RUN_SPEC,
}
STEPS = {"drained": "drain", "resumed": "resume"}


def ask(module: AnsibleModule, request: dict[str, Any]) -> dict[str, Any]:
    """Return the probe's reply; end the module where there is none."""
    container, problem = find_container(module)
    kind, _, why = problem.partition(": ")
    if problem and not (kind == "container_not_running" and other_way(module.params)):
        module.fail_json(msg=f"{why}. {REMEDIES.get(kind, '')}", problem=kind)
    try:
        reply = ask_running(module, container, request) if container else None
        return ask_release(module.params, request) if reply is None else reply
    except RemoteError as error:
        module.fail_json(
            msg=f"{error}. {REMEDIES.get(error.problem, '')}",
            problem=error.problem,
            stderr=error.stderr,
        )
    raise AssertionError  # fail_json has ended the process


def judge(module: AnsibleModule, reply: dict[str, Any], result: dict[str, Any]) -> None:
    """End the module where the reply tells a problem, or workers that must not be silent."""
    params, done = module.params, module.params["state"]
    if reply["problem"]:
        ordered = listed(sorted(result["queues"])) or "none"
        order = "consume" if done == "resumed" else "stop consuming"
        module.fail_json(
            msg=f"{params['app']}: {quote(reply['error'])}. {REMEDIES.get(reply['problem'], '')}"
            f" Workers that had been ordered to {order} queues: {ordered}.",
            **result,
        )
    if result["silent"]:
        message = (
            f"No answer from {listed(result['silent'])}. Does the container run (docker ps),"
            " and is it connected to the broker (its log)?"
        )
        if not params["allow_silent"]:
            module.fail_json(
                msg=message + " (allow_silent: true continues without them)",
                **{**result, "problem": "nodes_silent"},
            )
        module.warn(message)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_one_of=[("container", "project")],
        mutually_exclusive=[("container", "project")],
        required_together=[("project", "service")],
        required_if=[
            ("state", "drained", ["nodes"]),
            ("state", "resumed", ["queues"]),
        ],
        supports_check_mode=True,
    )
    params = module.params
    for name in ("timeout", "interval", "reply_timeout", "silent_after", "import_timeout"):
        if params[name] <= 0:
            module.fail_json(msg=f"{name} is {params[name]}: seconds, greater than 0.")
    done = params["state"]
    request = request_of(params, module.check_mode)
    left_at = time.time()
    if not (request.get("nodes") or request.get("queues")):
        module.exit_json(changed=False, left_at=left_at, **{**NOTHING, done: []})
    if not module.check_mode:
        try:
            note(params, STEPS[done])
        except NotOwnerError as error:
            module.fail_json(msg=str(error))
    reply = ask(module, request)
    result = {key: reply[key] for key in NOTHING}
    result |= {done: reply["done"], "left_at": left_at, "changed": bool(result["queues"])}
    judge(module, reply, result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
