#!/usr/bin/python
"""Which of the named images an engine has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_facts
short_description: Ids and labels of images, by the name asked for
description:
  - Asks the Docker CLI for many references at once and answers by reference.
  - C(community.docker.docker_image_info) needs the C(requests) library on the host and gives a
    plain list that does not say which of the names asked for an image belongs to.
author: [Crisper]
options:
  references:
    description: Image references.
    type: list
    elements: str
    required: true
  docker_cli:
    description: The Docker client.
    type: str
    default: docker
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: The host's images are known
  image_facts:
    references: ["docker.io/library/redis:8.0", "crisper/backend:src-0f3a8c9d7b12"]
  register: found
"""

RETURN = r"""
images:
  description: The images that are there; what is not there has no key.
  returned: always
  type: dict
  sample:
    docker.io/library/redis:8.0:
      ref: docker.io/library/redis:8.0
      id: sha256:4f9f6a
      labels: {crisper.platform: redis}
architecture:
  description: The host's machine type.
  returned: always
  type: str
  sample: x86_64
"""

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC: dict[str, Any] = {
    "references": {"type": "list", "elements": "str", "required": True},
    "docker_cli": {"type": "str", "default": "docker"},
}
# The image's own labels, by way of Go's template: one short line instead of the whole document.
FORMAT = '{"id": {{json .Id}}, "labels": {{json .Config.Labels}}}'


def inspect(cli: str, reference: str) -> dict[str, Any] | None:
    """Ask for one image; None when the engine has none of that name."""
    answer = subprocess.run(
        [cli, "image", "inspect", "--format", FORMAT, reference],
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode == 0:
        found = json.loads(answer.stdout)
        return {"ref": reference, "id": found["id"], "labels": found["labels"] or {}}
    if "no such image" in answer.stderr.lower():
        return None
    raise RuntimeError(
        f"'{cli} image inspect {reference}' failed ({answer.returncode}): {answer.stderr.strip()}"
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    cli, references = module.params["docker_cli"], module.params["references"]
    try:
        with ThreadPoolExecutor(max_workers=4) as pool:
            answers = list(pool.map(lambda reference: inspect(cli, reference), references))
    except FileNotFoundError:
        if not module.check_mode:
            module.fail_json(
                msg=f"the Docker client {cli} is not on this host: run the docker role"
            )
        answers = []  # before the engine is there, check mode finds nothing
    except RuntimeError as error:
        module.fail_json(msg=str(error))
    images = {answer["ref"]: answer for answer in answers if answer}
    module.exit_json(changed=False, images=images, architecture=os.uname().machine)


if __name__ == "__main__":
    main()
