#!/usr/bin/python
"""Secrets that are made once, on the server, and kept there."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stack_secrets
short_description: Make missing secrets once, on the server
description:
  - Keeps a JSON file (mode 0600) of generated secrets. Those that the operator gave are not this
    module's business.
options:
  path:
    description: The file.
    type: path
    required: true
  names:
    description: Names of the secrets that must exist.
    type: list
    elements: str
    required: true
attributes:
  check_mode:
    description: In check mode nothing is written; missing secrets are returned as made up.
    support: full
author: Crisper
"""

EXAMPLES = r"""
- name: Read the secrets and generate missing ones
  stack_secrets:
    path: /opt/crisper/secrets.json
    names: [postgres_password, redis_password]
  no_log: true
  register: __release_secrets
"""

RETURN = r"""
secrets:
  description: Every secret of the file, by name.
  returned: always
  type: dict
  sample: {postgres_password: VALUE}
generated:
  description: Names that were made in this run.
  returned: always
  type: list
  elements: str
  sample: [redis_password]
"""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.files import make_folder

ARGUMENT_SPEC: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "names": {"type": "list", "elements": "str", "required": True},
}
RANDOM_BYTES = 32


def read(path: Path) -> dict[str, str]:
    """Return the secrets of the file; empty when there is no file yet."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(path: Path, values: dict[str, str]) -> None:
    """Replace the file atomically; it is never readable by others, not even for a moment."""
    make_folder(path.parent, 0o750)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        with os.fdopen(os.open(draft, flags, 0o600), "w") as stream:
            stream.write(json.dumps(values, indent=2, sort_keys=True) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    path = Path(module.params["path"])
    try:
        values = read(path)
    except (OSError, ValueError) as error:
        module.fail_json(
            msg=f"{path} holds the generated secrets of this stack, but cannot be read: {error}."
            " Restore it from a backup: new secrets would lock the stack out of its own data."
        )
    generated = [name for name in module.params["names"] if name not in values]
    values |= {name: secrets.token_urlsafe(RANDOM_BYTES) for name in generated}
    if generated and not module.check_mode:
        try:
            write(path, values)
        except OSError as error:
            module.fail_json(msg=f"{path} could not be written: {error}. Nothing was changed.")
    module.exit_json(changed=bool(generated), secrets=values, generated=generated)


if __name__ == "__main__":
    main()
