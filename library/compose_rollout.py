#!/usr/bin/python
"""Start-first replacement of a compose project's containers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: compose_rollout
short_description: Replace a stack's containers start-first, in phases
description:
  - Compares what runs with what a release wants and moves from the one to the other without a
    gap. Without a phase it only looks; C(start) starts the release's containers beside the old
    ones and waits until they are healthy, or until workers answer a ping (what it started is
    removed again when they do not);
    C(cancel_consumers) has the old workers stop taking tasks and compares the new ones with
    O(workers); C(replace) stops, then starts what may exist only once (beat) or belongs to no
    release (nginx); C(stop_old) stops the old containers and removes them, waits until those of
    the release are healthy and looks again; C(verify) asks all workers and sends canaries.
  - In one call the phases overlap - beat is replaced and everybody is asked while the old
    containers stop, after the new workers were found to be right. Who is asked while an old worker
    still answers is asked again when it is gone.
  - Workers of the release that were there before this O(run) began, and in whose name something
    else than expected is answered in C(cancel_consumers) or C(verify), are replaced by new
    containers of the same image, and all are asked again - at first those that the findings name,
    then all. One that this run has started is not replaced. An undo does not fail because of a
    worker that somebody has taken over.
  - Old workers that still hold tasks when C(cancel_consumers) has waited for them are in RV(held).
    C(stop_old) leaves them running, and C(verify) is put off, until the module is called again
    without C(cancel_consumers).
  - Nothing of community.docker does this; C(docker_compose_v2) recreates in place.
extends_documentation_fragment: [crisper, crisper.docker, crisper.host]
options:
  phases:
    description: What to do, in this order whatever theirs; nothing only looks.
    type: list
    elements: str
    choices: [start, cancel_consumers, replace, stop_old, verify]
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
        C(singleton) (stopped, then started) and C(stateful) (replaced only when its own definition
        changed). A C(web) service has C(port), and C(probe) (C({path, host, scheme, status})), how
        nginx asks which of its replicas are healthy.
    type: dict
    required: true
  wait_timeout:
    description: Seconds until started containers must be healthy.
    type: int
    default: 300
  stop_timeout:
    description: Seconds a stopped container may take; none takes each container's own.
    type: int
  workers:
    description: How workers are asked; needed in the phases C(cancel_consumers) and C(verify).
    type: dict
    suboptions:
      app:
        description: The Celery application as C(celery -A) takes it.
        type: str
        required: true
      service:
        description: Service of the release in whose container they are asked from.
        type: str
        default: backend
      expect:
        description: What must be so of every worker of the release, as O(expect) of
          M(celery_inspect). Names and number are known here.
        type: dict
        default: {}
      canary:
        description: C({task, queues, timeout}) of the canaries; none sends none.
        type: dict
      timeout:
        description: Seconds the workers have to answer.
        type: float
        default: 5.0
      patience:
        description: Seconds to wait for what old workers hold. Idle ones need no more.
        type: float
        default: 0
      import_timeout:
        description: Seconds that importing the application may take.
        type: int
        default: 60
      python:
        description: The Python interpreter in the container.
        type: str
        default: python
  live:
    description:
      - Folder on the host that nginx's container has its configuration from. C(stop_old) has all
        requests go to the release there before it stops anything (services with a C(port));
        C(replace) does so where nginx itself is replaced. Without one nothing of it is touched.
    type: path
  reload:
    description: Whether nginx loads its configuration, in the moment before requests change over.
    type: bool
    default: false
  overdue:
    description:
      - Node names of old workers that still run tasks after their time. They are stopped the cold
        way (SIGQUIT), which puts what they hold back into the queues at once.
    type: list
    elements: str
    default: []
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
- name: Roll out the release
  compose_rollout:
    phases: [start, cancel_consumers, replace, stop_old, verify]
    project_src: /opt/crisper/releases/20261120t221500z-1a2b3c4d
    project_name: crisper
    release: 20261120t221500z-1a2b3c4d
    services:
      backend: {kind: web, replicas: 1}
      celery-worker: {kind: worker, replicas: 2}
    host: app1
    workers:
      app: backend.celery_app
      patience: 2
      expect: {registered: [health_check]}
      canary: {task: health_check, queues: [default], timeout: 30}
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
  returned: on success
  type: list
  elements: dict
  sample: [{name: crisper-nginx-1, service: nginx, state: running, health: healthy}]
after:
  description: RV(steps), RV(nodes) and RV(containers) when all was done, and the C(release).
  returned: in phase C(stop_old), when nothing was RV(held)
  type: dict
  sample: {release: 20261120t221500z-1a2b3c4d, steps: [], nodes: {new: [], old: []}, containers: []}
serving:
  description: The release that nginx sends requests to; empty where there is none.
  returned: with O(live)
  type: str
  sample: 20261120t221500z-1a2b3c4d
left:
  description:
    - Result of C(cancel_consumers) - C(queues) (node name to the queues whose consumers were
      cancelled, of old workers that were not stopped since), C(left_at) (Unix time), C(drained),
      C(unfinished), C(scheduled), C(longest), C(silent) as M(celery_drain) has them, C(consuming),
      the workers that still consume, and C(findings) over the new workers, with which the module
      fails.
  returned: in phase C(cancel_consumers), also on failure
  type: dict
  sample: {queues: {}, left_at: 1795212000.5, drained: [], unfinished: [], findings: []}
held:
  description: Node names of old workers that still hold tasks.
  returned: in phase C(cancel_consumers)
  type: list
  elements: str
  sample: []
proof:
  description: What the workers answered, as M(celery_inspect) returns it; it fails nothing here.
  returned: in phase C(verify), when nothing was RV(held)
  type: dict
  sample: {problem: "", findings: [], nodes: {}}
stopped:
  description: Exit code by container name.
  returned: in phase C(stop_old), also on failure
  type: dict
  sample: {crisper-celery-worker-1: 0}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.journal import RUN_SPEC
from ansible_collections.crisper.stack.plugins.module_utils.rollout.phases import PHASES, roll_out
from ansible_collections.crisper.stack.plugins.module_utils.rollout.workers import (
    SPEC as WORKERS_SPEC,
)

ARGUMENT_SPEC: dict[str, Any] = {
    "phases": {"type": "list", "elements": "str", "choices": list(PHASES), "default": []},
    "project_src": {"type": "path", "required": True},
    "project_name": {"type": "str", "required": True},
    "release": {"type": "str", "required": True},
    "services": {"type": "dict", "required": True},
    "host": {"type": "str", "default": ""},
    "wait_timeout": {"type": "int", "default": 300},
    "stop_timeout": {"type": "int"},
    "workers": WORKERS_SPEC,
    "live": {"type": "path"},
    "reload": {"type": "bool", "default": False},
    "overdue": {"type": "list", "elements": "str", "default": []},
    "docker_cli": {"type": "str", "default": "docker"},
    "run": RUN_SPEC,
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    module.exit_json(**roll_out(module))


if __name__ == "__main__":
    main()
