"""Roles of a PostgreSQL, what they may and what they own, as its catalogs tell it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..backup.backends.postgres_sql import HELPER
from .catalog import SUPERUSER_OID, Catalog, builtin
from .connections import SYSTEM_DATABASES, Opening, foreign_owners, system_openings
from .own_settings import OwnSetting, hindering_settings, is_shut_out

# Holds the objects until the application's role has its place.
SUFFIX = "_application"
# Whoever is a member of these reads files and runs programs of the database server.
SERVER = ("pg_execute_server_program", "pg_read_server_files", "pg_write_server_files")
# Everybody in a database, and its owner.
HARMLESS_ROLES = ("pg_database_owner",)
POWERS = {
    "SUPERUSER": "rolsuper",
    "REPLICATION": "rolreplication",
    "CREATEROLE": "rolcreaterole",
    "BYPASSRLS": "rolbypassrls",
}
ATTRIBUTES = {**POWERS, "CREATEDB": "rolcreatedb", "login": "rolcanlogin"}
Row = Mapping[str, Any]
Rows = Mapping[str, Sequence[Row]]  # by catalog
Powers = dict[str, "set[str]"]  # number of a role -> words


@dataclass
class State:
    """Roles of a PostgreSQL server, and who owns what in the stack's database."""

    application: str  # its role and its database have one name
    superuser: str
    superuser_verifier: str = ""
    roles: Sequence[str] = ()
    holder: str = ""  # comment of the role that takes the objects over, if there is one
    role: dict[str, Any] = field(default_factory=dict)  # attributes; empty without one
    memberships: Sequence[str] = ()  # roles by which the application's would be more than itself
    database_owner: str = ""
    public_owner: str = ""
    objects: int = 0
    default_privileges: int = 0
    extensions: Sequence[str] = ()
    databases: Sequence[str] = ()  # others of the superuser
    # PostgreSQL's own databases that the application may connect to: from there it drops its own.
    connectable: Sequence[Opening] = ()
    foreign_owners: Sequence[tuple[str, str]] = ()  # of PostgreSQL's own databases
    no_template: bool = False  # template1 is missing
    limited: bool = False  # the application's database takes so many sessions alone
    template: bool = False  # whoever may make a database may copy the application's
    restore: bool = False  # a restore was killed, and its function is still there
    verifier: str = ""  # of the application's role
    shut_out: bool = False  # the application may not connect to its own database
    hindering: Sequence[OwnSetting] = ()  # defaults of its sessions with which it cannot work
    # Other roles, and what they may.
    powerful: Sequence[tuple[str, str]] = ()

    @property
    def unmoved(self) -> bool:
        """Return whether the application's role is the superuser that PostgreSQL cannot demote."""
        return self.superuser == self.application


def read_state(catalog: Catalog, application: str, objects: int) -> State:
    """Return what the catalogs of the application's database tell of its roles.

    Args:
        objects: how many objects the superuser owns that are the application's to own.
    """
    rows, roles = catalog.rows, catalog.roles
    by_name = {row["rolname"]: row for row in rows["pg_authid"]}
    superuser = by_name[roles[str(SUPERUSER_OID)]]
    own = None if superuser["rolname"] == application else by_name.get(application)
    database = next(row for row in rows["pg_database"] if row["datname"] == application)
    powers = find_powers(rows)
    return State(
        application,
        superuser=superuser["rolname"],
        superuser_verifier=superuser["rolpassword"] or "",
        roles=list(by_name),
        holder=_comment(rows, by_name.get(f"{application}{SUFFIX}", {}).get("oid")),
        role=_attributes(own) if own else {},
        memberships=_strong_memberships(catalog, powers, own["oid"]) if own else [],
        database_owner=roles.get(database["datdba"], ""),
        public_owner=_public_owner(catalog),
        objects=objects,
        default_privileges=sum(
            row["defaclrole"] == str(SUPERUSER_OID) for row in rows["pg_default_acl"]
        ),
        extensions=[name for name, *_ in catalog.extensions()],
        databases=_superusers_databases(rows, application),
        connectable=system_openings(catalog, application),
        foreign_owners=foreign_owners(catalog, application),
        no_template=not any(row["datname"] == "template1" for row in rows["pg_database"]),
        limited=int(database["datconnlimit"]) >= 0,
        template=database["datistemplate"] == "t",
        restore=_has_helper(rows),
        verifier=(own or {}).get("rolpassword") or "",
        shut_out=is_shut_out(catalog, application),
        hindering=hindering_settings(catalog, application),
        powerful=_powerful_roles(catalog, powers, application),
    )


