#!/usr/bin/python
"""Comparison of a stack with what is wanted of it, and its lock."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deploy_begin
short_description: Compare what runs with what is wanted, and lock the stack
description:
  - One look at the start of a deploy. When the current release was made from the same inputs and
    all its containers are healthy, nothing is to be done, and nothing is locked. Otherwise the
    lock is taken, unless another deploy has it.
  - Tells what an earlier deploy left behind that was cut off, and which stages have nothing to do
    although the release is another.
extends_documentation_fragment: [crisper.docker, crisper.project, crisper.root, crisper.host]
options:
  owner:
    description: The run, as the lookup C(crisper_run) gives it.
    type: dict
    required: true
    suboptions:
      id: {description: Id of the run., type: str, required: true}
      who: {description: The operator., type: str, required: true}
      controller: {description: Name of the controller., type: str, required: true}
      process: {description: Process id and start time., type: str, required: true}
  purpose:
    description: What the lock is wanted for.
    type: str
    choices: [deploy, rollback, backup, restore, down]
    default: deploy
  inputs:
    description: Digest of everything the release is made from; empty always has something to do.
    type: str
    default: ""
  stages:
    description:
      - Digests of what the stages C(docker) and C(images) are made from; empty ones are never the
        same.
    type: dict
    default: {}
  references:
    description:
      - References without digest that the wanted release comes from. Where the image on the host
        came from a registry, the registry is asked which image it has behind the reference now;
        another one is something to do.
    type: list
    elements: str
    default: []
  registry_timeout:
    description: Seconds to wait for the answers of the registries, all at the same time.
    type: float
    default: 5
  docker_socket:
    description: Socket of the engine, through which registries are asked.
    type: path
    default: /var/run/docker.sock
  due:
    description: Whether something outside of the release is to be done, such as a certificate.
    type: bool
    default: false
  fitness:
    description:
      - Options of M(host_check), which is then done in the same call, when there is something to
        do and no other run has the lock.
    type: dict
  put_back:
    description: The kept release that is to be put back; whether that can be is told.
    type: dict
    suboptions:
      id:
        description: The release; empty takes the newest proved one before the current.
        type: str
        default: ""
      restore_database:
        description: Whether a release from before an irreversible migration will do, because the
          database is put back too.
        type: bool
        default: false
  dead:
    description: Run whose owner is known to be dead; its lock is taken over.
    type: str
    default: ""
  quiet_timeout:
    description: Seconds to wait for what a deploy that was cut off is still doing.
    type: int
    default: 120
attributes:
  check_mode:
    description: Only looks.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Compare the server with the inventory
  deploy_begin:
    root: /opt/crisper
    project: crisper
    owner: "{{ lookup('crisper_run') }}"
    inputs: "{{ inputs_digest }}"
"""

