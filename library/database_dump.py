#!/usr/bin/python
"""A PostgreSQL database as it is in a dump."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_dump
short_description: Restore a stack's PostgreSQL database from a dump
description:
  - Runs C(pg_restore) in the stack's running container, from a file on the server. Nothing of
    community.docker streams between the two.
  - A restore is one transaction - it happens whole or not at all. One that a killed module left
    running is ended first. M(database_migrate) makes the dumps.
  - Warns of an image whose C(psql) runs programs that a dump names. The dump is restored all the
    same, as the way back must stay open.
options:
  state:
    description: What to do.
    type: str
    choices: [restored]
    default: restored
  path:
    description: The file.
    type: path
    required: true
  service:
    description: Service of the database.
    type: str
    default: postgres
  timeout:
    description: Seconds it may take.
    type: int
    default: 3600
extends_documentation_fragment: [crisper, crisper.docker, crisper.project]
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
- name: Restore the database from its dump
  database_dump:
    state: restored
    path: /opt/crisper/backups/20261120t221500z-1a2b3c4d.dump
    project: crisper
"""

RETURN = r"""
# Nothing but C(changed).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.postgres import (
    restore_postgres,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.psql import (
    end_postgres_sessions,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.versions import (
    service_version,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.database.interrupted import (
    RESTORE_SESSION,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.versions import loose_psql
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker
from ansible_collections.crisper.stack.plugins.module_utils.journal import (
    RUN_SPEC,
    NotOwnerError,
    note,
)
from ansible_collections.crisper.stack.plugins.module_utils.text import composed

ARGUMENT_SPEC: dict[str, Any] = {
    "state": {"type": "str", "choices": ["restored"], "default": "restored"},
    "path": {"type": "path", "required": True},
    "project": {"type": "str", "required": True},
    "service": {"type": "str", "default": "postgres"},
    "timeout": {"type": "int", "default": 3600},
    "docker_cli": {"type": "str", "default": "docker"},
    "run": RUN_SPEC,
}


def act(params: dict[str, Any], warn: Callable[[str], None]) -> dict[str, Any]:
    """Restore a dump; return the module's result.

    Raises:
        BackupError: it failed, and the database is as it was.
    """
    path, docker = Path(params["path"]), Docker(params["docker_cli"], params["timeout"])
    container = docker.container(params["project"], params["service"])
    if not container:
        raise BackupError(f"No container of {params['service']} of {params['project']} runs.")
    if not path.is_file():
        raise BackupError(f"The backup {path} is not there: nothing was restored.")
    # The application can bring such lines into the names of its own objects.
    if problem := loose_psql(service_version(docker, "postgres", container)):
        warn(f"{problem}, and deploy. The dump is of this stack, and is restored all the same.")
    if not end_postgres_sessions(docker, container, [RESTORE_SESSION]):
        raise BackupError(f"an earlier restore does not end (session {RESTORE_SESSION})")
    with path.open("rb") as stream:
        restore_postgres(docker, container, stream, RESTORE_SESSION)
    return {"changed": True}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    if module.check_mode:
        module.exit_json(changed=True)
    try:
        # While this module lives no other deploy begins, although its controller may be gone.
        note(module.params, "restore_database", backup=module.params["path"])
        module.exit_json(**act(module.params, module.warn))
    except NotOwnerError as error:
        module.fail_json(msg=composed(str(error)))
    except BackupError as error:
        what = f"The database was not restored ({module.params['path']})"
        module.fail_json(msg=composed(f"{what}: {error}"))


if __name__ == "__main__":
    main()
