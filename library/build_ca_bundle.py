#!/usr/bin/python
"""The CA certificates that image builds on a host trust."""

from __future__ import annotations

DOCUMENTATION = r"""
module: build_ca_bundle
short_description: Provide the CA certificates for image builds
description:
  - Copies the first of some bundles that exists. BuildKit takes no secret of more than 500 KiB. Of
    a larger bundle each certificate is kept once, for trust stores of hosts with bundles of their
    own hold the public ones several times.
options:
  sources:
    description: Bundles (PEM) on this host, the first that exists is taken.
    type: list
    elements: path
    required: true
  dest:
    description: File that is written, for its owner alone.
    type: path
    required: true
  limit:
    description: Largest size in bytes.
    type: int
    default: 512000
attributes:
  check_mode:
    description: Writes nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Provide the CA certificates for builds
  build_ca_bundle:
    sources: [/etc/ssl/certs/ca-certificates.crt]
    dest: /opt/crisper/build/ca.pem
"""

RETURN = r"""
path:
  description: O(dest); empty when none of O(sources) exists.
  returned: always
  type: str
  sample: /opt/crisper/build/ca.pem
source:
  description: The bundle that was taken; empty when none exists.
  returned: always
  type: str
  sample: /etc/ssl/certs/ca-certificates.crt
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.proxy.certificate import blocks

ARGUMENT_SPEC: dict[str, Any] = {
    "sources": {"type": "list", "elements": "path", "required": True},
    "dest": {"type": "path", "required": True},
    "limit": {"type": "int", "default": 512000},
}


def shorten(content: str, limit: int) -> str:
    """Return a bundle that is not larger than `limit` bytes, if one can be made of it.

    A small one stays as it is, to the letter.
    """
    if len(content.encode()) <= limit:
        return content
    return "".join(dict.fromkeys(blocks(content)[0]))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    sources, dest = map(Path, module.params["sources"]), Path(module.params["dest"])
    limit = module.params["limit"]
    source = next((path for path in sources if path.is_file()), None)
    if source is None:
        module.exit_json(changed=False, path="", source="")
        return
    try:
        content = shorten(source.read_text(errors="replace"), limit)
        size = len(content.encode())
        if size > limit:
            module.fail_json(
                msg=f"The CA bundle {source} has {size} bytes, each certificate counted once, and"
                f" builds take at most {limit}: set controller_ca_bundle to a bundle with the"
                " certificates that builds need."
            )
        if not module.check_mode:
            with os.fdopen(
                os.open(dest, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w"
            ) as file:
                file.write(content)
    except OSError as error:
        module.fail_json(msg=f"The CA bundle {source} could not be copied to {dest}: {error}.")
    module.exit_json(changed=True, path=str(dest), source=str(source))


if __name__ == "__main__":
    main()
