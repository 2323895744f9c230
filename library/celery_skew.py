#!/usr/bin/python
"""Every task that waits in the broker must be known to the release that will run it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_skew
short_description: Find waiting tasks that a release does not know
description:
  - Reads the names of all tasks that wait in the broker (queues of all priorities, and messages
    that workers hold unacknowledged, among them tasks with an ETA) and compares them with the
    tasks that the application in the container registers. A worker throws away a task that it
    does not know.
  - Run it in the release that is going to run, before a deploy and before a rollback, while the
    old release still serves.
  - Redis brokers only. A script on the server counts the names, in windows of at most 2,000
    messages, each of which blocks Redis for some milliseconds; only names and numbers leave it.
    Messages that kombu writes otherwise (protocol 1, foreign JSON) are read in the container, and
    so are all where the server refuses scripts. Arguments are never kept. Changes nothing.
  - Reading ends after O(budget) seconds. Queues are read from the shortest to the longest, each
    in order while that ends in time, then windows evenly spread over what is left. What was not
    read completely is in RV(partial) and a warning.
  - Numbers are of the moment; a message that moves while it is read may be counted twice.
extends_documentation_fragment: [crisper.docker, crisper.celery]
options:
  container:
    description: Running container of the release to ask in. Or O(project_src) and O(service).
    type: str
  project_src:
    description:
      - Folder of the release with its compose file and C(.env). A one-off container of
        O(service) is started there (C(docker compose run --rm --no-deps)), with the environment
        that Compose gives it, and removed.
    type: path
  project_name:
    description: Compose project; what C(.env) in O(project_src) says when absent.
    type: str
  service:
    description: Service of the release that has the application, a worker best.
    type: str
  queues:
    description:
      - Queues that the release consumes. Tasks in other queues are reported in RV(orphaned).
        Queues that any release has declared are read whether named here or not.
    type: list
    elements: str
    default: []
  known:
    description:
      - Tasks that the release is known to register. With O(running) the queues are then read in
        a container that runs already, which takes a second instead of ten; the release itself is
        started only when a task waits that is not among these, or that container gives no answer.
    type: list
    elements: str
    default: []
  known_is_all:
    description: Whether O(known) is complete, as for a release that was proved once.
    type: bool
    default: false
  running:
    description:
      - Service of O(project_name) that runs and has the same broker. Its container is about to be
        replaced, and may be broken or compromised. So it has less time, its silence is a warning,
        and where it tells of unknown tasks the release reads the queues itself, unless
        O(allow_unknown).
    type: str
    default: ""
  allow_unknown:
    description: Whether unknown tasks are only a warning.
    type: bool
    default: false
  budget:
    description:
      - Seconds after which reading ends with what was read until then; 1,000,000 messages need 2
        to 5 seconds.
    type: float
    default: 10
  reading:
    description:
      - What RV(reading) of an earlier call or RV(reading) of M(deploy_ledger) returned. The queues
        are not read again, and only the release is asked whether it knows the names; where it does
        not, it reads them itself, unless O(allow_unknown).
    type: dict
  timeout:
    description: Seconds after which a broker that hangs ends the module; more than O(budget).
    type: int
    default: 60
  broker_timeout:
    description: Seconds that connecting to the broker may take.
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
- name: Compare waiting tasks with the new release
  celery_skew:
    app: backend.celery_app
    project_src: /opt/crisper/releases/20261120t221500z-1a2b3c4d
    service: celery-worker
    queues: [default, embeddings]
    allow_unknown: "{{ celery_allow_unknown_tasks }}"
"""

