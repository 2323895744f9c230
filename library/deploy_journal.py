#!/usr/bin/python
"""Steps of deploys that no other module writes down, and their end."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deploy_journal
short_description: Write a step or the end of a deploy into the stack's journal
description:
  - The module M(deploy_begin) begins a deploy and takes the lock; the modules that act write their
    own steps. This one writes what is left, and gives the lock back.
extends_documentation_fragment: [crisper]
options:
  state:
    description:
      - C(step) writes O(step) down. C(ended) writes the end with O(result), and gives the lock
        back. C(read) only reads.
    type: str
    choices: [step, ended, read]
    default: read
  step:
    description: Name of the step.
    type: str
    default: ""
  patience:
    description: Seconds that what follows O(step) may take without a process of the deploy on the
      server. The lock stays this deploy's for that long, and an hour more.
    type: float
    default: 0
  result:
    description: How the deploy ended.
    type: str
    choices: [done, reverted, failed]
    default: done
  facts:
    description: Anything else the entry should hold. No secrets.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Writes nothing in check mode.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Write the step into the journal
  deploy_journal:
    run: {root: /opt/crisper, id: 20261120t221500z-4711}
    state: step
    step: migrate
"""

RETURN = r"""
seconds:
  description: Seconds per step of this run so far.
  returned: always
  type: dict
  sample: {begin: 4.1, stage: 2.0, start: 6.5}
entries:
  description: The newest entries.
  returned: when O(state=read)
  type: list
  elements: dict
  sample: [{at: "2026-11-20T22:15:00+00:00", run: 20261120t221500z-4711, step: begin}]
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.journal import (
    RUN_SPEC,
    Journal,
    NotOwnerError,
    seconds_per_step,
)
from ansible_collections.crisper.stack.plugins.module_utils.lock import LockedError

ARGUMENT_SPEC: dict[str, Any] = {
    "run": RUN_SPEC,
    "state": {"type": "str", "choices": ["step", "ended", "read"], "default": "read"},
    "step": {"type": "str", "default": ""},
    "patience": {"type": "float", "default": 0},
    "result": {"type": "str", "choices": ["done", "reverted", "failed"], "default": "done"},
    "facts": {"type": "dict", "default": {}},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "step", ["step"])],
        supports_check_mode=True,
    )
    params = module.params
    if not params["run"]:
        module.exit_json(changed=False, seconds={}, entries=[])
    journal = Journal(params["run"]["root"], params["run"]["id"])
    entries = journal.entries()
    result: dict[str, Any] = {
        "changed": False,
        "seconds": seconds_per_step(entries, journal.run, time.time()),
    }
    if params["state"] == "read":
        result["entries"] = entries
    elif not module.check_mode:
        try:
            if params["state"] == "step":
                journal.note(params["step"], params["patience"], **params["facts"])
            else:
                journal.end(params["result"], **params["facts"])
        except (NotOwnerError, LockedError) as error:
            module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
