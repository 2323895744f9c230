#!/usr/bin/python
"""Ask an application about itself, in its own image, before anything is changed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: celery_application
short_description: Read queues, routes and settings of a Celery application from its image
description:
  - Imports the application in a container of its image that has no network, no volume and no
    rights, and returns which queues it sends to and what its settings are. Nothing of the stack is
    touched, and no broker is needed.
  - What was read of the release that serves is returned without a container, as long as image,
    environment and settings are the same.
  - Does not fail where the application cannot be imported; RV(error) says why.
extends_documentation_fragment: [crisper.docker, crisper.celery]
options:
  image:
    description: Image of the application, by id. Nothing is read where it is empty.
    type: str
    required: true
  stack:
    description: Name of the stack.
    type: str
    required: true
  root:
    description: Folder of the stack, for what was read before; empty to read anew.
    type: str
    default: ""
  environment:
    description: Environment of the application's containers. It reaches the application on standard
      input.
    type: dict
    default: {}
  settings:
    description: Settings that workers are started with, such as C(task_acks_late=true).
    type: list
    elements: str
    default: []
  user:
    description: User that runs it; empty takes that of the image.
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
- name: Read the queues of the application
  celery_application:
    image: sha256:4bcff63911fcb4448bd4fdacec207030997caf25e9bea4045fa6c8c44de311d1
    stack: shop
    app: config.celery
"""

RETURN = r"""
facts:
  description: What the application says; empty where it could not be asked.
  returned: always
  type: dict
  sample: {default_queue: celery, consumed: [celery], routes: [], unknown: []}
key:
  description: Digest of what the answer depends on; empty without an answer.
  returned: always
  type: str
  sample: 5d41402abc4b2a76b9719d911017c592ae41e4649b934ca495991b7852b85502
error:
  description: Why the application could not be asked; empty where it could.
  returned: always
  type: str
  sample: ""
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.remote.application import (
    ask_application,
)

ARGUMENT_SPEC: dict[str, Any] = {
    "app": {"type": "str", "required": True},
    "image": {"type": "str", "required": True},
    "stack": {"type": "str", "required": True},
    "root": {"type": "str", "default": ""},
    # no_log would mask its words, such as a queue's name, in all that is returned: the task has it.
    "environment": {"type": "dict", "default": {}, "no_log": False},
    "settings": {"type": "list", "elements": "str", "default": []},
    "user": {"type": "str", "default": ""},
    "import_timeout": {"type": "int", "default": 60},
    "python": {"type": "str", "default": "python"},
    "docker_cli": {"type": "str", "default": "docker"},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    if not module.params["image"]:
        module.exit_json(changed=False, facts={}, key="", error="")
    module.exit_json(changed=False, **ask_application(module.params))


if __name__ == "__main__":
    main()