def _public_owner(catalog: Catalog) -> str:
    """Return the owner of the schema public; empty without it."""
    owners = {row["nspname"]: row["nspowner"] for row in catalog.rows["pg_namespace"]}
    return str(catalog.roles.get(owners.get("public", ""), ""))


def _comment(rows: Rows, role: str | None) -> str:
    """Return the comment of a role, given by its number; empty without one."""
    comments = (row["description"] for row in rows["pg_shdescription"] if row["objoid"] == role)
    return next(comments, "")


def _attributes(role: Row) -> dict[str, Any]:
    return {
        **{word: role[column] == "t" for word, column in ATTRIBUTES.items()},
        "password": role["rolpassword"] is not None,
    }


def _strong_memberships(catalog: Catalog, powers: Powers, role: str) -> list[str]:
    """Return the roles by which a role, given by its number, would be superuser or reach files."""
    roles = catalog.roles
    by_itself = [roles[each] for each, words in powers.items() if "SUPERUSER" in words]
    enough = {"SUPERUSER", *SERVER, *(f"member of {name}" for name in (*by_itself, *SERVER))}
    strong = {each for each, words in powers.items() if words & enough}
    # PostgreSQL's own reach all data, the catalog of passwords among it, or other sessions.
    strong |= {
        each
        for each, name in roles.items()
        if name.startswith("pg_") and builtin(each) and name not in HARMLESS_ROLES
    }
    return sorted(
        {
            roles[row["roleid"]]
            for row in catalog.rows["pg_auth_members"]
            if row["member"] == role and row["roleid"] in strong
        }
    )


def _superusers_databases(rows: Rows, application: str) -> list[str]:
    """Return the superuser's databases besides the application's and PostgreSQL's own."""
    return [
        row["datname"]
        for row in sorted(rows["pg_database"], key=lambda row: row["datname"])
        if row["datdba"] == str(SUPERUSER_OID)
        and (row["datallowconn"], row["datistemplate"]) == ("t", "f")
        and row["datname"] not in (*SYSTEM_DATABASES, application)
    ]


def _has_helper(rows: Rows) -> bool:
    """Return whether a restore that was killed has left its schema."""
    return any(
        HELPER.fullmatch(row["nspname"])
        and row["nspowner"] == str(SUPERUSER_OID)
        and not any(each["relnamespace"] == row["oid"] for each in rows["pg_class"])
        for row in rows["pg_namespace"]
    )


def _powerful_roles(catalog: Catalog, powers: Powers, application: str) -> list[tuple[str, str]]:
    """Return the roles with powers that are neither PostgreSQL's nor the application's."""
    roles = catalog.roles
    return [
        (roles[role], ", ".join(_in_order(words)))
        for role, words in sorted(powers.items(), key=lambda item: roles[item[0]])
        if not builtin(role)
        and roles[role] not in (application, f"{application}{SUFFIX}")
        and words
    ]


def find_powers(rows: Rows) -> Powers:
    """Return what each role may by itself, and by the roles that it is a member of.

    Returns:
        Role -> words: an attribute, or the name of a role that has one or reaches the server.
    """
    found: dict[str, set[str]] = {}
    sources: dict[str, str] = {}
    for row in rows["pg_authid"]:
        own = {word for word, column in POWERS.items() if row[column] == "t"}
        found[row["oid"]] = own | ({row["rolname"]} & set(SERVER))
        if found[row["oid"]]:
            sources[row["oid"]] = row["rolname"]
    above: dict[str, set[str]] = {}
    for row in rows["pg_auth_members"]:
        above.setdefault(row["member"], set()).add(row["roleid"])
    for role in found:
        pending, reached = [role], {role}
        while pending:
            for each in above.get(pending.pop(), set()) - reached:
                reached.add(each)
                pending.append(each)
        found[role] = found[role] | {
            f"member of {sources[e]}" for e in reached - {role} if e in sources
        }
    return found


def _in_order(words: Iterable[str]) -> list[str]:
    """Return powers in the order of POWERS, memberships behind them."""
    order = [*POWERS]
    return sorted(
        words, key=lambda word: (order.index(word) if word in order else len(order), word)
    )