RETURN = r"""
unknown:
  description: Name of every waiting task that the application does not register, and how many.
  returned: always
  type: dict
  sample: {regenerate_embedding_task: 12}
waiting:
  description:
    - Queue to task name to number. V(unacked) is what workers hold - running, reserved and with
      an ETA.
  returned: always
  type: dict
  sample: {default: {health_check: 1}, unacked: {regenerate_embedding_task: 12}}
orphaned:
  description: Queues that O(queues) does not name, with their number of waiting tasks.
  returned: always
  type: dict
  sample: {}
unreadable:
  description: Queue to its number of messages that are no Celery tasks.
  returned: always
  type: dict
  sample: {}
partial:
  description:
    - Queues that were not read completely, with the number of messages that were read and of all
      in the lists concerned. Names in the rest are not known.
  returned: always
  type: dict
  sample: {default: {read: 400000, of: 1000000}}
unlisted:
  description:
    - Whether the look for queues of other releases ended before it had seen all keys of the broker.
  returned: always
  type: bool
  sample: false
reading:
  description: What was read, as O(reading) takes it.
  returned: always
  type: dict
  sample: {waiting: {default: {health_check: 1}}, unreadable: {}, partial: {}, unlisted: false}
registered:
  description: How many tasks the application registers.
  returned: always
  type: int
  sample: 14
seconds:
  description: Time in the container, with the application's import.
  returned: always
  type: float
  sample: 0.7
problem:
  description:
    - Kind of trouble, empty when there is none; V(unknown_tasks), V(broker_unreachable),
      V(broker_unsupported), V(app_not_importable), V(container_not_running),
      V(docker_unavailable), V(malformed_reply).
  returned: always
  type: str
  sample: ""
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.celery.findings import REMEDIES
from ansible_collections.crisper.stack.plugins.module_utils.remote.run import RemoteError
from ansible_collections.crisper.stack.plugins.module_utils.remote.skew import (
    NOTHING,
    READING,
    find_unknown,
)
from ansible_collections.crisper.stack.plugins.module_utils.text import quote

ARGUMENT_SPEC: dict[str, Any] = {
    "app": {"type": "str", "required": True},
    "container": {"type": "str"},
    "project_src": {"type": "path"},
    "project_name": {"type": "str"},
    "service": {"type": "str"},
    "queues": {"type": "list", "elements": "str", "default": []},
    "known": {"type": "list", "elements": "str", "default": []},
    "known_is_all": {"type": "bool", "default": False},
    "running": {"type": "str", "default": ""},
    "allow_unknown": {"type": "bool", "default": False},
    "budget": {"type": "float", "default": 10},
    "reading": {"type": "dict"},
    "timeout": {"type": "int", "default": 60},
    "broker_timeout": {"type": "float", "default": 5.0},
    "import_timeout": {"type": "int", "default": 60},
    "python": {"type": "str", "default": "python"},
    "docker_cli": {"type": "str", "default": "docker"},
}
MOST_TOLD = 20  # names in a sentence
REMEDY = (
    "Deploy a release that still has them (keep the old name as an alias until the queue is"
    " empty), wait until they are done, or throw them away knowingly:"
    " celery_allow_unknown_tasks: true."
)


def counted(numbers: dict[str, int]) -> str:
    """Return the names with their numbers, for a sentence."""
    parts = [f"{name} ({number})" for name, number in list(numbers.items())[:MOST_TOLD]]
    more = len(numbers) - len(parts)
    return ", ".join(parts) + (f" and {more} more names" if more else "")


def incomplete(result: dict[str, Any], budget: float) -> str:
    """Return what was not read, as a sentence; empty when everything was."""
    parts = [
        f"queue {queue}: {each['read']:,} of {each['of']:,} messages"
        for queue, each in result["partial"].items()
    ]
    text = ""
    if parts:
        text = (
            f"Read within {budget:g} s: {'; '.join(parts)}. Task names in the rest are not known."
        )
    if result["unlisted"]:
        text += (
            " The broker's database has so many keys that queues of other releases were looked for"
            " among a part of them only. Keep results in another database or for a shorter time."
        )
    return text.strip()


def judge(module: AnsibleModule, reply: dict[str, Any], result: dict[str, Any]) -> None:
    """End the module where the reply tells a problem or unknown tasks; warn of the rest."""
    params = module.params
    if reply["problem"]:
        text = f"{params['app']}: {quote(reply['error'])}. {REMEDIES.get(reply['problem'], '')}"
        module.fail_json(msg=text, **result)
    if result["orphaned"]:
        module.warn(
            f"Tasks wait in queues that no worker of the release consumes:"
            f" {counted(result['orphaned'])}. Add them to a pool in celery_workers."
        )
    if incomplete(result, params["budget"]):
        module.warn(incomplete(result, params["budget"]))
    if result["unreadable"]:
        module.warn(f"Messages that are no Celery tasks wait in: {counted(result['unreadable'])}.")
    if result["unknown"]:
        text = f"Tasks wait that the release does not know: {counted(result['unknown'])}."
        if not params["allow_unknown"]:
            module.fail_json(msg=f"{text} {REMEDY}", **{**result, "problem": "unknown_tasks"})
        module.warn(f"{text} Its workers will discard them (celery_allow_unknown_tasks).")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_one_of=[("container", "project_src")],
        mutually_exclusive=[("container", "project_src")],
        required_together=[("project_src", "service")],
        supports_check_mode=True,
    )
    params = module.params
    if not 0 < params["budget"] < params["timeout"]:
        module.fail_json(
            msg=f"budget is {params['budget']:g}: seconds, more than 0 and less than timeout"
            f" ({params['timeout']})."
        )
    try:
        reply = find_unknown(module)
    except RemoteError as error:
        module.fail_json(
            msg=f"{error}. {REMEDIES.get(error.problem, '')}",
            **{**NOTHING, "problem": error.problem},
            reading={},
            stderr=error.stderr,
        )
    result = {"changed": False, **NOTHING}
    result |= {key: reply[key] for key in NOTHING if key in reply}
    result["reading"] = {key: result[key] for key in READING}
    judge(module, reply, result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
