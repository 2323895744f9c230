#!/usr/bin/python
"""Tell a stack's database that was restored from one that was not."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_identity
short_description: Tell a PostgreSQL database that was restored from one that was not
description:
  - Every table of a database has a number that no other table gets later. A restore makes all
    tables anew, so other numbers mean that it was carried out, whatever its client was told.
  - Changes nothing, and does not fail when the database does not answer; RV(error) says why then.
extends_documentation_fragment: [crisper.docker, crisper.project]
options:
  service:
    description: Its service of PostgreSQL.
    type: str
    default: postgres
  before:
    description: RV(identity) of before a restore, to compare with.
    type: str
    default: ""
  timeout:
    description: Seconds that the answer may take.
    type: int
    default: 60
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
- name: Record the identity of the database
  database_identity: {project: crisper}
  register: database_before

- name: Check whether the database was restored
  database_identity: {project: crisper, before: "{{ database_before.identity }}"}
"""

RETURN = r"""
identity:
  description: Digest of the numbers of all tables; empty when the database did not answer.
  returned: always
  type: str
  sample: 5d41402abc4b2a76b9719d911017c592
state:
  description: V(untouched) or V(restored) as compared with O(before), V(unknown) without an answer.
  returned: always
  type: str
  sample: untouched
error:
  description: Why the database did not answer; empty when it did.
  returned: always
  type: str
  sample: ""
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.postgres_sql import (
    ASK_POSTGRES,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.psql import (
    end_postgres_sessions,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.database.interrupted import (
    RESTORE_SESSION,
)
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker

# A restore drops the schema and makes it anew, so an empty database has another number too.
# Each operator and function has arguments of exactly its types, and a number becomes a text without
# a cast: nothing that a former superuser has planted matches better.
IDENTITY = (
    "SELECT md5(coalesce(string_agg(textin(int8out(number)), ','::text ORDER BY number), '')) FROM"
    " (SELECT c.oid::bigint AS number FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname::text !~ '^pg_'::text AND n.nspname <> 'information_schema'"
    " UNION ALL SELECT oid::bigint FROM pg_namespace WHERE nspname = 'public') numbers"
)

ARGUMENT_SPEC: dict[str, Any] = {
    "project": {"type": "str", "required": True},
    "service": {"type": "str", "default": "postgres"},
    "before": {"type": "str", "default": ""},
    "timeout": {"type": "int", "default": 60},
    "docker_cli": {"type": "str", "default": "docker"},
}


def identity_of(docker: Docker, project: str, service: str, restored: bool) -> str:
    """Return the digest of a database's table numbers.

    Args:
        docker: how it is reached.
        project: Compose project.
        service: its service.
        restored: whether a restore was begun; one whose module was killed is ended first, as it
            may still replace the database after the look.

    Raises:
        BackupError: the database does not answer, or the restore does not end.
    """
    container = docker.container(project, service)
    if not container:
        raise BackupError(f"No container of {service} of {project} runs.")
    if restored and not end_postgres_sessions(docker, container, [RESTORE_SESSION]):
        raise BackupError(f"A restore does not end (session {RESTORE_SESSION}).")
    command = docker.inside(container, f'{ASK_POSTGRES} --command "{IDENTITY}"')
    return docker.text("PostgreSQL did not answer", command).strip()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    result: dict[str, Any] = {"changed": False, "identity": "", "state": "unknown", "error": ""}
    try:
        docker = Docker(params["docker_cli"], params["timeout"])
        result["identity"] = identity_of(
            docker, params["project"], params["service"], bool(params["before"])
        )
    except BackupError as error:
        module.exit_json(**{**result, "error": str(error)})
    if params["before"]:
        untouched = result["identity"] == params["before"]
        result["state"] = "untouched" if untouched else "restored"
    module.exit_json(**result)


if __name__ == "__main__":
    main()
