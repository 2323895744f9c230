#!/usr/bin/python
"""A repository's signing key, accepted only with the fingerprint one expects."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_key_pinned
short_description: A repository's signing key, pinned by its fingerprint
description:
  - Fetches an OpenPGP key, computes the fingerprints of the primary keys in it and keeps it
    only if each is the expected one. Needs no gpg on the host.
  - A key file that is there with the right fingerprint is not fetched again.
author: [Crisper]
options:
  url: {description: Where the key is., type: str, required: true}
  fingerprint:
    description: Fingerprint of the primary key; blanks are ignored.
    type: str
    required: true
  dest:
    description: Key file for apt's Signed-By; armored keys end in .asc.
    type: path
    required: true
  timeout: {description: Seconds to wait for the key., type: int, default: 30}
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Install the key of Docker's repository
  apt_key_pinned:
    url: https://download.docker.com/linux/debian/gpg
    fingerprint: 9DC8 5822 9FC7 DD38 854A  E2D8 8D81 803C 0EBF CD88
    dest: /etc/apt/keyrings/docker.asc
"""

RETURN = r"""
fingerprints:
  description: Of the primary keys in the file.
  type: list
  elements: str
  returned: success
"""

import os
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible_collections.crisper.stack.plugins.module_utils.files import make_folder
from ansible_collections.crisper.stack.plugins.module_utils.host import engine as engine_logic

# A key has some kilobytes.
MOST_BYTES = 1 << 20
SPEC = {
    "url": {"type": "str", "required": True},
    "fingerprint": {"type": "str", "required": True},
    "dest": {"type": "path", "required": True},
    "timeout": {"type": "int", "default": 30},
}


def fingerprints(data: bytes) -> list[str]:
    """Return the fingerprints of the primary keys in it; [] for what is no key."""
    try:
        return engine_logic.openpgp_fingerprints(data)
    except ValueError:
        return []


def main() -> None:
    """Fetch, compare, write."""
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    url, dest = module.params["url"], module.params["dest"]
    expected = [module.params["fingerprint"].replace(" ", "").upper()]
    if os.path.exists(dest):
        with open(dest, "rb") as file:
            if fingerprints(file.read()) == expected:
                module.exit_json(changed=False, fingerprints=expected)
    try:
        data = open_url(url, timeout=module.params["timeout"]).read(MOST_BYTES)
    except Exception as error:
        module.fail_json(msg=f"the key at {url} cannot be downloaded: {error}")
    found = fingerprints(data)
    if found != expected:
        module.fail_json(
            msg=(
                f"the key at {url} is not the expected one and was not installed: fingerprint "
                f"{', '.join(found) or 'none (no OpenPGP key)'}, expected {expected[0]}"
            )
        )
    if not module.check_mode:
        make_folder(Path(dest).parent)  # apt reads it as a user of its own
        handle, temporary = tempfile.mkstemp(dir=module.tmpdir)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        module.atomic_move(temporary, dest)
        module.set_mode_if_different(dest, 0o644, True)
    module.exit_json(changed=True, fingerprints=found)


if __name__ == "__main__":
    main()
