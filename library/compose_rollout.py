#!/usr/bin/python
"""Start-first replacement of a compose project's containers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: compose_rollout
short_description: Replace a stack's containers start-first, in phases
description:
  - Compares what runs with what a release wants and moves from the one to the other without a
    gap. Without a phase it only looks; C(start) starts the release's containers beside the old
    ones and waits until they are healthy (what it started is removed again when they are not);
    C(swap) replaces what may exist only once (beat) or belongs to no release (nginx); C(retire)
    waits until beat is healthy, then stops the old containers and removes them, and looks again.
  - Nothing of community.docker does this; C(docker_compose_v2) recreates in place.
extends_documentation_fragment: [crisper]
options:
  phases:
    description: What to do, in that order; nothing only looks.
    type: list
    elements: str
    choices: [start, swap, retire]
    default: []
  project_src:
    description: Folder of the release, with its compose file and C(.env).
    type: path
    required: true
  project_name:
    description: Compose project.
    type: str
    required: true
  release:
    description: Id of the release.
    type: str
    required: true
  services:
    description:
      - Service to C({kind, replicas}). Kinds are C(web) and C(worker) (rolled start-first),
        C(single) (stopped, then started) and C(fixed) (touched only when its own definition
        changed).
    type: dict
    required: true
  host:
    description: Name of this host in Celery node names.
    type: str
    default: ""
  wait_timeout:
    description: Seconds until started containers must be healthy.
    type: int
    default: 300
  stop_timeout:
    description: Seconds a stopped container may take; none takes each container's own.
    type: int
  kinds:
    description: With C(retire), the kinds of services whose old containers go; none takes all.
    type: list
    elements: str
    default: []
  overdue:
    description:
      - Node names of old workers that still run tasks after their time. They are stopped the cold
        way (SIGQUIT), which puts what they hold back into the queues at once.
    type: list
    elements: str
    default: []
  docker_cli:
    description: The Docker client.
    type: str
    default: docker
attributes:
  check_mode:
    description: Every phase only plans.
    support: full
  diff_mode:
    description: The plan is the diff.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: The release's containers run beside the old ones
  compose_rollout:
    phases: [start, swap]
    project_src: /opt/crisper/releases/20261120t221500z-1a2b3c4d
    project_name: crisper
    release: 20261120t221500z-1a2b3c4d
    services:
      backend: {kind: web, replicas: 1}
      celery-worker: {kind: worker, replicas: 2}
"""

RETURN = r"""
steps:
  description: One entry per service - what is done with it and why.
  returned: always
  type: list
  elements: dict
  sample:
    - service: backend
      kind: web
      action: roll
      reason: release 20261119t080000z-99887766 runs
      old: [0a1b2c]
      replicas: 1
nodes:
  description: Celery node names of running workers, of the release (C(new)) and others (C(old)).
  returned: always
  type: dict
  sample: {new: [default@app1-20261120t221500z-1a2b3c4d-0a1b2c3d4e5f], old: []}
containers:
  description: The stack's containers as they were before.
  returned: always
  type: list
  elements: dict
  sample: [{name: crisper-nginx-1, service: nginx, state: running, health: healthy}]
after:
  description: RV(steps), RV(nodes) and RV(containers) when all was done, and the C(release).
  returned: in phase C(retire), when O(kinds) takes all
  type: dict
  sample: {release: 20261120t221500z-1a2b3c4d, steps: [], nodes: {new: [], old: []}, containers: []}
stopped:
  description: Exit code by container name.
  returned: in phase C(retire)
  type: dict
  sample: {crisper-celery-worker-1: 0}
failures:
  description: Containers that did not become healthy, each with its state and last log lines.
  returned: on failure
  type: list
  elements: dict
  sample: [{name: crisper-backend-2, state: exited, logs: "ImportError ..."}]
"""

import json
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.crisper_compose import Engine, shown
from ansible.module_utils.crisper_journal import RUN_SPEC, NotOwnerError, note
from ansible.module_utils.crisper_rollout import (
    CREATE,
    KEEP,
    RECREATE,
    REMOVE,
    ROLLED,
    Container,
    Step,
    decide,
    node_name,
    not_ready,
)

PHASES = ("start", "swap", "retire")
ARGUMENT_SPEC: dict[str, Any] = {
    "phases": {"type": "list", "elements": "str", "choices": list(PHASES), "default": []},
    "project_src": {"type": "path", "required": True},
    "project_name": {"type": "str", "required": True},
    "release": {"type": "str", "required": True},
    "services": {"type": "dict", "required": True},
    "host": {"type": "str", "default": ""},
    "wait_timeout": {"type": "int", "default": 300},
    "stop_timeout": {"type": "int"},
    "kinds": {"type": "list", "elements": "str", "default": []},
    "overdue": {"type": "list", "elements": "str", "default": []},
    "docker_cli": {"type": "str", "default": "docker"},
    "run": RUN_SPEC,
}
POLL_SECONDS = 0.25
LOG_LINES = "20"


