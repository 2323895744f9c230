#!/usr/bin/python
"""Report the status of a stack on a server, without changing or proving anything."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_status
short_description: Report the status of a stack
description:
  - Reads the release that serves, the lock, the journal, the containers and the backup sets. Asks
    no worker; M(celery_inspect) does.
extends_documentation_fragment: [crisper.docker, crisper.project, crisper.root]
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
- name: Gather the status of the stack
  stack_status:
    root: /opt/crisper
    project: crisper
  register: found
"""

RETURN = r"""
release:
  description: The release that serves; empty when none was deployed.
  returned: always
  type: dict
  sample:
    id: 20261120t221500z-1a2b3c4d
    created: "2026-11-20T22:15:00+00:00"
    operator: ops
    revision: 1f2e3d4
    verified: true
    tasks: [health_check]
kept:
  description: How many releases are kept, this one too.
  returned: always
  type: int
  sample: 5
lock:
  description: The lock of a run that is under way, or that died with it.
  returned: always
  type: dict
  sample: {who: ops, purpose: deploy, step: start, since: "2026-11-20T22:15:00+00:00"}
unfinished:
  description: The last run, when it never ended.
  returned: always
  type: dict
  sample: {}
last:
  description: The last run that ended.
  returned: always
  type: dict
  sample: {run: 20261120t221500z-4711, purpose: deploy, who: ops, result: done}
serving:
  description: Id of the release that nginx sends requests to; empty where none of its releases
    is one that is switched to.
  returned: always
  type: str
  sample: 20261120t221500z-1a2b3c4d
maintenance:
  description: Whether nginx shows the maintenance page.
  returned: always
  type: bool
  sample: false
containers:
  description: The stack's containers.
  returned: always
  type: list
  elements: dict
  sample:
    - name: crisper-nginx-1
      service: nginx
      release: ""
      state: running
      health: healthy
      since: "2026-11-20T22:15:00"
      restarts: 0
      exit_code:
backup:
  description: Id of the newest backup set; empty when there is none.
  returned: always
  type: str
  sample: 20261120t030000z
restoring:
  description: What a restore that did not get to its end has left; empty when there is none.
  returned: always
  type: str
  sample: ""
problem:
  description: Why there are no containers in the answer; empty otherwise.
  returned: always
  type: str
  sample: ""
"""

import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.backup.restore_mark import (
    read_mark,
    refusal,
)
from ansible_collections.crisper.stack.plugins.module_utils.deploy.status import (
    ContainerStatus,
    containers_of,
    last_run,
)
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import (
    DockerClient,
    DockerError,
)
from ansible_collections.crisper.stack.plugins.module_utils.journal import Journal, unfinished
from ansible_collections.crisper.stack.plugins.module_utils.proxy.upstream import Upstreams
from ansible_collections.crisper.stack.plugins.module_utils.release.manifest import MANIFEST
from ansible_collections.crisper.stack.plugins.module_utils.text import clean, quote

ARGUMENT_SPEC: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "project": {"type": "str", "required": True},
    "docker_cli": {"type": "str", "default": "docker"},
}


def release_of(root: Path) -> dict[str, Any]:
    """Return the release that serves, as RETURN describes it; empty when there is none."""
    try:
        manifest = json.loads((root / "current" / MANIFEST).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(manifest, dict):
        return {}
    facts = {key: manifest.get(key, "") for key in ("id", "created", "operator", "revision")}
    proof = manifest.get("verified")
    proof = proof if isinstance(proof, dict) else {}
    release: dict[str, Any] = clean(
        {**facts, "verified": bool(proof), "tasks": proof.get("tasks", [])}
    )
    return release


def containers(module: AnsibleModule) -> tuple[list[ContainerStatus], str]:
    """Return the stack's containers, and why they could not be read."""
    client = DockerClient(module, module.params["project"])
    try:
        ids = client.list_ids(all_states=True)
    except DockerError as error:
        return [], quote(str(error), 300)
    return containers_of(client.records(ids) if ids else []), ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    root = Path(module.params["root"])
    journal = Journal(root, "")
    entries, (found, problem) = journal.entries(), containers(module)
    lock = journal.lock()
    releases = (root / "releases").glob(f"[!.]*/{MANIFEST}")
    sets = (root / "backups").glob(f"[!.]*/{MANIFEST}")
    module.exit_json(
        changed=False,
        release=release_of(root),
        kept=len(list(releases)),
        lock=lock,
        unfinished=unfinished(entries),
        last=last_run(entries),
        serving=Upstreams(str(root / "live/nginx"), {}).serving,
        maintenance=(root / "live/nginx/maintenance.on").exists(),
        containers=found,
        restoring="" if lock else refusal(root, read_mark(root)),
        backup=max((path.parent.name for path in sets), default=""),
        problem=problem,
    )


if __name__ == "__main__":
    main()