RETURN = r"""
unchanged:
  description: Whether the wanted release runs already, whole and healthy.
  returned: always
  type: bool
  sample: false
intact:
  description: Whether every container of the current release is there and healthy.
  returned: always
  type: bool
  sample: true
same:
  description:
    - Whether a stage has nothing to do. C(docker) when the last deploy went through that stage with
      these inputs, C(images) when the current release's images were made from these, are here, and
      no registry has another one behind a reference of O(references).
  returned: always
  type: dict
  sample: {docker: true, images: false}
images:
  description: Name to C({ref, id}) of the current release's images.
  returned: always
  type: dict
  sample: {redis: {ref: "docker.io/library/redis:8.0", id: "sha256:44215c7d29f7"}}
moved:
  description: Reference of O(references) to the digest of another image that its registry has now.
  returned: always
  type: dict
  sample: {"registry.example.com/shop/backend:latest": "sha256:1c054d"}
unanswered:
  description: Reference of O(references) to the reason why its registry did not say what it has.
  returned: always
  type: dict
  sample: {}
docker_cli:
  description: The Docker client that the current release was deployed with.
  returned: always
  type: str
  sample: /usr/bin/docker
inputs:
  description: O(inputs), for what is written down later.
  returned: always
  type: str
  sample: 0f3a8c9d7b12
stages:
  description: O(stages), for what is written down later.
  returned: always
  type: dict
  sample: {docker: 0f3a8c9d7b12, images: 9a8b7c6d5e4f}
fitness:
  description: C(findings) and C(host), as M(host_check) returns them.
  returned: with O(fitness), when there is something to do and no other run has the lock
  type: dict
  sample: {findings: [], host: {}}
put_back:
  description:
    - C(problem), why that release cannot be put back, or the C(release), as M(release) has
      it, with C(named), whether its images have their names.
  returned: with O(put_back)
  type: dict
  sample: {problem: "", release: {id: 20261119t080000z-99887766, named: true}}
locked:
  description: Whether this deploy has the lock.
  returned: always
  type: bool
  sample: true
held:
  description: The lock when another deploy has it.
  returned: always
  type: dict
  sample: {}
database_behind:
  description:
    - The backup that the database was put back to by a rollback that did not get to its end. The
      migrations of the release that serves are missing in it. Empty otherwise.
  returned: always
  type: str
  sample: ""
page:
  description: Whether nginx shows the maintenance page.
  returned: always
  type: bool
  sample: false
unfinished:
  description: The last deploy, when it was cut off or could not be undone.
  returned: always
  type: dict
  sample: {}
current:
  description: Id of the release that serves.
  returned: always
  type: str
  sample: 20261119t080000z-99887766
queues:
  description: Node name to queues of the current release's workers, when a deploy was cut off.
  returned: always
  type: dict
  sample: {}
containers:
  description: The stack's containers.
  returned: always
  type: list
  elements: dict
  sample: [{name: crisper-nginx-1, service: nginx, state: running, health: healthy}]
"""

import contextlib
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.crisper.stack.plugins.module_utils.deploy.acquire import (
    RefusedError,
    acquire_lock,
    check_data,
)
from ansible_collections.crisper.stack.plugins.module_utils.deploy.begin import Stack
from ansible_collections.crisper.stack.plugins.module_utils.deploy.leftovers import (
    collect_leftovers,
)
from ansible_collections.crisper.stack.plugins.module_utils.deploy.observe import (
    compare_images,
    observe,
)
from ansible_collections.crisper.stack.plugins.module_utils.deploy.state import PAGE
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import (
    DockerClient,
    summarize,
)
from ansible_collections.crisper.stack.plugins.module_utils.host.facts import SPEC as HOST_SPEC
from ansible_collections.crisper.stack.plugins.module_utils.host.facts import check_host
from ansible_collections.crisper.stack.plugins.module_utils.host.firewall import (
    in_force,
    list_command,
)
from ansible_collections.crisper.stack.plugins.module_utils.images.registry import (
    Comparison,
    Registries,
    describe_unanswered,
)
from ansible_collections.crisper.stack.plugins.module_utils.journal import Journal
from ansible_collections.crisper.stack.plugins.module_utils.release.rollback_check import (
    check_rollback,
)
from ansible_collections.crisper.stack.plugins.module_utils.release.store import ReleaseStore

ARGUMENT_SPEC: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "project": {"type": "str", "required": True},
    "owner": {
        "type": "dict",
        "required": True,
        "options": {
            name: {"type": "str", "required": True}
            for name in ("id", "who", "controller", "process")
        },
    },
    "purpose": {
        "type": "str",
        "choices": ["deploy", "rollback", "backup", "restore", "down"],
        "default": "deploy",
    },
    "inputs": {"type": "str", "default": "", "no_log": False},
    "stages": {"type": "dict", "default": {}},
    "references": {"type": "list", "elements": "str", "default": []},
    "registry_timeout": {"type": "float", "default": 5},
    "docker_socket": {"type": "path", "default": "/var/run/docker.sock"},
    "due": {"type": "bool", "default": False},
    "fitness": {"type": "dict"},
    "put_back": {
        "type": "dict",
        "options": {
            "id": {"type": "str", "default": ""},
            "restore_database": {"type": "bool", "default": False},
        },
    },
    "dead": {"type": "str", "default": ""},
    "host": {"type": "str", "default": ""},
    "quiet_timeout": {"type": "int", "default": 120},
    "docker_cli": {"type": "str", "default": "docker"},
}


