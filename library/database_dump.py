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

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any, BinaryIO

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.crisper_probe import find_container

ARGUMENT_SPEC: dict[str, Any] = {
    "state": {"type": "str", "choices": ["dumped", "restored"], "default": "dumped"},
    "path": {"type": "path", "required": True},
    "project": {"type": "str", "required": True},
    "service": {"type": "str", "default": "postgres"},
    "timeout": {"type": "int", "default": 3600},
    "docker_cli": {"type": "str", "default": "docker"},
}
DUMP = 'exec pg_dump --username "$POSTGRES_USER" --format custom "$POSTGRES_DB"'
# `--clean` drops what the dump has; what a later migration added would stay in the way, so the
# schema goes whole. Both happen in one transaction.
RESTORE = (
    "{ echo 'DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION pg_database_owner;"
    " GRANT USAGE ON SCHEMA public TO PUBLIC;'; pg_restore --no-owner --file -; } |"
    ' exec psql --quiet --username "$POSTGRES_USER" --dbname "$POSTGRES_DB"'
    " --single-transaction --file - --set ON_ERROR_STOP=1 --output /dev/null"
)


def execute(
    module: AnsibleModule,
    container: str,
    script: str,
    source: BinaryIO | int,
    target: BinaryIO | int,
) -> None:
    """Run a shell script in the container, streams connected; fails the module when it does."""
    limit = module.params["timeout"]
    command = [module.params["docker_cli"], "exec", "--interactive", container]
    # timeout(1) in the container: ending the client would leave the work going on.
    command += ["timeout", str(limit), "bash", "-o", "pipefail", "-c", script]
    done = subprocess.run(
        command,
        stdin=source,
        stdout=target,
        stderr=subprocess.PIPE,
        check=False,
        timeout=limit + 30,
    )
    if done.returncode != 0:
        why = done.stderr.decode(errors="replace").strip()[-1000:]
        late = f" within {limit} s" if done.returncode == 124 else ""
        module.fail_json(
            msg=f"The database was not {module.params['state']}{late}"
            f" ({module.params['path']}): {why or f'exit code {done.returncode}'}"
        )


def dump(module: AnsibleModule, container: str, path: Path) -> dict[str, Any]:
    """Write the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            execute(module, container, DUMP, subprocess.DEVNULL, out)
            os.fsync(out.fileno())
        digest = hashlib.sha256()
        with draft.open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return {"path": str(path), "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    path = Path(module.params["path"])
    module.params["container"] = ""
    if module.check_mode:
        module.exit_json(changed=True, backup={})
    container, problem = find_container(module)
    if problem:
        module.fail_json(msg=f"The database was not {module.params['state']}: {problem}.")
    if module.params["state"] == "dumped":
        module.exit_json(changed=True, backup=dump(module, container, path))
    if not path.is_file():
        module.fail_json(msg=f"The backup {path} is not there: nothing was restored.")
    with path.open("rb") as stream:
        execute(module, container, RESTORE, stream, subprocess.DEVNULL)
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
