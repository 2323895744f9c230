#!/usr/bin/python
"""Run the commands of an application at one point of a deploy."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_hooks
short_description: Run the commands of rollout_hooks for one point of a deploy
description:
  - Runs the commands one after the other, each in a one-off container of the release with a time
    limit. The first one that fails ends the module.
  - The containers go on when the module is killed. What an earlier call left running is waited for
    before anything begins.
extends_documentation_fragment: [crisper, crisper.docker, crisper.project, crisper.root]
options:
  release:
    description: Id of the release whose image runs the commands.
    type: str
    required: true
  point:
    description: The point of the deploy.
    type: str
    choices: [before_start, before_switch, after_switch, after_rollback]
    required: true
  hooks:
    description: The commands.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Its name, for messages.
        type: str
        required: true
      command:
        description: The command.
        type: list
        elements: str
        required: true
      timeout:
        description: Seconds that it may take.
        type: int
        required: true
attributes:
  check_mode:
    description: Runs nothing in check mode, and tells whether it would.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Run the hooks after the switch
  release_hooks:
    root: /opt/crisper
    project: crisper
    release: 20261120t221500z-1a2b3c4d
    point: after_switch
    hooks: [{name: warm, command: [python, -m, warm], timeout: 60}]
"""

RETURN = r"""
rc:
  description: Exit code of the command that failed.
  returned: on failure of a command
  type: int
  sample: 1
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.database.migration import (
    HOOK_SPEC,
    Steps,
)
from ansible_collections.crisper.stack.plugins.module_utils.journal import RUN_SPEC

ARGUMENT_SPEC: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "project": {"type": "str", "required": True},
    "release": {"type": "str", "required": True},
    "point": {
        "type": "str",
        "choices": ["before_start", "before_switch", "after_switch", "after_rollback"],
        "required": True,
    },
    "hooks": HOOK_SPEC,
    "docker_cli": {"type": "str", "default": "docker"},
    "run": RUN_SPEC,
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    hooks = module.params["hooks"]
    if module.check_mode:
        module.exit_json(changed=bool(hooks))
    steps = Steps(module)
    steps.collect()
    steps.hooks(module.params["point"], hooks)
    module.exit_json(changed=steps.acted)


if __name__ == "__main__":
    main()
