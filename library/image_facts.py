#!/usr/bin/python
"""Tell which of the named images an engine has."""

from __future__ import annotations

DOCUMENTATION = r"""
module: image_facts
short_description: Ids and labels of images, by the name asked for
description:
  - Asks the Docker CLI for many references at once and answers by reference.
  - C(community.docker.docker_image_info) needs the C(requests) library on the host and gives a
    plain list that does not say which of the names asked for an image belongs to.
extends_documentation_fragment: [crisper.docker]
author: [Crisper]
options:
  references:
    description: Image references.
    type: list
    elements: str
    required: true
  registry:
    description:
      - Whose registries are asked, all at once, which image is behind a reference now. C(pulled)
        asks for references without a digest whose image on the host came from the registry,
        C(all) for every reference, C(none) for none.
      - Logins are those of the Docker client's configuration.
    type: str
    choices: [none, pulled, all]
    default: none
  digests:
    description:
      - Digests that images must have, by reference. One that came from its registry with another
        digest is told as C(moved), and no registry is asked for it; one that was built on the host
        under its name is taken as it is.
    type: dict
    default: {}
  registry_timeout:
    description: Seconds to wait for the answers.
    type: float
    default: 5
  docker_socket:
    description: Socket of the engine, through which registries are asked.
    type: path
    default: /var/run/docker.sock
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Gather the images on the host
  image_facts:
    references: ["docker.io/library/redis:8.0", "crisper/backend:src-0f3a8c9d7b12"]
  register: found
"""

RETURN = r"""
images:
  description:
    - The images that are there; what is not there has no key. C(config) is the digest of the
      image's configuration, where the engine's id is not that (containerd's image store).
    - C(moved) is the digest of the other image that is wanted, because the registry has it behind
      the same reference now, or because O(digests) says so; else empty.
    - A reference with a digest for which the host has a local build is there twice, also by its
      name without digest; C(ref) is that name.
  returned: always
  type: dict
  sample:
    docker.io/library/redis:8.0:
      ref: docker.io/library/redis:8.0
      id: sha256:4f9f6a
      labels: {crisper.platform: redis}
      moved: ""
digests:
  description: Digest of what the registry has, by reference, with O(registry=all).
  returned: always
  type: dict
  sample: {"docker.io/library/redis:8.0": "sha256:1c054d"}
unanswered:
  description: Why a registry did not say what it has, by reference.
  returned: always
  type: dict
  sample: {}
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
from ansible_collections.crisper.stack.plugins.module_utils.images.digests import (
    is_built_here,
    without_digest,
)
from ansible_collections.crisper.stack.plugins.module_utils.images.identity import config_digest
from ansible_collections.crisper.stack.plugins.module_utils.images.registry import (
    FORMAT,
    Comparison,
    Registries,
    compare,
    describe_unanswered,
    is_pinned,
    pulled_digests,
)
from ansible_collections.crisper.stack.plugins.module_utils.output import quote_last_lines

ARGUMENT_SPEC: dict[str, Any] = {
    "references": {"type": "list", "elements": "str", "required": True},
    "registry": {"type": "str", "choices": ["none", "pulled", "all"], "default": "none"},
    "digests": {"type": "dict", "default": {}},
    "registry_timeout": {"type": "float", "default": 5},
    "docker_socket": {"type": "path", "default": "/var/run/docker.sock"},
    "docker_cli": {"type": "str", "default": "docker"},
}


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
        # Only where it says more than the id: an image store of containerd.
        config = config_digest(found["id"], found.get("digests") or ())
        extra = {"config": config} if config and config != found["id"] else {}
        return {"ref": reference, **found, **extra, "labels": found["labels"] or {}}
    if "no such image" in answer.stderr.lower():
        return None
    raise RuntimeError(
        f"'{cli} image inspect {reference}' failed ({answer.returncode}): "
        f"{quote_last_lines(answer.stderr, 5)}"
    )


def find(cli: str, reference: str) -> dict[str, Any] | None:
    """Ask for an image by its reference, else for the local build that stands for it."""
    image = inspect(cli, reference)
    if image or not is_pinned(reference):
        return image
    image = inspect(cli, without_digest(reference))
    return image if image and is_built_here(reference, image["labels"]) else None


def other_digest(image: dict[str, Any], digest: str) -> str:
    """Return `digest` where an image of a registry does not have it; else ''."""
    reference = image["ref"]
    if not digest or is_built_here(reference, image["labels"]):
        return ""
    return "" if digest in {image["id"], *pulled_digests(reference, image)} else digest


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    cli, references = module.params["docker_cli"], module.params["references"]
    try:
        with ThreadPoolExecutor(max_workers=4) as pool:
            answers = list(pool.map(lambda reference: find(cli, reference), references))
    except FileNotFoundError:
        if not module.check_mode:
            module.fail_json(
                msg=f"the Docker client {cli} is not on this host: run the docker role"
            )
        answers = []  # before the engine is there, check mode finds nothing
    except RuntimeError as error:
        module.fail_json(msg=str(error))
    images = {answer["ref"]: answer for answer in answers if answer}
    pinned = module.params["digests"]
    digests, compared = look_up(module.params, images)
    problem = describe_unanswered(compared.unanswered)
    if problem and module.params["registry"] == "pulled":
        module.warn(problem)
    for reference, image in images.items():
        image["moved"] = compared.moved.get(reference) or other_digest(
            image, str(pinned.get(reference) or "")
        )
    for image in images.values():
        image.pop("digests", None)
    # A local build that stands for a reference with a digest is known by both names.
    for reference, answer in zip(references, answers, strict=False):
        if answer:
            images[reference] = answer
    module.exit_json(
        changed=False,
        images=images,
        digests=digests,
        unanswered=compared.unanswered,
        architecture=os.uname().machine,
    )


def look_up(
    params: dict[str, Any], images: dict[str, dict[str, Any]]
) -> tuple[dict[str, str], Comparison]:
    """Return what registries have: digests by reference, and what is another than on the host."""
    if params["registry"] == "none":
        return {}, Comparison()
    registries = Registries(params["docker_socket"], params["registry_timeout"])
    if params["registry"] == "pulled":
        moving = {name: image for name, image in images.items() if not params["digests"].get(name)}
        return {}, compare(moving, registries.ask)
    answers = registries.ask(params["references"])
    problems = {answer.reference: answer.problem for answer in answers if answer.problem}
    digests = {answer.reference: answer.digest for answer in answers if answer.digest}
    return digests, Comparison(unanswered=problems)


if __name__ == "__main__":
    main()