class Rollout:
    """Phases of one stack's rollout."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.release = module.params["release"]
        self.folder = module.params["project_src"]
        self.engine = Engine(module, module.params["project_name"])

    def note(self, step: str) -> None:
        """Write the step into the journal, before anything of it is done."""
        try:
            note(self.params, step)
        except NotOwnerError as error:
            self.module.fail_json(msg=str(error))

    def plan(self, whole: bool = False) -> tuple[list[Step], list[Container]]:
        """What is to be done, and what there is; `whole` whatever phases there are."""
        containers, services = self.engine.containers(), self.params["services"]
        changed: list[str] = []
        if whole or self.params["phases"] != ["retire"]:  # which leaves services of that kind alone
            changed = self.engine.definitions_changed(services, containers, self.folder)
        return decide(services, containers, self.release, changed), containers

    def told(self, steps: list[Step], containers: list[Container]) -> dict[str, Any]:
        """A plan as results show it."""
        return {
            "steps": [step.as_dict() for step in steps],
            "nodes": self.nodes(containers),
            "containers": shown(containers),
        }

    def nodes(self, containers: list[Container]) -> dict[str, list[str]]:
        """Celery node names of the running workers, of this release and of others."""
        found: dict[str, list[str]] = {"new": [], "old": []}
        for container in containers:
            if container.pool and container.state == "running":
                which = "new" if container.release == self.release else "old"
                found[which].append(node_name(container, self.params["host"]))
        return found

    def start(self, steps: list[Step], containers: list[Container]) -> bool:
        """Start the release's web and worker containers beside the old ones; wait for health."""
        wanted = [s for s in steps if s.kind in ROLLED and s.action not in (KEEP, REMOVE)]
        if not wanted:
            return False
        self.note("start")
        dead = [c for c in containers if c.state not in ("running", "restarting")]
        dead = [c for c in dead if c.service in {step.service for step in wanted}]
        if dead:
            # `up` would start them again, old release or not.
            self.engine.run("rm", "--force", *(container.id for container in dead))
        gone = {container.id for container in dead}
        before = {container.id for container in containers} - gone
        scales = []
        for step in wanted:
            old = [identity for identity in step.old if identity not in gone]
            scales += ["--scale", f"{step.service}={len(old) + step.replicas}"]
        names = [step.service for step in wanted]
        # --no-recreate leaves the old ones alone; --scale makes Compose add the new beside them.
        arguments = ["up", "--detach", "--no-deps", "--no-recreate", "--no-build", *scales, *names]
        project = ("compose", "--project-name", self.params["project_name"])
        code, out, err = self.engine.call(*project, *arguments, folder=self.folder)
        fresh = [
            c.id for c in self.engine.containers() if c.service in names and c.id not in before
        ]
        if code != 0:
            self.give_up(fresh, f"Compose could not start them: {(err or out).strip()[-2000:]}")
        self.wait(fresh)
        return True

    def wait(self, ids: list[str]) -> None:
        """Until all are healthy; at the first that cannot become so, undo and fail."""
        deadline = time.monotonic() + self.params["wait_timeout"]
        while True:
            now = self.engine.inspect(ids)
            if len(now) == len(ids) and all(container.fit for container in now):
                return
            lost = [c for c in now if c.state in ("exited", "dead", "restarting")]
            lost += [c for c in now if c.health == "unhealthy"]
            if lost or len(now) < len(ids):
                self.give_up(ids, "They did not become healthy")
            if time.monotonic() > deadline:
                self.give_up(ids, f"Not healthy within {self.params['wait_timeout']} s")
            time.sleep(POLL_SECONDS)

    def give_up(self, ids: list[str], why: str) -> None:
        """Remove what was started; the old containers never stopped serving."""
        failures = self.failures(self.engine.inspect(ids) if ids else [])
        if ids:
            self.engine.run("rm", "--force", "--volumes", *ids)
        self.module.fail_json(
            msg=f"New containers of release {self.release} were started and removed again: {why}."
            f" What ran before still serves.{self.last_words(failures)}",
            failures=failures,
        )

    def failures(self, containers: list[Container]) -> list[dict[str, str]]:
        """Those of them that are not fit, with their last words."""
        found = []
        for container in containers:
            if not container.fit:
                _code, out, err = self.engine.call("logs", "--tail", LOG_LINES, container.id)
                state = container.health if container.state == "running" else container.state
                logs = (out + err).strip()
                found.append({"name": container.name, "state": state, "logs": logs})
        return found

    @staticmethod
    def last_words(failures: list[dict[str, str]]) -> str:
        """The same for a message."""
        return "".join(f"\n--- {f['name']} ({f['state']}):\n{f['logs']}" for f in failures)

    def swap(self, steps: list[Step]) -> bool:
        """Replace beat and what belongs to no release, in place; `retire` waits for beat."""
        wanted = [s for s in steps if s.kind not in ROLLED and s.action in (CREATE, RECREATE)]
        if not wanted:
            return False
        self.note("swap")
        old = [identity for step in wanted if step.kind == "single" for identity in step.old]
        if old:
            # Two beats would send every scheduled task twice: the old one is gone first.
            self.engine.run("stop", *old)
            self.engine.run("rm", "--force", *old)
        up = ["compose", "--project-name", self.params["project_name"], "up", "--detach"]
        up += ["--no-deps", "--no-build"]
        health = ["--wait", "--wait-timeout", str(self.params["wait_timeout"])]
        for kind, options in (("single", []), ("fixed", health)):
            if names := [step.service for step in wanted if step.kind == kind]:
                self.engine.run(*up, *options, *names, folder=self.folder)
        return True

    def settle(self) -> None:
        """Until beat of the release is healthy; it became so while workers were asked and left."""
        services = self.params["services"]
        singles = {name for name, service in services.items() if service["kind"] == "single"}
        deadline = time.monotonic() + self.params["wait_timeout"]
        while True:
            mine = [
                container
                for container in self.engine.containers()
                if container.service in singles and container.release == self.release
            ]
            lost = [c for c in mine if c.state != "running" or c.health == "unhealthy"]
            if not lost and all(container.fit for container in mine):
                return
            if lost or time.monotonic() > deadline:
                failures = self.failures(mine)
                self.module.fail_json(
                    msg=f"{', '.join(sorted(f['name'] for f in failures))} of release"
                    f" {self.release} did not become healthy. The old workers still run."
                    + self.last_words(failures),
                    failures=failures,
                )
            time.sleep(POLL_SECONDS)

    def retire(self, steps: list[Step], containers: list[Container]) -> dict[str, int]:
        """Stop and remove what the release does not want; exit code by container name."""
        if not self.params["kinds"]:
            self.settle()
        rolled = [s for s in steps if s.action == REMOVE or (s.kind in ROLLED and s.action != KEEP)]
        if self.params["kinds"]:
            rolled = [s for s in rolled if s.kind in self.params["kinds"] and s.action != REMOVE]
        ids = [identity for step in rolled for identity in step.old]
        if not ids:
            return {}
        missing = not_ready(steps)
        if missing:
            self.module.fail_json(
                msg="The old containers stay, because the new ones do not serve: "
                + "; ".join(missing)
                + ". Run the deploy again; it starts what is missing."
            )
        self.note("retire")
        names = {container.id: container.name for container in containers}
        limit = self.params["stop_timeout"]
        host, overdue = self.params["host"], set(self.params["overdue"])
        late = [c.id for c in containers if c.id in ids and node_name(c, host) in overdue]
        if late:
            self.engine.run("kill", "--signal", "QUIT", *late)
        self.engine.run("stop", *(["--time", str(limit)] if limit is not None else []), *ids)
        records = json.loads(self.engine.run("container", "inspect", *ids))
        codes = {names[r["Id"]]: int(r["State"]["ExitCode"]) for r in records}
        killed = sorted(name for name, code in codes.items() if code == 137)
        if killed:
            self.module.warn(
                f"{', '.join(killed)} did not stop in time and was killed: tasks that a worker held"
                " come back after celery_visibility_timeout. Raise celery_stop_grace_period."
            )
        self.engine.run("rm", "--force", "--volumes", *ids)
        return codes


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    rollout = Rollout(module)
    steps, containers = rollout.plan()
    phases = module.params["phases"]
    result: dict[str, Any] = {"changed": False, **rollout.told(steps, containers)}
    if module.check_mode:
        result["changed"] = bool(phases) and any(step.action != KEEP for step in steps)
        module.exit_json(**result)
    if "start" in phases:
        result["changed"] = rollout.start(steps, containers)
        result["nodes"] = rollout.nodes(rollout.engine.containers())
    if "swap" in phases:
        result["changed"] |= rollout.swap(steps)
    if "retire" in phases:
        result["stopped"] = rollout.retire(steps, containers)
        result["changed"] |= bool(result["stopped"])
        if not module.params["kinds"]:
            seen = rollout.told(*rollout.plan(whole=True))
            result["after"] = {"release": rollout.release, **seen}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
