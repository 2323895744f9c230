"""Roles of a PostgreSQL, what they may and what they own, as its catalogs tell it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..backup.backends.postgres_sql import HELPER
from .catalog import SUPERUSER_OID, Catalog, builtin
from .connections import SYSTEM_DATABASES, Opening, foreign_owners, system_openings

# Holds the objects until the application's role has its place.
SUFFIX = "_application"
# Whoever is a member of these reads files and runs programs of the database server.
SERVER = ("pg_execute_server_program", "pg_read_server_files", "pg_write_server_files")
POWERS = {
    "SUPERUSER": "rolsuper",
    "REPLICATION": "rolreplication",
    "CREATEROLE": "rolcreaterole",
    "BYPASSRLS": "rolbypassrls",
}
ATTRIBUTES = {**POWERS, "CREATEDB": "rolcreatedb", "login": "rolcanlogin"}


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
    own = by_name.get(application)
    if own is superuser:
        own = None
    holder = by_name.get(f"{application}{SUFFIX}", {}).get("oid")
    database = next(row for row in rows["pg_database"] if row["datname"] == application)
    public = [row["nspowner"] for row in rows["pg_namespace"] if row["nspname"] == "public"]
    powers = find_powers(rows)
    by_itself = [roles[role] for role, words in powers.items() if "SUPERUSER" in words]
    enough = {"SUPERUSER", *SERVER, *(f"member of {name}" for name in (*by_itself, *SERVER))}
    strong = {role for role, words in powers.items() if words & enough}
    return State(
        application,
        superuser=superuser["rolname"],
        superuser_verifier=superuser["rolpassword"] or "",
        roles=list(by_name),
        holder=next(
            (row["description"] for row in rows["pg_shdescription"] if row["objoid"] == holder), ""
        ),
        role={
            **{word: own[column] == "t" for word, column in ATTRIBUTES.items()},
            "password": own["rolpassword"] is not None,
        }
        if own
        else {},
        memberships=sorted(
            {
                roles[row["roleid"]]
                for row in rows["pg_auth_members"]
                if own and row["member"] == own["oid"] and row["roleid"] in strong
            }
        ),
        database_owner=roles.get(database["datdba"], ""),
        public_owner=roles.get(public[0], "") if public else "",
        objects=objects,
        default_privileges=sum(
            row["defaclrole"] == str(SUPERUSER_OID) for row in rows["pg_default_acl"]
        ),
        extensions=[name for name, *_ in catalog.extensions()],
        databases=[
            row["datname"]
            for row in sorted(rows["pg_database"], key=lambda row: row["datname"])
            if row["datdba"] == str(SUPERUSER_OID)
            and (row["datallowconn"], row["datistemplate"]) == ("t", "f")
            and row["datname"] not in (*SYSTEM_DATABASES, application)
        ],
        connectable=system_openings(catalog, application),
        foreign_owners=foreign_owners(catalog, application),
        no_template=not any(row["datname"] == "template1" for row in rows["pg_database"]),
        limited=int(database["datconnlimit"]) >= 0,
        template=database["datistemplate"] == "t",
        restore=any(
            HELPER.fullmatch(row["nspname"])
            and row["nspowner"] == str(SUPERUSER_OID)
            and not any(each["relnamespace"] == row["oid"] for each in rows["pg_class"])
            for row in rows["pg_namespace"]
        ),
        powerful=[
            (roles[role], ", ".join(_told(words)))
            for role, words in sorted(powers.items(), key=lambda item: roles[item[0]])
            if not builtin(role)
            and roles[role] not in (application, f"{application}{SUFFIX}")
            and words
        ],
    )


def find_powers(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, set[str]]:
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


def _told(words: Iterable[str]) -> list[str]:
    """Return powers in the order of POWERS, memberships behind them."""
    order = [*POWERS]
    return sorted(
        words, key=lambda word: (order.index(word) if word in order else len(order), word)
    )
