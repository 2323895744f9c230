#!/usr/bin/python
"""Put the secret files of a release where the data services mount them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: data_secrets
short_description: Put the secret files of a release where the data services mount them
description:
  - Copies each file whole, with the mode that it has, for the user that reads it in the containers.
    A container that runs keeps the file that it has mounted.
  - C(redis.conf) also gets those Redis users of the one in force that it does not name. Containers
    of the release that still serves connect as them until they are gone; a release of an older
    edition knows no user but C(default).
options:
  source:
    description: Folder C(secrets) of the release.
    type: path
    required: true
  path:
    description: Folder that containers mount from.
    type: path
    required: true
  owner:
    description: uid that reads the files.
    type: int
    required: true
attributes:
  check_mode:
    description: Writes nothing in check mode and tells whether it would.
    support: full
  diff_mode:
    description: The files are secret.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Copy the secrets of the data services
  data_secrets:
    source: /opt/crisper/current/secrets
    path: /opt/crisper/live/secrets
    owner: 999
"""

RETURN = r"""
files:
  description: Names of the files that differed.
  returned: always
  type: list
  elements: str
  sample: [redis.conf]
"""

import os
import stat
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.files import make_folder, sync_folder
from ansible_collections.crisper.stack.plugins.module_utils.model.redis_users import with_users_of

REDIS = "redis.conf"


def content(source: Path, target: Path) -> str:
    """Return what a secret file is to hold.

    Raises:
        OSError, UnicodeError: one of them cannot be read.
    """
    wanted = source.read_bytes().decode()
    if source.name == REDIS and target.exists():
        return with_users_of(wanted, target.read_bytes().decode())
    return wanted


def differs(target: Path, text: str, mode: int, owner: int) -> bool:
    """Return whether a file is missing, or not as it is to be."""
    try:
        status = target.stat()
        equal = target.read_bytes() == text.encode()
    except FileNotFoundError:
        return True
    owned = os.geteuid() != 0 or status.st_uid == owner
    return not (equal and owned and stat.S_IMODE(status.st_mode) == mode)


def write(target: Path, text: str, mode: int, owner: int) -> None:
    """Replace a file as a whole; it is never readable by more than its mode allows.

    Raises:
        OSError: it cannot be written; the one before is as it was.
    """
    draft = target.with_name(f".{target.name}.new")
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(draft, flags, 0o600), "wb") as stream:
        stream.write(text.encode())
        stream.flush()
        os.fsync(stream.fileno())
    if os.geteuid() == 0:
        os.chown(draft, owner, owner)
    draft.chmod(mode)
    draft.replace(target)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "path": {"type": "path", "required": True},
            "owner": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    source, folder = Path(module.params["source"]), Path(module.params["path"])
    owner = module.params["owner"]
    changed = []
    try:
        for file in sorted(path for path in source.iterdir() if path.is_file()):
            target, mode = folder / file.name, stat.S_IMODE(file.stat().st_mode)
            text = content(file, target)
            if not differs(target, text, mode, owner):
                continue
            changed.append(file.name)
            if not module.check_mode:
                make_folder(folder, 0o700)
                if os.geteuid() == 0:
                    os.chown(folder, owner, -1)
                write(target, text, mode, owner)
        if changed and not module.check_mode:
            sync_folder(folder)
    except (OSError, UnicodeError) as error:
        module.fail_json(
            msg=f"The secrets of the data services were not copied from {source} to {folder}:"
            f" {error}. The data services were not touched; mend it, and deploy again."
        )
    module.exit_json(changed=bool(changed), files=changed)


if __name__ == "__main__":
    main()
