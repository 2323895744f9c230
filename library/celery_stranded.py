#!/usr/bin/python
"""Find Celery tasks that no worker knows any more, and put them back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_stranded
short_description: Find Celery tasks that no worker knows any more, and put them back
description:
  - A worker without crisper-worker that loses its connection because Redis restarts forgets what it
    had prefetched, and what it holds for an ETA. These tasks stay unacknowledged in Redis until the
    visibility timeout, an hour or more. This module compares what is unacknowledged with what the
    workers tell of.
  - With some versions of Celery such a worker lists a task for ever that ran at that moment, also
    after its end. An entry is judged as ended where its process runs a newer task, where its
    process is gone from the pool, or where its result was stored since it began.
  - A task counts as stranded only if it was delivered more than O(grace) seconds ago, no worker
    told of it in two looks, its delivery was the same in both, and every worker that listens
    answered both times. Otherwise RV(blind) tells why nothing can be said.
  - Tasks under a lease of crisper-worker are left to it. So are tasks with a rate limit, which
    workers hold without telling, and messages that are no Celery tasks.
  - With O(state=put_back) each stranded task goes back to the end of its queue that consumers read,
    in one step with its removal, as kombu does it at the visibility timeout. One whose result
    says that it succeeded after that delivery is acknowledged instead.
  - Only the database, the C(global_keyprefix) and the keys of the application's own broker are
    looked at.
extends_documentation_fragment: [crisper, crisper.docker, crisper.celery]
options:
  state:
    description: C(examined) only looks; C(put_back) puts stranded tasks back in their queues.
    type: str
    choices: [examined, put_back]
    default: examined
  nodes:
    description: Node names of workers that must answer, whoever else does.
    type: list
    elements: str
    default: []
  same_image:
    description:
      - Those of O(nodes) that run from the image of the container that is asked. Where these are
        all that answer, tasks with an ETA are asked for by id, which Celery 5.7 answers exactly.
    type: list
    elements: str
    default: []
  grace:
    description: Seconds since its delivery from which a task is judged.
    type: float
    default: 5.0
  restarted_within:
    description:
      - Nothing is asked or put back unless Redis has started within so many seconds. 0 does so
        whenever it has started.
    type: float
    default: 0
  wait:
    description:
      - Seconds to wait, with O(state=put_back), until every worker answers that must, or listens.
    type: float
    default: 20.0
  budget:
    description:
      - Seconds for reading and putting back, without what workers take to answer. What is not done
        in time is left for the next call.
    type: float
    default: 60.0
  container:
    description: Id or name of a running container that has the application.
    type: str
  project:
    description: Compose project; with O(service), names the container instead of O(container).
    type: str
  service:
    description: Compose service in O(project); the first of its containers that runs is used.
    type: str
  timeout:
    description: Seconds that workers have to answer a look.
    type: float
    default: 5.0
attributes:
  check_mode:
    description: Only looks.
    support: full
  diff_mode:
    description: The result is the diff.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Put back the stranded tasks
  celery_stranded:
    state: put_back
    project: crisper
    service: backend
    app: backend.celery_app
    nodes: [default@app1-20261119t080000z-99887766-0a1b2c3d4e5f]
"""

