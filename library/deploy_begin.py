#!/usr/bin/python
"""Whether a deploy has anything to do, and whether it may."""

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
options:
  root:
    description: Folder of the stack on the server.
    type: path
    required: true
  project:
    description: Compose project.
    type: str
    required: true
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
        do and nobody else does it.
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
  host:
    description: Name of this host in Celery node names.
    type: str
    default: ""
  quiet_timeout:
    description: Seconds to wait for what a deploy that was cut off is still doing.
    type: int
    default: 120
  docker_cli:
    description: The Docker client.
    type: str
    default: docker
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
- name: Compare what runs with what is wanted
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
  returned: with O(fitness), when there is something to do and nobody else does it
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
import json
import time
from pathlib import Path
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.crisper.stack.plugins.module_utils.backup.restore_mark import (
    read_mark,
    refusal,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.migration import (
    collect,
    end_sessions,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.migration_plan import REPLACING
from ansible_collections.crisper.stack.plugins.module_utils.deploy.state import PAGE
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import DockerClient, shown
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker
from ansible_collections.crisper.stack.plugins.module_utils.docker.one_off import (
    CommandError,
    Commands,
)
from ansible_collections.crisper.stack.plugins.module_utils.host.facts import SPEC as HOST_SPEC
from ansible_collections.crisper.stack.plugins.module_utils.host.facts import check_host
from ansible_collections.crisper.stack.plugins.module_utils.host.firewall import (
    chain_name,
    in_force,
    list_command,
)
from ansible_collections.crisper.stack.plugins.module_utils.images.registry import (
    FORMAT,
    Comparison,
    Registries,
    compare,
    describe_unanswered,
)
from ansible_collections.crisper.stack.plugins.module_utils.journal import (
    BUSY,
    Journal,
    NotOwnerError,
    held_by_other,
    last_host,
    unfinished,
)
from ansible_collections.crisper.stack.plugins.module_utils.lock import LockedError, holders
from ansible_collections.crisper.stack.plugins.module_utils.release.manifest import MANIFEST
from ansible_collections.crisper.stack.plugins.module_utils.release.rollback_check import (
    check_rollback,
)
from ansible_collections.crisper.stack.plugins.module_utils.release.store import ReleaseStore
from ansible_collections.crisper.stack.plugins.module_utils.rollout.plan import (
    KEEP,
    Container,
    decide,
    node_name,
)

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


def current_manifest(root: Path) -> dict[str, Any]:
    """Manifest of the release that serves; empty when there is none."""
    try:
        return json.loads((root / "current" / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}


def stages_done(
    wanted: dict[str, str],
    manifest: dict[str, Any],
    entries: list[dict[str, Any]],
    engine: DockerClient,
) -> dict[str, bool]:
    """Which stages have nothing to do; nothing has when no release serves."""
    # What a deploy did to the host outlives its release, so the last one counts that was begun.
    images = manifest.get("images", {})
    return {
        "docker": bool(wanted.get("docker") and images)
        and last_host(entries) == wanted["docker"]
        and bool(manifest.get("docker_cli")),
        "images": bool(wanted.get("images") and images)
        and manifest.get("images_inputs") == wanted["images"]
        and engine.has_images(sorted({image["id"] for image in images.values()})),
    }


def followed_images(
    references: list[str], manifest: dict[str, Any], engine: DockerClient
) -> dict[str, dict[str, Any]]:
    """Return reference -> image on the host, for the references that may have moved.

    What the current release runs counts, not what the reference names on the host by now: somebody
    may have pulled by hand.
    """
    if not references:
        return {}
    ids = {image["ref"]: image["id"] for image in manifest["images"].values()}
    wanted = {reference: ids.get(reference) or reference for reference in references}
    code, out, _ = engine.call("image", "inspect", "--format", FORMAT, *wanted.values())
    if code == 0:
        return dict(zip(wanted, map(json.loads, out.splitlines()), strict=True))
    found = {}  # one of them is not here: a line less, and nobody says which
    for reference, name in wanted.items():
        # After a move to another image store the id may be another one.
        for each in dict.fromkeys((name, reference)):
            code, out, _ = engine.call("image", "inspect", "--format", FORMAT, each)
            if code == 0:
                found[reference] = json.loads(out)
                break
    return found


def compare_registries(
    module: AnsibleModule, manifest: dict[str, Any], engine: DockerClient
) -> Comparison:
    """Return which references of the wanted release name another image in their registry now."""
    params = module.params
    if not params["stages"].get("images") or (
        manifest.get("images_inputs") != params["stages"]["images"]
    ):
        return Comparison()  # the images are looked at anew anyhow
    images = followed_images(params["references"], manifest, engine)
    compared = compare(images, Registries(params["docker_socket"], params["registry_timeout"]).ask)
    if problem := describe_unanswered(compared.unanswered):
        module.warn(problem)
    return compared


def worker_queues(
    containers: list[Container], manifest: dict[str, Any], host: str
) -> dict[str, list[str]]:
    """Queues that the running workers of a release consume, by node name."""
    pools = {p["name"]: p["queues"] for p in manifest.get("model", {}).get("pools", [])}
    return {
        node_name(container, host): list(pools[container.pool])
        for container in containers
        if container.state == "running"
        and container.release == manifest.get("id")
        and container.pool in pools
    }


def fitness(module: AnsibleModule) -> dict[str, Any]:
    """What host_check would tell."""
    given = ArgumentSpecValidator(HOST_SPEC).validate(module.params["fitness"])
    if given.error_messages:
        module.fail_json(msg=f"fitness: {'; '.join(given.error_messages)}.")
    return check_host(module, given.validated_parameters)


def collect_commands(module: AnsibleModule, journal: Journal, left: dict[str, Any]) -> None:
    """Wait for migrations and hooks that a killed deploy left running, and record their outcome.

    Before anything is judged: what they did may stand against a rollback. A restore of the run that
    was `left` unfinished is ended: it would replace the database under what comes next.
    """
    cli = module.params["docker_cli"]
    commands = Commands(cli, module.params["project"], journal.root)
    try:
        if REPLACING.intersection(left.get("steps", ())):
            end_sessions(module.params["project"], Docker(cli))
        for sentence in collect(commands, Docker(cli), journal.note):
            module.warn(sentence)
    except (CommandError, NotOwnerError) as error:
        module.fail_json(msg=f"{error} Nothing was deployed.")


def refuse_busy(module: AnsibleModule, lock: dict[str, Any], result: dict[str, Any]) -> NoReturn:
    """End because a process of another deploy, whose own word no longer counts, still acts."""
    whose = (
        f"The {lock.get('purpose', 'deploy')} {lock['run']} of {lock.get('who', 'somebody')}"
        f" (step {lock.get('step', 'unknown')}) is over or past its time"
        if lock.get("run")
        else "No deploy has the lock"
    )
    found = ", ".join(map(str, holders(Path(module.params["root"]) / BUSY)[:3]))
    module.fail_json(
        msg=f"{whose}, but a process of it still acts on the server after"
        f" {module.params['quiet_timeout']} s: {found or 'find it (ps -ef)'}; let it end or end it,"
        " and run again. This run has changed nothing.",
        **result,
    )
    raise AssertionError  # fail_json has ended the process


def refuse_unlinked(module: AnsibleModule, root: Path, engine: DockerClient) -> None:
    """End when a proved release runs, and the symlink ``current`` does not name it any more.

    A deploy would take itself for the first one: no dump before its migration, and whatever fails
    takes down what serves.
    """
    if not (root / "releases").is_dir() or not engine.available():
        return
    running = (c.release for c in engine.containers() if c.state == "running")
    if not (names := ReleaseStore(root).proved(running)):
        return
    module.fail_json(
        msg=f"Containers of release {', '.join(names)} run, but {root / 'current'} names no release"
        " whose manifest.json can be read: this deploy would take itself for the first one. Put the"
        f" symlink back (ln -sfn {root}/releases/{names[-1]} {root}/current), or take the stack"
        " down first (playbooks/down.yml). This run has changed nothing."
    )


def refuse_half_restored(module: AnsibleModule, root: Path, result: dict[str, Any]) -> None:
    """End when a restore has replaced a part of the data and did not get to its end.

    A backup refuses by itself; its drill may go on, and so may a restore and taking the stack down.
    """
    if module.params["purpose"] not in ("deploy", "rollback") or result["held"]:
        return
    if problem := refusal(root, read_mark(root)):
        module.fail_json(msg=f"{problem} This run has changed nothing.", **result)


def take_lock(module: AnsibleModule, journal: Journal, result: dict[str, Any]) -> None:
    """Take the lock, or tell in `result` who has it."""
    params = module.params
    owner = {k: v for k, v in params["owner"].items() if k != "id"}
    owner["purpose"] = params["purpose"]
    try:
        lock = journal.lock()
        free = not held_by_other(lock, journal.run, time.time(), params["dead"])
        if (lock or result["unfinished"]) and free and lock.get("run") != journal.run:
            # What is left of another deploy; only then is anybody waited for.
            journal.quiet(params["quiet_timeout"])
        held = journal.acquire(owner, params["dead"])
    except LockedError as error:
        module.fail_json(msg=f"{error}. This run has changed nothing.", **result)
    except OSError as error:
        module.fail_json(
            msg=f"The lock of the stack in {params['root']} cannot be written: {error}. Make the"
            f" folder writable (findmnt --target {params['root']}, df {params['root']}), or choose"
            " another with stack_root. This run has changed nothing.",
            **result,
        )
    if held.get("busy"):
        refuse_busy(module, held, result)
    result["held"] = held
    result["locked"] = not held


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    journal = Journal(module.params["root"], module.params["owner"]["id"])
    result: dict[str, Any] = {"changed": False, "locked": False}
    try:
        compare_and_lock(module, journal, result)
    except BaseException:
        if result["locked"]:
            with contextlib.suppress(OSError):
                journal.end("failed")  # nobody else knows that it was taken
        raise
    module.exit_json(**result)


def host_closed(module: AnsibleModule, root: Path) -> bool:
    """Return whether the firewall of the stack is as the last deploy left it."""
    try:
        rules = (root / "firewall/rules.v4").read_text()
    except OSError:
        return True  # of an edition without one, or stack_isolation is false
    table = module.get_bin_path("iptables")
    listing = module.run_command(list_command(table))[1] if table else ""
    return in_force(listing, chain_name(module.params["project"]), rules)


def compare_and_lock(module: AnsibleModule, journal: Journal, result: dict[str, Any]) -> None:
    """Fill `result` with what the module returns."""
    params, root = module.params, journal.root
    engine = DockerClient(module, params["project"])
    manifest = current_manifest(root)
    if not manifest and params["purpose"] == "deploy":
        refuse_unlinked(module, root, engine)
    containers = engine.containers() if manifest and engine.available() else []
    entries = journal.entries()
    left = unfinished(entries)
    if left.get("run") == journal.run:
        left = {}
    wanted = manifest.get("model", {}).get("rollout", {})
    steps = decide(wanted, containers, manifest.get("id", ""), ())
    intact = bool(wanted) and all(step.action == KEEP for step in steps)
    staged = (root / "next").is_symlink()
    same = bool(params["inputs"]) and manifest.get("inputs") == params["inputs"]
    same = same and not params["due"] and host_closed(module, root)
    compared = compare_registries(module, manifest, engine) if containers else Comparison()
    same = same and not compared.moved
    behind = str(manifest.get("database_behind", ""))
    result |= {
        "unchanged": same and intact and not staged and not left and not behind,
        "intact": intact and not left,
        "same": {"docker": False, "images": False},
        "images": manifest.get("images", {}),
        "moved": compared.moved,
        "unanswered": compared.unanswered,
        "docker_cli": manifest.get("docker_cli", ""),
        "inputs": params["inputs"],
        "stages": params["stages"],
        "held": {},
        "unfinished": left,
        "database_behind": behind,
        "page": (root / PAGE).exists(),
        "current": manifest.get("id", ""),
        "queues": worker_queues(containers, manifest, params["host"]) if left else {},
        "containers": shown(containers),
    }
    if containers and not result["unchanged"]:
        result["same"] = stages_done(params["stages"], manifest, entries, engine)
        result["same"]["images"] &= not compared.moved
    if not result["unchanged"] and not module.check_mode:
        take_lock(module, journal, result)
    if not result["unchanged"]:
        refuse_half_restored(module, root, result)
    if result["locked"] and engine.available():  # else the deploy starts it, and migrates then
        collect_commands(module, journal, left)
    if asked := params["put_back"]:
        wanted = (params["project"], asked["id"], asked["restore_database"], engine.call)
        release, problem = check_rollback(ReleaseStore(root), *wanted)
        result["put_back"] = {"problem": problem, "release": release}
    if params["fitness"] and not result["unchanged"] and not result["held"]:
        result["fitness"] = fitness(module)


if __name__ == "__main__":
    main()
