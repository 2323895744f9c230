#!/usr/bin/python
"""What serves on a host now, asked of the engine and of nginx."""

from __future__ import annotations

DOCUMENTATION = r"""
module: serving_facts
short_description: Ask which release serves now
description:
  - Asks the engine which containers of nginx and of the application run and are healthy, of which
    release, and asks nginx from the host itself for the health path of the application.
  - Assumes nothing, changes nothing, and never fails, so that a message about something that
    failed can tell what serves.
author: [Crisper]
options:
  root:
    description: Folder of the stack on the server.
    type: path
    required: true
  project:
    description: Compose project.
    type: str
    required: true
  timeout:
    description: Seconds to wait for the answer of nginx.
    type: float
    default: 5
  docker_cli:
    description: The Docker client.
    type: str
    default: docker
attributes:
  check_mode:
    description: It only looks.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Ask what serves
  serving_facts:
    root: /opt/crisper
    project: crisper
  register: serving

- name: Report it
  ansible.builtin.debug:
    msg: "What serves: {{ serving.text }}"
"""

RETURN = r"""
text:
  description: One sentence for messages, with what was looked at.
  returned: always
  type: str
  sample: >-
    release 20261119t080000z-99887766 (nginx 1 of 1 healthy, backend 1 of 1 healthy;
    http://127.0.0.1:8080/health answers 200)
known:
  description: Whether the engine answered; C(text) begins with C(unknown) where not.
  returned: always
  type: bool
  sample: true
serves:
  description:
    - Whether the application answers through nginx, without the maintenance page, and every
      container that answers requests is healthy.
  returned: always
  type: bool
  sample: true
release:
  description: Release of the containers that requests are sent to; empty where none runs.
  returned: always
  type: str
  sample: 20261119t080000z-99887766
current:
  description: Release that the link C(current) names, whatever runs.
  returned: always
  type: str
  sample: 20261119t080000z-99887766
maintenance:
  description: Whether the maintenance page is shown.
  returned: always
  type: bool
  sample: false
engine:
  description: Why the engine does not answer, empty where it does, and its C(data_root).
  returned: always
  type: dict
  sample: {error: "", data_root: /var/lib/docker}
http:
  description: What nginx answered; C(status) is -1 without an answer, C(url) empty if not asked.
  returned: always
  type: dict
  sample: {url: "http://127.0.0.1:8080/health", status: 200, error: "", ok: true}
containers:
  description: The stack's containers in this engine.
  returned: always
  type: list
  elements: dict
  sample:
    - name: crisper-nginx-1
      service: nginx
      release: ""
      state: running
      health: healthy
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.crisper_serving import describe

ARGUMENT_SPEC: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "project": {"type": "str", "required": True},
    "timeout": {"type": "float", "default": 5},
    "docker_cli": {"type": "str", "default": "docker"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    found = describe(
        Path(params["root"]), params["project"], params["docker_cli"], params["timeout"]
    )
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
