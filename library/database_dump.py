#!/usr/bin/python
"""A PostgreSQL database into a file, and back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_dump
short_description: Dump a stack's PostgreSQL database into a file, or restore it
description:
  - Runs C(pg_dump) (custom format) and C(pg_restore) in the stack's running container, between
    it and a file on the server. Nothing of community.docker streams between the two.
  - A dump is written to a draft and named when it is whole. A restore is one transaction - it
    happens whole or not at all.
options:
  state:
    description: What to do.
    type: str
    choices: [dumped, restored]
    default: dumped
  path:
    description: The file.
    type: path
    required: true
  project:
    description: Compose project.
    type: str
    required: true
  service:
    description: Service of the database.
    type: str
    default: postgres
  timeout:
    description: Seconds it may take.
    type: int
    default: 3600
  docker_cli:
    description: The Docker client.
    type: str
    default: docker
attributes:
  check_mode:
    description: Does nothing in check mode.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: The database is as it was before the migration
  database_dump:
    state: restored
    path: /opt/crisper/backups/20261120t221500z-1a2b3c4d.dump
    project: crisper
"""

RETURN = r"""
backup:
  description: The file.
  returned: with O(state=dumped)
  type: dict
  sample: {path: /opt/crisper/backups/20261120t221500z-1a2b3c4d.dump, bytes: 48213, sha256: 9f8e}
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.crisper_backup import BackupError
from ansible.module_utils.crisper_backup_cipher import measured, written
from ansible.module_utils.crisper_backup_data import Docker, dump_postgres, restore_postgres
from ansible.module_utils.crisper_files import make_folder

ARGUMENT_SPEC: dict[str, Any] = {
    "state": {"type": "str", "choices": ["dumped", "restored"], "default": "dumped"},
    "path": {"type": "path", "required": True},
    "project": {"type": "str", "required": True},
    "service": {"type": "str", "default": "postgres"},
    "timeout": {"type": "int", "default": 3600},
    "docker_cli": {"type": "str", "default": "docker"},
}


def dump(docker: Docker, container: str, path: Path) -> dict[str, Any]:
    """Write the file, whole or not at all."""
    make_folder(path.parent, 0o700)
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    try:
        with written(draft, "", "") as target:
            dump_postgres(docker, container, target)
        size, digest = measured(draft) or (0, "")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return {"path": str(path), "bytes": size, "sha256": digest}


def act(params: dict[str, Any]) -> dict[str, Any]:
    """Dump or restore; the module's result."""
    path, docker = Path(params["path"]), Docker(params["docker_cli"], params["timeout"])
    container = docker.container(params["project"], params["service"])
    if not container:
        raise BackupError(f"No container of {params['service']} of {params['project']} runs.")
    if params["state"] == "dumped":
        return {"changed": True, "backup": dump(docker, container, path)}
    if not path.is_file():
        raise BackupError(f"The backup {path} is not there: nothing was restored.")
    with path.open("rb") as stream:
        restore_postgres(docker, container, stream)
    return {"changed": True}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    if module.check_mode:
        module.exit_json(changed=True, backup={})
    try:
        module.exit_json(**act(module.params))
    except BackupError as error:
        what = f"The database was not {module.params['state']} ({module.params['path']})"
        module.fail_json(msg=f"{what}: {error}")


if __name__ == "__main__":
    main()
