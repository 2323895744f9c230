"""Search for what would give an attacker in the application a PostgreSQL superuser's rights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..backup.manifest import BackupError
from ..text import printable, quote, sql_identifier
from .catalog import Catalog, read_catalog
from .cluster_dangers import of_cluster
from .comparison import compared, of_files
from .connections import of_databases, of_members
from .fresh_cluster import FreshClusters, key_of
from .measure import measure
from .planted import REBUILD, of_superusers
from .role_state import State
from .roles import Roles

# Longest list of one kind in a summary; databases that are compared.
MOST = 10
MOST_DATABASES = 20


def of_roles(state: State) -> list[str]:
    """Return which other roles have powers, a sentence each."""
    return [
        f"the role {printable(role)} has powers ({printable(powers)}). If it is not yours:"
        f" DROP ROLE {sql_identifier(role)}"
        for role, powers in state.powerful
    ]


def shorten(kinds: Iterable[Sequence[str]]) -> list[str]:
    """Return the first of each kind of findings, how many more there are, and the way out."""
    lists = [list(each) for each in kinds]
    found = [sentence for each in lists for sentence in each[:MOST]]
    if more := sum(max(0, len(each) - MOST) for each in lists):
        found.append(f"and {more} more of these")
    if found:
        found.append(
            "whoever was superuser may have left these, and what no list finds. If one of them is"
            f" not yours, move the data into a new cluster: {REBUILD}"
        )
    return found


def find_dangers(roles: Roles, state: State, folder: Path | None, project: str = "") -> list[str]:
    """Return what would give an attacker in the application a superuser's rights.

    A sentence each, with its remedy. Operators make such things, too: nothing of it is removed.
    What cannot be compared is told, and fails nothing.

    Args:
        state: what :meth:`Roles.state` has returned last.
        folder: where the measure of a new cluster is stored; None stores nothing.
        project: Compose project, for the name of the container that is thrown away.
    """
    catalogs, unread = read_databases(roles)
    moved = (roles.application, *state.databases) if state.unmoved else ()
    planted = [of_superusers(each, each.database in moved) for each in catalogs]
    cluster = of_cluster(roles.catalog, roles.application)
    databases = of_databases(roles.catalog, roles.application)
    members = of_members(roles.catalog, roles.application)
    kinds = [of_roles(state), cluster, databases, members, *planted]
    fresh = (roles.docker, roles.container, project or roles.application, folder)
    try:
        differing, uncompared = compare_with_fresh(FreshClusters(*fresh), catalogs)
        kinds += differing
        unread += uncompared
    except BackupError as error:
        unread.append(f"PostgreSQL was not compared with a new cluster: {quote(str(error))}")
    return shorten(kinds) + unread


def read_databases(roles: Roles) -> tuple[list[Catalog], list[str]]:
    """Return the catalogs of the databases, the application's first, and which were not read."""
    catalogs, unread = [roles.catalog], []
    for row in roles.catalog.rows["pg_database"]:
        name = row["datname"]
        if row["datallowconn"] != "t" or name == roles.application:
            continue
        if len(catalogs) == MOST_DATABASES:
            unread.append(f"the database {printable(name)} was not looked at")
            continue
        try:
            catalogs.append(read_catalog(roles.docker, roles.container, name))
        except BackupError as error:
            unread.append(f"the database {printable(name)} was not looked at: {quote(str(error))}")
    return catalogs, unread


def compare_with_fresh(
    fresh: FreshClusters, catalogs: Sequence[Catalog]
) -> tuple[list[list[str]], list[str]]:
    """Return lists of what is other than in a new cluster, and which extensions are in none.

    Raises:
        BackupError: no new cluster could be made.
    """
    measures = fresh.measures(each.extensions() for each in catalogs)
    kinds, uncompared = [], []
    for each in catalogs:
        wanted = measures[key_of(each.extensions())]
        kinds.append(compared(each, measure(each), wanted["measure"], wanted["unknown"]))
        uncompared += [
            f"the extension {printable(name)} in the database {printable(each.database)}"
            " was not compared: the image does not make it in that version"
            for name in wanted["unknown"]
        ]
    kinds.append(of_files(catalogs[0], wanted["hba"], wanted["roles"]))
    return kinds, uncompared
