#!/usr/bin/python
"""Accounts of a stack's databases: a superuser, and the application without powers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_roles
short_description: Keep the application's database accounts without powers
description:
  - The role and the database of the application have the same name. The role owns the database,
    its schema V(public) and all that is in it, and has neither SUPERUSER nor CREATEROLE, CREATEDB,
    REPLICATION or BYPASSRLS. The superuser has another name, and a password that the application
    never gets.
  - A stack whose application was the superuser is moved once. Sessions stay open. A table is
    locked for half a second at most; where a long transaction holds one, RV(postponed) says so,
    the application stays what it was, and the next call goes on.
  - MariaDB's root can log in within its container alone, and the application has no rights beyond
    its own database.
  - A release without a password for the superuser is of an earlier edition, and is left as it is.
options:
  service:
    description: Its service of PostgreSQL.
    type: str
    default: postgres
  application:
    description: Name of the application's role and database.
    type: str
    required: true
  release:
    description: Folder of the release, with the passwords in C(secrets/).
    type: path
    required: true
  extensions:
    description: Extensions that the superuser makes in the application's database.
    type: list
    elements: str
    default: []
  mariadb:
    description: Whether the stack has a MariaDB.
    type: bool
    default: false
  wait:
    description: Seconds to wait for tables that running transactions hold.
    type: int
    default: 30
  timeout:
    description: Seconds that one step may take.
    type: int
    default: 3600
extends_documentation_fragment: [crisper, crisper.docker, crisper.project]
attributes:
  check_mode:
    description: Tells what would be done.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Keep the application's role without powers
  database_roles:
    project: shop
    application: shop
    release: /opt/shop/releases/20261120t221500z-1a2b3c4d
    extensions: [vector]
"""

RETURN = r"""
done:
  description: What was done, or would be done in check mode, a sentence each.
  returned: always
  type: list
  elements: str
  sample: ["the role shop gets its password"]
moved:
  description: Whether the application was the superuser, and is not any more.
  returned: always
  type: bool
  sample: false
postponed:
  description: Why the application has to stay superuser for now; empty when it has not.
  returned: always
  type: str
  sample: ""
dangers:
  description:
    - What would give an attacker in the application a superuser's rights, a sentence each with its
      remedy - other roles with powers; event triggers, casts between types of PostgreSQL, functions
      that run as superuser or in languages that are not trusted, in every database; settings that
      run programs or load libraries, and who may change them; whatever is other than in a new
      cluster of the same image, which is made in a container that is thrown away (built-in
      objects, members of extensions, lines of C(pg_hba.conf)). Of MariaDB accounts with rights over
      the server, what runs with their rights, and loaded libraries. Nothing of it is removed.
  returned: always
  type: list
  elements: str
  sample: ["the role helper has powers (SUPERUSER). If it is not yours: DROP ROLE \"helper\""]
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.database.dangers import find_dangers
from ansible_collections.crisper.stack.plugins.module_utils.database.mariadb_accounts import (
    find_excess,
    find_planted,
    remove_excess,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.role_plan import plan
from ansible_collections.crisper.stack.plugins.module_utils.database.roles import (
    Roles,
    refuse_extensions,
)
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker
from ansible_collections.crisper.stack.plugins.module_utils.journal import (
    RUN_SPEC,
    NotOwnerError,
    note,
)
from ansible_collections.crisper.stack.plugins.module_utils.text import composed

ARGUMENT_SPEC: dict[str, Any] = {
    "project": {"type": "str", "required": True},
    "service": {"type": "str", "default": "postgres"},
    "application": {"type": "str", "required": True},
    "release": {"type": "path", "required": True},
    "extensions": {"type": "list", "elements": "str", "default": []},
    "mariadb": {"type": "bool", "default": False},
    "wait": {"type": "int", "default": 30},
    "timeout": {"type": "int", "default": 3600},
    "docker_cli": {"type": "str", "default": "docker"},
    "run": RUN_SPEC,
}
SUPERUSER_FILE = "secrets/postgres_superuser_password"
APPLICATION_FILE = "secrets/postgres_password"


def password(path: Path) -> str:
    """Return the password in a file, as the entrypoint of PostgreSQL's image reads it."""
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeError) as error:
        raise BackupError(f"{path} cannot be read: {error}") from error


def act(params: dict[str, Any], check: bool) -> dict[str, Any]:
    """Put the roles in order; return the module's result."""
    result: dict[str, Any] = {"changed": False, "done": [], "moved": False, "postponed": ""}
    result["dangers"] = []
    refuse_extensions(params["extensions"])
    docker = Docker(params["docker_cli"], params["timeout"])
    secret = password(Path(params["release"]) / SUPERUSER_FILE)
    if not secret and not check:
        return result
    container = docker.container(params["project"], params["service"])
    if not container and check:
        return result
    if not container:
        raise BackupError(f"no container of {params['service']} of {params['project']} runs")
    roles = Roles(docker, container, params["application"], params["wait"])
    state = roles.state()
    own = password(Path(params["release"]) / APPLICATION_FILE)
    wanted = plan(state, secret, params["extensions"], own)
    other = docker.container(params["project"], "mariadb") if params["mariadb"] else ""
    excess = find_excess(docker, other, params["application"]) if other else []
    revoked = [f"MariaDB: {statement}" for statement in excess]
    root = Path(params["release"]).parent.parent
    planted = find_planted(docker, other, params["application"]) if other else []
    if check:
        result["dangers"] = [*find_dangers(roles, state, None, params["project"]), *planted]
        return {**result, "changed": bool(wanted or revoked), "done": [*wanted, *revoked]}
    if excess:
        note(params, "database_roles", mariadb=excess)
        remove_excess(docker, other, excess)
    if wanted:
        note(params, "database_roles", moved=state.unmoved)
        result |= roles.apply(secret, own, params["extensions"])
        state = roles.state()
    result["dangers"] = [*find_dangers(roles, state, root, params["project"]), *planted]
    result["done"] += revoked
    return {**result, "changed": bool(result["done"])}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        # While this module lives no other deploy begins, although its controller may be gone.
        module.exit_json(**act(module.params, module.check_mode))
    except NotOwnerError as error:
        module.fail_json(msg=str(error))
    except BackupError as error:
        module.fail_json(
            msg=composed(
                f"The accounts of the databases were not put in order: {error}. The next deploy"
                " tries again."
            )
        )


if __name__ == "__main__":
    main()
