"""Rights to connect to the databases of a PostgreSQL, found by reading its catalogs.

The owner of a database may drop it from every other database: so the application's role connects
to its own alone. A right may be PUBLIC's, the role's own, or that of a role that it is a member of,
directly or not, and whoever is a member of the application's role has its rights. Python 3.9+.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ..text import printable, sql_identifier
from .acl import Grant, grants
from .catalog import SUPERUSER_OID, Catalog, builtin, identifier

# PostgreSQL's own; all of them belong to the bootstrap superuser.
SYSTEM_DATABASES = ("postgres", "template0", "template1")
PUBLIC = ""


@dataclass(frozen=True)
class Opening:
    """A database that a role may connect to besides its own.

    `grantees` have CONNECT, PUBLIC as an empty text; `owner` is the database's where the role is a
    member of it, which may give itself any right, and open a database that is closed.
    """

    database: str
    grantees: tuple[str, ...]
    owner: str
    acl: str | None

    def revoke(self, quote: Callable[[str], str] = identifier) -> list[str]:
        """Return the statements that take CONNECT from all of them.

        A superuser takes back what the owner of the database has granted. What somebody else has
        passed on goes with the right to pass it on.
        """
        database = quote(self.database)
        found = [
            f"REVOKE GRANT OPTION FOR CONNECT ON DATABASE {database} FROM {quote(name)} CASCADE;"
            for name in sorted({each.grantee for each in grants(self.acl) if "c*" in each.letters})
            if name != PUBLIC
        ]
        if self.grantees:
            names = ", ".join(quote(each) if each else "PUBLIC" for each in self.grantees)
            found.append(f"REVOKE CONNECT ON DATABASE {database} FROM {names} CASCADE;")
        return found


def roles_above(catalog: Catalog, role: str) -> set[str]:
    """Return the numbers of a role and of all that it is a member of, directly or not."""
    above: dict[str, set[str]] = {}
    for row in catalog.rows["pg_auth_members"]:
        above.setdefault(row["member"], set()).add(row["roleid"])
    pending, reached = [role], {role}
    while pending:
        for each in above.get(pending.pop(), set()) - reached:
            reached.add(each)
            pending.append(each)
    return reached


def openings(catalog: Catalog, role: str, own: str) -> list[Opening]:
    """Return the databases that a role may connect to.

    Args:
        role: its number.
        own: name of the database that is left out.
    """
    reached = roles_above(catalog, role)
    names = {PUBLIC, *(catalog.roles.get(each, "?") for each in reached)}
    found = []
    for row in sorted(catalog.rows["pg_database"], key=lambda row: row["datname"]):
        if row["datname"] == own:
            continue
        owner = catalog.roles.get(row["datdba"], "?")
        rights: Iterable[Grant] = grants(row["datacl"], "pg_database")
        grantees = {
            each.grantee
            for each in rights
            if "c" in each.letters and each.grantee in names and each.grantee != owner
        }
        # A superuser may give the right as he likes.
        grantees -= catalog.super_names
        owns = row["datdba"] in reached and row["datdba"] not in catalog.superusers
        if owns or (grantees and row["datallowconn"] == "t"):
            found.append(
                Opening(
                    row["datname"],
                    tuple(sorted(grantees)),
                    owner if owns else "",
                    row["datacl"],
                )
            )
    return found


def system_openings(catalog: Catalog, application: str) -> list[Opening]:
    """Return PostgreSQL's own databases that the application's role may connect to."""
    # Without a role: what everybody may.
    found = openings(catalog, _number(catalog, application), application)
    return [each for each in found if each.database in SYSTEM_DATABASES and each.grantees]


def foreign_owners(catalog: Catalog, application: str) -> list[tuple[str, str]]:
    """Return those of PostgreSQL's own databases that are not the superuser's, with their owners.

    The owner of template1 or template0 may drop it.
    """
    return sorted(
        (row["datname"], catalog.roles.get(row["datdba"], "?"))
        for row in catalog.rows["pg_database"]
        if row["datname"] in SYSTEM_DATABASES
        and row["datname"] != application
        and row["datdba"] != str(SUPERUSER_OID)
    )


def _number(catalog: Catalog, name: str) -> str:
    """Return the number of a role; empty without one."""
    return next((oid for oid, each in catalog.roles.items() if each == name), "")


def of_databases(catalog: Catalog, application: str) -> list[str]:
    """Return from where else the application's database may be dropped, a sentence each.

    A deploy closes PostgreSQL's own databases to the application's role. Others are an operator's.
    """
    role = _number(catalog, application)
    if not role or role in catalog.superusers:
        return []
    own, owner = printable(application), catalog.roles.get(str(SUPERUSER_OID), "postgres")
    found: list[str] = []
    databases = set()
    for each in openings(catalog, role, application):
        databases.add(each.database)
        if each.database not in SYSTEM_DATABASES:
            found.append(
                f"the role {own} may connect to the database {printable(each.database)}, and can"
                f" drop its own from there. If that is not yours: {_remedy(each, owner)}"
            )
    above = roles_above(catalog, role)
    for row in sorted(catalog.rows["pg_authid"], key=lambda row: row["rolname"]):
        number, name = row["oid"], row["rolname"]
        if builtin(number) or number in catalog.superusers or number == role:
            continue
        below = role in roles_above(catalog, number)
        word = "may act as" if below else "is one that may be taken by"
        if row["rolcreatedb"] == "t" and (below or number in above):
            found.append(
                f"the role {printable(name)} has CREATEDB and {word} the role {own}: in a database"
                f" that it makes, the database {own} can be dropped. If that is not yours: ALTER"
                f" ROLE {sql_identifier(name)} NOCREATEDB"
            )
        if below and row["rolcanlogin"] == "t":
            found += [
                f"the role {printable(name)} may act as the role {own} and connects to the database"
                f" {printable(each.database)}: from there it can drop the database {own}. If that"
                f" is not yours: {_remedy(each, owner)}"
                for each in openings(catalog, number, application)
                if each.database not in databases
            ]
    return found


def of_members(catalog: Catalog, application: str) -> list[str]:
    """Return the roles that log in and share rights with the application's, a sentence each.

    Whoever had a superuser's rights once, or CREATEROLE, can have made one to come back with: it
    has a password of its own, which no change of the application's touches.
    """
    role = _number(catalog, application)
    if not role or role in catalog.superusers:
        return []
    own, above = printable(application), roles_above(catalog, role)
    found = []
    for row in sorted(catalog.rows["pg_authid"], key=lambda row: row["rolname"]):
        number, name = row["oid"], printable(row["rolname"])
        if row["rolcanlogin"] != "t" or number in {role, *catalog.superusers} or builtin(number):
            continue
        if role in roles_above(catalog, number):
            what = f"is a member of the role {own}: it may do what the application may"
        elif number in above:
            what = f"has the role {own} as a member, which may act as it"
        else:
            continue
        found.append(
            f"the role {name} logs in by itself and {what}. A change of postgres_password does not"
            f" keep it out. If it is not yours: ALTER ROLE {sql_identifier(row['rolname'])} NOLOGIN"
        )
    return found


def _remedy(opening: Opening, superuser: str) -> str:
    """Return the statements that close a database, in one line that can be pasted."""
    statements = opening.revoke(sql_identifier)
    if opening.owner:
        database = sql_identifier(opening.database)
        statements.insert(0, f"ALTER DATABASE {database} OWNER TO {sql_identifier(superuser)};")
    return " ".join(statements).rstrip(";")
