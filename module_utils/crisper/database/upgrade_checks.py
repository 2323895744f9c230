"""Refusals of an upgrade of PostgreSQL's data, before anything stands still."""

from __future__ import annotations

import json
import shutil

from ..backup.backends import postgres
from ..backup.manifest import BackupError
from ..docker.exec import Docker
from ..text import printable, sql_identifier
from .catalog import Catalog, builtin, parse_array, read_catalog
from .planted import not_restorable
from .role_state import SUFFIX

# Findings that are named in a refusal.
MOST = 10


def application_of(docker: Docker, container: str) -> str:
    """Return the name of the application's role and database."""
    environment: list[str] = docker.inspect(container)["Config"]["Env"]
    return dict(item.partition("=")[::2] for item in environment)["POSTGRES_DB"]


def settings_of(catalog: Catalog, own: str) -> list[str]:
    """Return the settings that a dump of a database does not have, as people write them.

    Args:
        own: name of the application's role and database.
    """
    found = [
        f"{row['name']} = {row['setting']}"
        for row in catalog.rows["file_settings"]
        if (row["sourcefile"] or "").endswith("postgresql.auto.conf")
    ]
    databases = {row["oid"]: row["datname"] for row in catalog.rows["pg_database"]}
    for row in catalog.rows["pg_db_role_setting"]:
        database, role = databases.get(row["setdatabase"]), catalog.roles.get(row["setrole"])
        if database not in (None, own):
            continue
        whose = f"role {role}" if role else "every role"
        where = f" in database {database}" if database else ""
        found += [f"{each} ({whose}{where})" for each in parse_array(row["setconfig"])]
    return sorted(found)


def refuse_what_a_dump_lacks(docker: Docker, running: str) -> list[str]:
    """Refuse what is not the stack's or a superuser's alone; return settings that get lost.

    Raises:
        BackupError: there is such a database, role or object.
    """
    own = application_of(docker, running)
    catalog = read_catalog(docker, running, own)
    databases = [
        printable(row["datname"])
        for row in catalog.rows["pg_database"]
        if row["datistemplate"] != "t" and row["datname"] not in ("postgres", own)
    ]
    roles = [
        printable(row["rolname"])
        for row in catalog.rows["pg_authid"]
        if not builtin(row["oid"]) and row["rolname"] not in (own, f"{own}{SUFFIX}")
    ]
    if databases or roles:
        raise BackupError(
            "The upgrade moves the stack's own database alone, and there is more:"
            f" databases {', '.join(sorted(databases)) or 'none'},"
            f" roles {', '.join(sorted(roles)) or 'none'}."
            " Dump and drop them (pg_dump, pg_dumpall --roles-only), run the upgrade again,"
            " and restore what is yours afterwards. The data was not touched."
        )
    misplaced = [
        f"the extension {printable(name)} is in the schema {printable(schema)} of PostgreSQL's"
        f" own. To move it: ALTER EXTENSION {sql_identifier(name)} SET SCHEMA public"
        for name, schema in postgres.misplaced_extensions(docker, running)
    ]
    if obstacles := [*misplaced, *not_restorable(catalog)]:
        raise BackupError(
            "The upgrade restores the data by the application's role, which may not make what a"
            f" superuser has made: {'; '.join(obstacles[:MOST])}. Drop or move it, run the upgrade"
            " again, and make what is yours afterwards. The data was not touched."
        )
    return [printable(each) for each in settings_of(catalog, own)]


def refuse_without_room(docker: Docker, running: str, volume: str) -> None:
    """Refuse when the disk has no room for the new cluster beside the old data.

    Raises:
        BackupError: it has not.
    """
    command = docker.inside(running, 'du -sk "$PGDATA" | cut -f1')
    size = int(docker.text("The size of the data was not told", command)) * 1024
    folder = json.loads(docker.run("volume", "inspect", "--format", "{{json .Mountpoint}}", volume))
    free = shutil.disk_usage(folder).free
    if free < 2 * size:
        raise BackupError(
            f"The upgrade needs {2 * size / 1e9:.1f} GB free in {folder} (a copy of the old"
            f" data and the new cluster), and {free / 1e9:.1f} GB are: free space, then run it"
            " again. The data was not touched."
        )
