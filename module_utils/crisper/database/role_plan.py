"""Plan and statements of what has to be done so that the application's role has no powers."""

from __future__ import annotations

from collections.abc import Iterable

from ..backup.backends.postgres_sql import RESTORE_CLEANUP
from ..backup.manifest import BackupError
from ..text import printable
from .catalog import identifier, literal
from .role_state import State
from .scram import matches, scram_verifier

SUPERUSER = "postgres"
FORBIDDEN = ("SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS")


def free_name(state: State) -> str:
    """Return the name that the superuser gets: one that no role has."""
    for name in (SUPERUSER, f"{state.application}_superuser", f"{state.application}_superuser_2"):
        if name not in state.roles:
            return name
    raise BackupError(
        f"PostgreSQL has roles {SUPERUSER} and {state.application}_superuser already, and the"
        " superuser needs a name of its own: drop or rename one of them. Nothing was changed."
    )


def plan(state: State, password: str, extensions: Iterable[str], own: str = "") -> list[str]:
    """Return what has to be done, a sentence each; nothing when all is as wanted.

    Args:
        password: the superuser's.
        extensions: those that the database must have.
        own: the application's password; empty where it is not known.
    """
    name = state.application
    if state.unmoved:
        return [
            f"once: PostgreSQL's role {name} is superuser; a new superuser role {free_name(state)}"
            f" takes that over, {name} keeps its password and owns its database and {state.objects}"
            " objects. Sessions stay open; a table is locked for an instant."
        ]
    return [
        *_plan_role(state, own),
        *_plan_objects(state, password, extensions),
        *_plan_databases(state),
    ]


def is_locked_out(state: State, own: str) -> bool:
    """Return whether the role of the application has another password than the application."""
    return bool(own and state.verifier) and not matches(own, state.verifier, state.application)


def _plan_role(state: State, own: str) -> list[str]:
    name, found = state.application, []
    if not state.role:
        found.append(f"the role {name} is made, without powers")
    if extra := [word for word in FORBIDDEN if state.role.get(word)]:
        found.append(f"the role {name} loses {', '.join(extra)}")
    if state.memberships:
        found.append(f"the role {name} leaves {', '.join(state.memberships)}")
    if state.role and not state.role.get("login"):
        found.append(f"the role {name} may log in")
    if state.role and not state.role.get("password"):
        found.append(f"the role {name} gets its password")
    if is_locked_out(state, own):
        found.append(
            f"the role {name} gets the password postgres_password of stack_secrets again (it had"
            " another one, which the role can give itself)"
        )
    if state.shut_out:
        found.append(f"the role {name} may connect to its database and make schemas there again")
    found += [
        f"{each.name} is no longer {printable(each.value)!r} for sessions of the application, with"
        " which it cannot work"
        for each in state.hindering
    ]
    return found


def _plan_objects(state: State, password: str, extensions: Iterable[str]) -> list[str]:
    name, found = state.application, []
    if state.database_owner != name:
        found.append(f"the database {name} belongs to the role {name}")
    if state.public_owner == state.superuser:
        found.append("the schema public belongs to the owner of the database")
    if state.objects or state.default_privileges:
        found.append(f"{state.objects} objects of {state.superuser} belong to {name}")
    if not matches(password, state.superuser_verifier):
        found.append(f"the role {state.superuser} gets its password")
    if missing := [each for each in extensions if each not in state.extensions]:
        found.append(f"extensions are made: {', '.join(missing)}")
    return found


def _plan_databases(state: State) -> list[str]:
    name = state.application
    found = [
        f"the database {printable(database)} belongs to {state.superuser} again, and not to"
        f" {printable(owner)} (its owner may drop it)"
        for database, owner in state.foreign_owners
    ]
    if everybody := [each.database for each in state.connectable if {"", name} & {*each.grantees}]:
        found.append(
            f"nobody but superusers connects to {' and '.join(everybody)} (from there the"
            f" role {name} could drop its database); a role that has to: GRANT CONNECT"
        )
    for each in state.connectable:
        if members := [grantee for grantee in each.grantees if grantee not in ("", name)]:
            found.append(
                f"the role {printable(', '.join(members))}, which {name} is a member of, connects"
                f" to {each.database} no more (from there {name} could drop its database)"
            )
    if state.no_template:
        found.append("the database template1, which is missing, is made again from template0")
    if state.limited:
        found.append(
            f"the database {name} has no limit of connections any more (its owner can set one, and"
            " keep a deploy out)"
        )
    if state.template:
        found.append(f"the database {name} is no template any more")
    if state.restore:
        found.append("what a restore that was killed left is removed")
    return found


def ensure_statements(state: State, password: str, own: str) -> list[str]:
    """Return the statements of one transaction that does what :func:`plan` says of roles.

    Args:
        state: of a stack whose superuser is a role of its own.
        password: the superuser's.
        own: the application's, for a role that has none yet, or another one.
    """
    name, superuser = identifier(state.application), identifier(state.superuser)
    lines = []
    if not state.role:
        lines.append(f"CREATE ROLE {name};")
    wanted = " ".join(f"NO{word}" for word in FORBIDDEN)
    lines.append(f"ALTER ROLE {name} LOGIN INHERIT {wanted};")
    lines += [f"REVOKE {identifier(each)} FROM {name};" for each in state.memberships]
    if not state.role.get("password") or is_locked_out(state, own):
        lines.append(f"ALTER ROLE {name} PASSWORD {literal(scram_verifier(own))};")
    if not matches(password, state.superuser_verifier):
        lines.append(f"ALTER ROLE {superuser} PASSWORD {literal(scram_verifier(password))};")
    if state.database_owner != state.application:
        lines.append(f"ALTER DATABASE {name} OWNER TO {name};")
    if state.shut_out:
        lines.append(f"GRANT ALL ON DATABASE {name} TO {name};")
    lines += [each.reset for each in state.hindering]
    if state.public_owner == state.superuser:
        lines.append("ALTER SCHEMA public OWNER TO pg_database_owner;")
    lines += [
        f"ALTER DATABASE {identifier(database)} OWNER TO {superuser};"
        for database, _owner in state.foreign_owners
    ]
    lines += [line for each in state.connectable for line in each.revoke()]
    if state.limited:
        lines.append(f"ALTER DATABASE {name} CONNECTION LIMIT -1;")
    if state.template:
        lines.append(f"ALTER DATABASE {name} IS_TEMPLATE false;")
    if state.restore:
        lines.append(RESTORE_CLEANUP)
    return lines
