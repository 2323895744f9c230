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
    its own database and the password of its release.
  - Where a server has no connection left for its superuser, RV(postponed) names the clients that
    hold them. The module waits 15 seconds before, as the servers close connections that do not log
    in within 10.
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
  description: What could not be done, why, and the remedy, in sentences; empty when all was done.
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

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import (
    BackupError,
    NoConnectionError,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.dangers import find_dangers
from ansible_collections.crisper.stack.plugins.module_utils.database.mariadb_accounts import (
    describe_lockout,
    find_excess,
    find_planted,
    is_locked_out,
    remove_excess,
    set_password,
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
MARIADB_FILE = "secrets/mariadb_password"
# Seconds to wait for a free connection: longer than authentication_timeout of the stack's
# PostgreSQL and connect_timeout of MariaDB (10 s).
SLOT_SECONDS = 15
Params = dict[str, Any]
Result = dict[str, Any]


def password(path: Path) -> str:
    """Return the password in a file, as the entrypoint of PostgreSQL's image reads it."""
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeError) as error:
        raise BackupError(f"{path} cannot be read: {error}") from error


def order_postgres(docker: Docker, params: Params, check: bool) -> Result:
    """Put the roles of PostgreSQL in order; return what this adds to the module's result."""
    folder = Path(params["release"])
    secret, own = password(folder / SUPERUSER_FILE), password(folder / APPLICATION_FILE)
    container = docker.container(params["project"], params["service"])
    if not container and check:
        return {}
    if not container:
        raise BackupError(f"no container of {params['service']} of {params['project']} runs")
    roles = Roles(docker, container, params["application"], params["wait"])
    state = roles.state()
    wanted = plan(state, secret, params["extensions"], own)
    if check:
        return {"done": wanted, "dangers": find_dangers(roles, state, None, params["project"])}
    result: Result = {}
    if wanted:
        note(params, "database_roles", moved=state.unmoved)
        result = roles.apply(secret, own, params["extensions"])
        if reason := result["postponed"]:
            result["postponed"] = f"The application's PostgreSQL role is superuser still: {reason}."
        state = roles.state()
    root = folder.parent.parent
    return {**result, "dangers": find_dangers(roles, state, root, params["project"])}


def order_mariadb(docker: Docker, params: Params, check: bool) -> Result:
    """Put the accounts of MariaDB in order; return what this adds to the module's result."""
    container = docker.container(params["project"], "mariadb") if params["mariadb"] else ""
    if not container:
        return {}
    application = params["application"]
    own = password(Path(params["release"]) / MARIADB_FILE)
    excess = find_excess(docker, container, application)
    locked_out = is_locked_out(docker, container, application, own)
    done = [f"MariaDB: {statement}" for statement in excess]
    done += [f"MariaDB: {sentence}" for sentence in describe_lockout(application, locked_out)]
    if done and not check:
        note(params, "database_roles", mariadb=done)
        remove_excess(docker, container, excess)
        if locked_out:
            set_password(docker, container, application, own)
    return {"done": done, "dangers": find_planted(docker, container, application)}


def order_or_postpone(name: str, order: Callable[[], Result], patience: float) -> Result:
    """Return what `order` does; where its service has no connection left, why it has to wait.

    The service closes connections whose clients do not log in. So it is asked again for longer than
    it lets them wait, before the accounts are left for later. Whoever opens them anew at once keeps
    all of them, until his container is stopped: that is what this deploy may be for.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return order()
        except NoConnectionError as error:
            if time.monotonic() >= deadline:
                return {"postponed": f"The accounts of {name} were not put in order: {error}."}
        time.sleep(0.2)


def act(params: Params, check: bool) -> Result:
    """Put the accounts in order; return the module's result."""
    result: Result = {"done": [], "moved": False, "postponed": "", "dangers": []}
    refuse_extensions(params["extensions"])
    docker = Docker(params["docker_cli"], params["timeout"])
    if password(Path(params["release"]) / SUPERUSER_FILE) or check:
        patience = 0 if check else SLOT_SECONDS
        for name, order in (("PostgreSQL", order_postgres), ("MariaDB", order_mariadb)):
            more = order_or_postpone(name, partial(order, docker, params, check), patience)
            result["moved"] |= more.get("moved", False)
            result["done"] += more.get("done", [])
            result["dangers"] += more.get("dangers", [])
            words = (result["postponed"], composed(more.get("postponed", "")))
            result["postponed"] = " ".join(each for each in words if each)
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