def host_closed(module: AnsibleModule, root: Path) -> bool:
    """Return whether the firewall of the stack is as the last deploy left it."""
    try:
        rules = (root / "firewall/rules.v4").read_text()
    except OSError:
        return True  # of an edition without one, or stack_isolation is false
    table = module.get_bin_path("iptables")
    listing = module.run_command(list_command(table))[1] if table else ""
    return in_force(listing, module.params["project"], rules)


def describe(module: AnsibleModule, root: Path, stack: Stack, moved: Comparison) -> dict[str, Any]:
    """Return the part of the result that is known before the lock is taken."""
    params = module.params
    unchanged = (
        stack.has_inputs(params["inputs"])
        and not params["due"]
        and host_closed(module, root)
        and not moved.moved
        and stack.settled
    )
    return {
        **stack.describe(params["host"]),
        "unchanged": unchanged,
        "same": {"docker": False, "images": False},
        "moved": moved.moved,
        "unanswered": moved.unanswered,
        "inputs": params["inputs"],
        "stages": params["stages"],
        "held": {},
        "page": (root / PAGE).exists(),
        "containers": summarize(stack.containers),
    }


def fitness(module: AnsibleModule) -> dict[str, Any]:
    """Return what host_check would return."""
    options = ArgumentSpecValidator(HOST_SPEC).validate(module.params["fitness"])
    if options.error_messages:
        module.fail_json(msg=f"fitness: {'; '.join(options.error_messages)}.")
    return check_host(module, options.validated_parameters)


def compare_and_lock(module: AnsibleModule, journal: Journal, result: dict[str, Any]) -> None:
    """Fill `result` with what the module returns.

    Raises:
        RefusedError: this run may not begin.
    """
    params, root = module.params, journal.root
    engine = DockerClient(module, params["project"])
    stack = observe(journal, engine, params["purpose"])
    registries = Registries(params["docker_socket"], params["registry_timeout"])
    moved = compare_images(stack, params["stages"], params["references"], engine, registries)
    if problem := describe_unanswered(moved.unanswered):
        module.warn(problem)
    result |= describe(module, root, stack, moved)
    if stack.containers and not result["unchanged"]:
        result["same"] = stack.done_stages(params["stages"], engine.has_images)
        result["same"]["images"] &= not moved.moved
    if not result["unchanged"] and not module.check_mode:
        owner, interrupted = {**params["owner"], "purpose": params["purpose"]}, stack.interrupted
        patience = params["quiet_timeout"]
        holder = acquire_lock(journal, owner, params["dead"], bool(interrupted), patience)
        result |= {"held": holder, "locked": not holder}
    if not result["unchanged"] and not result["held"]:
        check_data(root, params["purpose"])
    if result["locked"] and engine.available():  # else the deploy starts it, and migrates then
        cli, steps = params["docker_cli"], stack.interrupted.get("steps", [])
        for sentence in collect_leftovers(journal, cli, params["project"], steps):
            module.warn(sentence)
    if target := params["put_back"]:
        options = (params["project"], target["id"], target["restore_database"], engine.call)
        release, problem = check_rollback(ReleaseStore(root), *options)
        result["put_back"] = {"problem": problem, "release": release}
    if params["fitness"] and not result["unchanged"] and not result["held"]:
        result["fitness"] = fitness(module)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    journal = Journal(module.params["root"], module.params["owner"]["id"])
    result: dict[str, Any] = {"changed": False, "locked": False}
    try:
        compare_and_lock(module, journal, result)
    except BaseException as error:
        if result["locked"]:
            with contextlib.suppress(OSError):
                journal.end("failed")  # nobody else knows that it was taken
        if isinstance(error, RefusedError):
            module.fail_json(msg=str(error), **result)
        raise
    module.exit_json(**result)


if __name__ == "__main__":
    main()
