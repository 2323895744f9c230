#!/usr/bin/python
"""Refuse to start data services whose data is elsewhere."""

from __future__ import annotations

DOCUMENTATION = r"""
module: data_guard
short_description: Refuse an engine that does not have the data of the current release
description:
  - Fails where the current release of a stack has its data in volumes that this engine does not
    have, or in folders that a process outside of this engine holds. An engine that was restarted
    with another data-root, image store or user mapping, and a Docker client that was led to
    another engine, look like that; Compose would create empty volumes, or start a second database
    on the same files.
  - Changes nothing. Without a current release there is nothing to lose.
extends_documentation_fragment: [crisper.docker, crisper.project, crisper.root]
author: [Crisper]
options:
  recreate:
    description: Whether volumes that are gone are to be made anew; processes are refused all the
      same.
    type: bool
    default: false
attributes:
  check_mode:
    description: It only looks.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Refuse an engine without the data
  data_guard:
    root: /opt/crisper
    project: crisper
"""

RETURN = r"""
problems:
  description: What stands against it, with C(message) and C(remedy); the module failed, then.
  returned: always
  type: list
  elements: dict
  sample: []
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.host.data_guard import check_data

ARGUMENT_SPEC: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "project": {"type": "str", "required": True},
    "recreate": {"type": "bool", "default": False},
    "docker_cli": {"type": "str", "default": "docker"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params

    def call(*arguments: str) -> tuple[int, str, str]:
        if shutil.which(params["docker_cli"]) is None:
            return 127, "", "no docker"
        answer: tuple[int, str, str] = module.run_command([params["docker_cli"], *arguments])
        return answer

    found = check_data(call, Path(params["root"]), params["project"], params["recreate"])
    problems = [asdict(each) for each in found]
    if found:
        reasons = "; ".join(f"{each.message}. {each.remedy}" for each in found)
        module.fail_json(msg=f"Data services are not started: {reasons}.", problems=problems)
    module.exit_json(changed=False, problems=[])


if __name__ == "__main__":
    main()
