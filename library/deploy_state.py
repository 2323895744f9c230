#!/usr/bin/python
"""Lock of a stack, changes of a run, and the release that serves."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deploy_state
short_description: Look at the lock of a stack, at what a run has changed, and at what serves
description:
  - What a deploy that failed needs to know before it undoes or tells anything. It asks the server
    and not the memory of the run, because the lock may be another deploy's by now.
  - Changes nothing, and does not fail where something cannot be seen; RV(error) says why then.
extends_documentation_fragment: [crisper.docker, crisper.project, crisper.root]
options:
  run_id:
    description: Id of the run that asks, as of the lookup C(crisper_run).
    type: str
    default: ""
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
- name: Read the state of the stack
  deploy_state:
    root: /opt/crisper
    project: crisper
    run_id: "{{ lookup('crisper_run').id }}"
"""

RETURN = r"""
locked:
  description: Whether the run O(run_id) has the lock of the stack.
  returned: always
  type: bool
  sample: true
lock:
  description: The lock as it stands; empty when no run has it.
  returned: always
  type: dict
  sample: {run: 20261120t221500z-4711, who: ops, purpose: deploy, step: cancel_consumers}
steps:
  description: Steps of the run that change what serves, in the order in which they were begun.
  returned: always
  type: list
  elements: str
  sample: [stage, database, start]
current:
  description: Id of the current release; empty when there is none.
  returned: always
  type: str
  sample: 20261119t080000z-99887766
staged:
  description: Id of the release that a deploy has staged and not proved yet.
  returned: always
  type: str
  sample: ""
serving:
  description: Id of the release that nginx sends requests to; empty where no link says it.
  returned: always
  type: str
  sample: 20261119t080000z-99887766
page:
  description: Whether nginx shows the maintenance page.
  returned: always
  type: bool
  sample: false
whole:
  description: Whether every container of the current release was seen healthy, and serves.
  returned: always
  type: bool
  sample: true
error:
  description: Why it could not be looked at what serves; empty when it was.
  returned: always
  type: str
  sample: ""
missing:
  description: Services of the current release that lack containers, with the state of each.
  returned: always
  type: list
  elements: str
  sample: ["backend: 1 of 2 containers are healthy (crisper-backend-2 is exited)"]
serves:
  description: What serves, in words.
  returned: always
  type: str
  sample: "release 20261119t080000z-99887766: all 9 containers are healthy"
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.deploy.state import (
    ask_lock,
    gather_state,
)

ARGUMENT_SPEC: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "project": {"type": "str", "required": True},
    "run_id": {"type": "str", "default": ""},
    "docker_cli": {"type": "str", "default": "docker"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    root = Path(params["root"])
    state = gather_state(root, params["project"], params["docker_cli"])
    module.exit_json(
        changed=False,
        **ask_lock(root, params["run_id"]),
        **{name: getattr(state, name) for name in ("current", "staged", "serving", "page")},
        **{name: getattr(state, name) for name in ("whole", "error", "missing")},
        serves=state.describe(),
    )


if __name__ == "__main__":
    main()