RETURN = r"""
held:
  description: Number of unacknowledged messages.
  returned: always
  type: int
  sample: 12
stranded:
  description: Number of tasks that no worker told of; none of RV(blind) makes that certain.
  returned: always
  type: int
  sample: 8
tasks:
  description: The first 20 of them.
  returned: always
  type: list
  elements: dict
  sample: [{id: 5b0c5d0e-3a3c-4b7a-9c53-7f3f0e1c9a55, task: regenerate_embedding_task}]
ended:
  description: Number of unacknowledged tasks that no worker runs or waits with and that succeeded.
  returned: always
  type: int
  sample: 0
listed:
  description:
    - Number of those of RV(stranded) and RV(ended) that a worker still lists as running, although
      they have ended.
  returned: always
  type: int
  sample: 0
leased:
  description: Number of tasks that crisper-worker recovers.
  returned: always
  type: int
  sample: 0
limited:
  description: Number of tasks with a rate limit, which cannot be judged.
  returned: always
  type: int
  sample: 0
later:
  description: Number of tasks with an ETA that were not judged, because they are too many to ask.
  returned: always
  type: int
  sample: 0
unreadable:
  description: Number of messages that are no Celery tasks.
  returned: always
  type: int
  sample: 0
homeless:
  description: Number of stranded tasks whose exchange and routing key lead to no queue.
  returned: always
  type: int
  sample: 0
blind:
  description: Why it cannot be told what workers hold; empty where it can.
  returned: always
  type: list
  elements: str
  sample: [default@app1 did not answer]
partial:
  description: Whether not all messages could be read in time.
  returned: always
  type: bool
  sample: false
restarted:
  description: Whether Redis has started within O(restarted_within).
  returned: always
  type: bool
  sample: true
put_back:
  description: Number of tasks that were put back in their queues.
  returned: always
  type: int
  sample: 8
acknowledged:
  description: Number of tasks that had ended and were acknowledged.
  returned: always
  type: int
  sample: 0
text:
  description: What was seen, in one sentence; empty where there is nothing to tell.
  returned: always
  type: str
  sample: 12 tasks are unacknowledged, no worker knows 8 of them (embed 5b0c5d0e and 7 more)
done:
  description: What was done, in one sentence; empty where nothing was.
  returned: always
  type: str
  sample: 8 tasks that no worker knew any more were put back in their queues
seconds:
  description: Time in the container, with the application's import.
  returned: always
  type: float
  sample: 2.7
problem:
  description:
    - Kind of trouble, empty when there is none; V(broker_unreachable), V(broker_unsupported),
      V(app_not_importable), V(container_not_running), V(docker_unavailable), V(malformed_reply),
      V(unreadable_data).
  returned: always
  type: str
  sample: ""
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.celery import stranded
from ansible_collections.crisper.stack.plugins.module_utils.celery.findings import REMEDIES
from ansible_collections.crisper.stack.plugins.module_utils.celery.stranded_report import (
    deed,
    sentence,
)
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import find_container
from ansible_collections.crisper.stack.plugins.module_utils.journal import (
    RUN_SPEC,
    NotOwnerError,
    note,
)
from ansible_collections.crisper.stack.plugins.module_utils.probes import stranded as stranded_probe
from ansible_collections.crisper.stack.plugins.module_utils.remote.run import RemoteError, run
from ansible_collections.crisper.stack.plugins.module_utils.remote.workers import CONNECTION_SPEC
from ansible_collections.crisper.stack.plugins.module_utils.shapes import like
from ansible_collections.crisper.stack.plugins.module_utils.text import quote

ARGUMENT_SPEC: dict[str, Any] = {
    **CONNECTION_SPEC,
    "state": {"type": "str", "choices": ["examined", "put_back"], "default": "examined"},
    "nodes": {"type": "list", "elements": "str", "default": []},
    "same_image": {"type": "list", "elements": "str", "default": []},
    "grace": {"type": "float", "default": stranded.GRACE},
    "restarted_within": {"type": "float", "default": 0},
    "wait": {"type": "float", "default": 20.0},
    "budget": {"type": "float", "default": 60.0},
    "run": RUN_SPEC,
}
NUMBERS = ("held", "stranded", "ended", "listed", "leased", "limited", "later", "unreadable")
NOTHING: dict[str, Any] = {
    **dict.fromkeys((*NUMBERS, "homeless", "put_back", "acknowledged"), 0),
    **{"tasks": [], "blind": [], "partial": False, "restarted": False},
    **{"text": "", "done": "", "seconds": 0.0, "problem": ""},
}
# What the container answers, whatever it is.
ANSWER: dict[str, Any] = {
    **{**NOTHING, "error": ""},
    **{"tasks": [{"id": "", "task": ""}], "blind": [""]},
}


def ask(module: AnsibleModule, request: dict[str, Any]) -> dict[str, Any]:
    """Return the probe's reply; end the module where there is none."""
    params = module.params
    container, problem = find_container(module)
    if problem:
        kind, _, why = problem.partition(": ")
        text = f"{why}. {REMEDIES.get(kind, '')}"
        module.fail_json(msg=text, **{**NOTHING, "problem": kind})
    if request["put_back"]:
        try:
            note(params, "put_back")
        except NotOwnerError as error:
            module.fail_json(msg=str(error), **NOTHING)
    command = [params["docker_cli"], "exec", "--interactive", container, params["python"], "-"]
    limit = params["import_timeout"] + params["budget"] + params["wait"] + 60
    try:
        reply: dict[str, Any] = like(run(command, stranded_probe, request, limit), ANSWER)
    except RemoteError as error:
        module.fail_json(
            msg=f"{error}. {REMEDIES.get(error.problem, '')}",
            **{**NOTHING, "problem": error.problem},
            stderr=error.stderr,
        )
    return reply


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
    for name in ("timeout", "budget", "import_timeout"):
        if params[name] <= 0:
            module.fail_json(msg=f"{name} is {params[name]}: seconds, greater than 0.", **NOTHING)
    names = ("app", "nodes", "same_image", "grace", "restarted_within", "wait", "budget", "timeout")
    request = {name: params[name] for name in (*names, "import_timeout")}
    request["put_back"] = params["state"] == "put_back" and not module.check_mode
    reply = ask(module, request)
    result = {key: reply[key] for key in NOTHING}
    if reply["problem"]:
        text = f"{params['app']}: {quote(reply['error'])}. {REMEDIES.get(reply['problem'], '')}"
        module.fail_json(msg=text, **result)
    result |= {"text": sentence(reply), "done": deed(reply)}
    result["changed"] = bool(result["put_back"] or result["acknowledged"])
    module.exit_json(**result)


if __name__ == "__main__":
    main()
