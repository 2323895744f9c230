"""Roles of a stack's PostgreSQL: a superuser, and the application's, which has no powers.

The official image makes ``POSTGRES_USER`` the bootstrap superuser, and PostgreSQL lets nobody take
that from it. Until this edition it was the application's role. Such a stack is moved once: its
objects go to a new role, a few at a time, while the old one still may everything; then one
transaction gives the superuser another name and the new role the old one. Sessions that are open
keep the superuser; whoever connects afterwards, with the same name and password, has the new role.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ..backup.backends.postgres_sql import ASK_POSTGRES, END_SESSIONS, MAKE_TEMPLATE
from ..backup.manifest import BackupError, NoConnectionError
from ..docker.exec import Docker
from ..text import printable
from .catalog import Catalog, identifier, literal, read_catalog
from .role_plan import ensure_statements, free_name, plan
from .role_state import SUFFIX, State, read_state
from .roles_sql import (
    BLOCKERS,
    CARRY,
    DROP_CARRIED,
    EXTENSION_SCHEMA,
    FLIP,
    OBJECTS,
    OPEN_OTHERS,
    TRANSFER,
)
from .scram import scram_verifier
from .superuser import LOCKED, Superuser

# Its comment, by which it is known from a role of the operator's that has the same name.
HOLDER = "crisper: takes the application's place"
# Names that CREATE EXTENSION takes.
EXTENSION = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}\Z")


def refuse_extensions(names: Iterable[str]) -> None:
    """Refuse names that CREATE EXTENSION does not take.

    Raises:
        BackupError: there is such a name.
    """
    for name in names:
        if not EXTENSION.match(name):
            raise BackupError(
                f"database_extensions names {name!r}: give names of extensions of PostgreSQL"
                " (letters, digits, '_' and '-')"
            )


class Roles:
    """The roles of the PostgreSQL in a container.

    Args:
        application: name of the application's role and database.
        wait: seconds to wait for locks that running transactions hold.
    """

    catalog: Catalog  # what :meth:`state` has read last

    def __init__(self, docker: Docker, container: str, application: str, wait: int = 60) -> None:
        self.docker, self.container, self.application = docker, container, application
        self.wait = wait
        self.superuser = Superuser(docker, container)

    def state(self) -> State:
        """Return the roles and what they own; :attr:`catalog` is that of the same moment.

        Raises:
            BackupError: PostgreSQL does not answer.
        """
        self.catalog = read_catalog(self.docker, self.container, self.application)
        objects = self.superuser.run(OBJECTS, "PostgreSQL's roles were not told")
        return read_state(self.catalog, self.application, len(objects.splitlines()))

    def apply(self, password: str, own: str, extensions: Sequence[str]) -> dict[str, Any]:
        """Make all as it has to be.

        Args:
            password: the superuser's.
            own: the application's; empty where it is not known.
            extensions: those that the database must have.

        Returns:
            ``{moved, done, postponed}``: whether the stack was moved, sentences on what was done,
            and why the move has to wait, or nothing.

        Raises:
            BackupError: it failed; the next call goes on.
        """
        state = self.state()
        result: dict[str, Any] = {"moved": False, "done": [], "postponed": ""}
        if state.unmoved:
            result["done"] = plan(state, password, extensions)
            try:
                self.move(state, password)
            except BackupError as error:
                if LOCKED not in str(error):
                    raise
                return {"moved": False, "done": [], "postponed": self.describe_lock(error)}
            result["moved"] = True
            state = self.state()
        rest = plan(state, password, extensions, own)
        if rest:
            self.ensure(state, password, own, extensions)
            result["done"] += rest
        return result

    def describe_lock(self, error: BackupError) -> str:
        """Return which sessions keep the move from its locks, in words.

        Raises:
            BackupError: PostgreSQL does not answer.
        """
        holders = self.docker.text(
            "PostgreSQL did not answer",
            self.docker.inside(self.container, f'{ASK_POSTGRES} --command "{BLOCKERS}"'),
        )
        sessions = printable("; ".join(holders.splitlines())) or "a session"
        return f"{sessions} holds a lock ({printable(' '.join(str(error).split())[-200:])})"

    def move(self, state: State, password: str) -> None:
        """Give the application's role, which is the bootstrap superuser, another place.

        Killed at any point, the next call goes on: until the last transaction the application's
        role is what it was.
        """
        name, holder = identifier(state.application), f"{state.application}{SUFFIX}"
        superuser = free_name(state)
        target = identifier(holder)
        if holder in state.roles and state.holder != HOLDER:
            raise BackupError(
                f"PostgreSQL has a role {holder}, which the move needs: rename it"
                f" (ALTER ROLE {target} RENAME TO …) and deploy again. Nothing was changed"
            )
        make = f"CREATE ROLE {target} NOLOGIN; COMMENT ON ROLE {target} IS {literal(HOLDER)};"
        begin = "" if holder in state.roles else f"BEGIN; {make} COMMIT;"
        # What it owns already must reach what it does not own yet: views, keys, functions.
        self.superuser.run(
            f"{begin} GRANT {name} TO {target};", "The application's role was not made"
        )
        what = "The objects of the application were not given to its role"
        settings = {"target": holder, "wait": f"{self.wait} s"}
        for database in ("", *state.databases):
            self.superuser.run(TRANSFER + OPEN_OTHERS + CARRY, what, database, **settings)
            own = identifier(database or state.application)
            self.superuser.run(f"ALTER DATABASE {own} OWNER TO {target};", what)
        what = "The application's role was not exchanged, and is as it was"
        settings |= {"superuser": superuser, "verifier": scram_verifier(password)}
        for attempt in range(10):
            try:
                self.superuser.run(FLIP, what, **settings)
                return
            except BackupError as error:
                if LOCKED not in str(error) or attempt == 9:
                    raise

    def ensure(self, state: State, password: str, own: str, extensions: Sequence[str]) -> None:
        """Bring a stack whose superuser is a role of its own to what :func:`plan` says."""
        lines = ensure_statements(state, password, own)
        what = "The roles of PostgreSQL were not put in order"
        self.superuser.run_watched("\n".join(["BEGIN;", *lines, "COMMIT;"]), what)
        # Whoever is connected keeps the session, whatever rights are taken.
        if closed := [each.database for each in state.connectable] + [
            database for database, _owner in state.foreign_owners
        ]:
            of = ", ".join(f"{literal(each)}::name" for each in sorted(set(closed)))
            its = f"usename = {literal(state.application)}::name"
            self.superuser.run(f"{END_SESSIONS} datname IN ({of}) AND {its};", what)
        if state.no_template:
            self.superuser.run(MAKE_TEMPLATE, what)
        if state.objects or state.default_privileges:
            settings = {"target": state.application, "wait": f"{self.wait} s"}
            self.superuser.run_watched(TRANSFER + CARRY + DROP_CARRIED, what, **settings)
        for each in extensions:
            if each not in state.extensions:
                self.create_extension(each)

    def create_extension(self, name: str) -> None:
        """Make an extension, which belongs to the superuser then."""
        try:
            free = self.superuser.run(
                f"{EXTENSION_SCHEMA}{literal(name)};", "PostgreSQL did not answer"
            )
            schema = " WITH SCHEMA public" if free == "1" else ""
            make = f"CREATE EXTENSION IF NOT EXISTS {identifier(name)}{schema};"
            self.superuser.run(make, "PostgreSQL refused")
        except NoConnectionError:
            raise
        except BackupError as error:
            raise BackupError(
                f"database_extensions names {name!r}, and the extension was not made: {error}."
                " Take an image of PostgreSQL that has it (image_refs.postgres), or remove the"
                " name from database_extensions."
            ) from error
