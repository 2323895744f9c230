"""Roles of a stack's PostgreSQL: a superuser, and the application's, which has no powers.

The official image makes ``POSTGRES_USER`` the bootstrap superuser, and PostgreSQL lets nobody take
that from it. Until this edition it was the application's role. Such a stack is moved once: its
objects go to a new role, a few at a time, while the old one still may everything; then one
transaction gives the superuser another name and the new role the old one. Sessions that are open
keep the superuser; whoever connects afterwards, with the same name and password, has the new role.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..backup.backends.postgres_locks import end_statements, tell_sessions
from ..backup.backends.postgres_sql import (
    ASK_POSTGRES,
    AWAITED,
    END_SESSIONS,
    FIND_SUPERUSER,
    MAKE_TEMPLATE,
    RESTORE_CLEANUP,
    SET_NO_TIMEOUT,
)
from ..backup.backends.psql import postgres_session, unescape
from ..backup.manifest import BackupError
from ..docker.exec import Docker
from ..text import printable
from .catalog import identifier, read_catalog
from .cluster_dangers import of_cluster
from .comparison import compared, of_files
from .connections import of_databases
from .dangers import MOST_DATABASES, of_roles, shorten
from .fresh_cluster import Fresh, key_of
from .measure import measure
from .planted import of_superusers
from .role_plan import FORBIDDEN, free_name, plan
from .role_state import SUFFIX, State, read_state
from .roles_sql import (
    _EXTENSION_SCHEMA,
    BLOCKERS,
    CARRY,
    DROP_CARRIED,
    FLIP,
    OBJECTS,
    OPEN_OTHERS,
    TRANSFER,
)
from .scram import VERIFIERS, matches, scram_verifier

# Its comment, by which it is known from a role of the operator's that has the same name.
HOLDER = "crisper: takes the application's place"
# Names that CREATE EXTENSION takes.
EXTENSION = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}\Z")
# Longest that a request waits behind a change of owner that cannot have its lock yet.
LOCK_MILLISECONDS = 500
# For so long a change that had to wait is made again, to see whom it waits for.
WATCHED_SECONDS = 3
LOCKED = "ERROR:  55P03:"


def literal(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


class Roles:
    """The roles of the PostgreSQL in a container.

    Args:
        application: name of the application's role and database.
        wait: seconds to wait for locks that running transactions hold.
    """

    def __init__(self, docker: Docker, container: str, application: str, wait: int = 60) -> None:
        self.docker, self.container, self.application = docker, container, application
        self.wait = wait

    def sql(self, script: str, what: str, database: str = "", **settings: str) -> str:
        """Return the output of statements that the superuser runs; no password gets logged.

        Raises:
            BackupError: one of them failed.
        """
        lines = [
            "SET log_statement = 'none'; SET log_min_duration_statement = -1;"
            " SET log_min_error_statement = panic; SET client_min_messages = error;"
            f" SET lock_timeout = '{LOCK_MILLISECONDS}ms'; SET statement_timeout = 0;"
            " SET idle_in_transaction_session_timeout = 0;",
            "\\o /dev/null",
        ]
        for name, value in settings.items():
            lines.append(
                f"SELECT set_config('crisper.{name}'::text, {literal(value)}::text, false);"
            )
        text = "\n".join([*lines, "\\o", script, ""])
        command = FIND_SUPERUSER + (
            " exec env PGCLIENTENCODING=UTF8 psql --quiet --no-psqlrc --tuples-only --no-align"
            ' --username "$superuser"'
            ' --dbname "${IN_DATABASE:-$POSTGRES_DB}" --set ON_ERROR_STOP=1'
            f" --set VERBOSITY=verbose {SET_NO_TIMEOUT} --file -"
        )
        words = self.docker.inside(self.container, command, IN_DATABASE=database)
        try:
            return self.docker.answer(what, words, text.encode())
        except BackupError as error:
            raise BackupError(VERIFIERS.sub("…", str(error))) from None

    def state(self) -> State:
        """Return what there is.

        Raises:
            BackupError: PostgreSQL does not answer.
        """
        self.catalog = read_catalog(self.docker, self.container, self.application)
        told = self.sql(OBJECTS, "PostgreSQL's roles were not told")
        return read_state(self.catalog, self.application, len(told.splitlines()))

    def find_dangers(self, state: State, folder: Path | None, project: str = "") -> list[str]:
        """Return what would give an attacker in the application a superuser's rights.

        A sentence each, with its remedy. Operators make such things, too: nothing of it is
        removed. What cannot be compared is told, and fails nothing.

        Args:
            state: what :meth:`state` has returned last.
            folder: where the measure of a new cluster is kept; None keeps nothing.
            project: Compose project, for the name of the container that is thrown away.
        """
        catalogs, apart = [self.catalog], []
        for row in self.catalog.rows["pg_database"]:
            name = row["datname"]
            if row["datallowconn"] == "t" and name != self.application:
                if len(catalogs) == MOST_DATABASES:
                    apart.append(f"the database {printable(name)} was not looked at")
                    continue
                try:
                    catalogs.append(read_catalog(self.docker, self.container, name))
                except BackupError as error:
                    apart.append(
                        f"the database {printable(name)} was not looked at: {printable(str(error))}"
                    )
        moved = (self.application, *state.databases) if state.unmoved else ()
        planted = [of_superusers(each, each.database in moved) for each in catalogs]
        cluster = of_cluster(self.catalog, self.application)
        databases = of_databases(self.catalog, self.application)
        kinds = [of_roles(state), cluster, databases, *planted]
        try:
            fresh = Fresh(self.docker, self.container, project or self.application, folder)
            measures = fresh.measures(each.extensions() for each in catalogs)
            for each in catalogs:
                wanted = measures[key_of(each.extensions())]
                kinds.append(compared(each, measure(each), wanted["measure"], wanted["unknown"]))
                apart += [
                    f"the extension {printable(name)} in the database {printable(each.database)}"
                    " was not compared: the image does not make it in that version"
                    for name in wanted["unknown"]
                ]
            kinds.append(of_files(self.catalog, wanted["hba"], wanted["roles"]))
        except BackupError as error:
            apart.append(f"PostgreSQL was not compared with a new cluster: {printable(str(error))}")
        return shorten(kinds) + apart

    def apply(self, password: str, own: str, extensions: Sequence[str]) -> dict[str, Any]:
        """Make all as it has to be.

        Args:
            password: the superuser's.
            own: the application's, for a role that has none yet.
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
                holders = self.docker.text(
                    "PostgreSQL did not answer",
                    self.docker.inside(self.container, f'{ASK_POSTGRES} --command "{BLOCKERS}"'),
                )
                sessions = printable("; ".join(holders.splitlines())) or "a session"
                return {
                    "moved": False,
                    "done": [],
                    "postponed": f"{sessions} holds a lock"
                    f" ({printable(' '.join(str(error).split())[-200:])})",
                }
            result["moved"] = True
            state = self.state()
        rest = plan(state, password, extensions)
        if rest:
            self.ensure(state, password, own, extensions)
            result["done"] += rest
        return result

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
        self.sql(f"{begin} GRANT {name} TO {target};", "The application's role was not made")
        what = "The objects of the application were not given to its role"
        settings = {"target": holder, "wait": f"{self.wait} s"}
        for database in ("", *state.databases):
            self.sql(TRANSFER + OPEN_OTHERS + CARRY, what, database, **settings)
            own = identifier(database or state.application)
            self.sql(f"ALTER DATABASE {own} OWNER TO {target};", what)
        what = "The application's role was not exchanged, and is as it was"
        settings |= {"superuser": superuser, "verifier": scram_verifier(password)}
        for attempt in range(10):
            try:
                self.sql(FLIP, what, **settings)
                return
            except BackupError as error:
                if LOCKED not in str(error) or attempt == 9:
                    raise

    def ensure(self, state: State, password: str, own: str, extensions: Sequence[str]) -> None:
        """Bring a stack whose superuser is a role of its own to what :func:`plan` says."""
        name, superuser = identifier(state.application), identifier(state.superuser)
        lines = []
        if not state.role:
            lines.append(f"CREATE ROLE {name};")
        wanted = " ".join(f"NO{word}" for word in FORBIDDEN)
        lines.append(f"ALTER ROLE {name} LOGIN INHERIT {wanted};")
        lines += [f"REVOKE {identifier(each)} FROM {name};" for each in state.memberships]
        if not state.role.get("password"):
            lines.append(f"ALTER ROLE {name} PASSWORD {literal(scram_verifier(own))};")
        if not matches(password, state.superuser_verifier):
            lines.append(f"ALTER ROLE {superuser} PASSWORD {literal(scram_verifier(password))};")
        if state.database_owner != state.application:
            lines.append(f"ALTER DATABASE {name} OWNER TO {name};")
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
        what = "The roles of PostgreSQL were not put in order"
        self.watched("\n".join(["BEGIN;", *lines, "COMMIT;"]), what)
        # Whoever is connected keeps the session, whatever rights are taken.
        if closed := [each.database for each in state.connectable] + [
            database for database, _owner in state.foreign_owners
        ]:
            of = ", ".join(f"{literal(each)}::name" for each in sorted(set(closed)))
            its = f"usename = {literal(state.application)}::name"
            self.sql(f"{END_SESSIONS} datname IN ({of}) AND {its};", what)
        if state.no_template:
            self.sql(MAKE_TEMPLATE, what)
        if state.objects or state.default_privileges:
            settings = {"target": state.application, "wait": f"{self.wait} s"}
            self.watched(TRANSFER + CARRY + DROP_CARRIED, what, **settings)
        for each in extensions:
            if each not in state.extensions:
                self.create_extension(each)

    def watched(self, script: str, what: str, **settings: str) -> None:
        """Run statements as :meth:`sql`; who keeps a lock from them is named.

        No session is ended: one that holds such a lock may be a migration of the application's.

        Raises:
            BackupError: one of them failed.
        """
        try:
            self.sql(script, what, **settings)
            return
        except BackupError as error:
            if LOCKED not in str(error):
                raise
        # Again, and watched: whom a statement waits for is known while it waits.
        name = f"crisper-roles-{os.urandom(8).hex()}"
        failed: list[BackupError] = []
        again = f"SET application_name = {literal(name)};\n{script}"
        if "wait" in settings:
            settings["wait"] = f"{WATCHED_SECONDS} s"
        else:  # nothing of the application's queues behind a lock on its role
            again = f"SET lock_timeout = '{WATCHED_SECONDS}s';\n{again}"

        def run() -> None:
            try:
                self.sql(again, what, **settings)
            except BackupError as error:
                failed.append(error)

        found: list[list[str]] = []
        waiter = threading.Thread(target=run)
        with postgres_session(self.docker, self.container) as session:
            waiter.start()
            while waiter.is_alive() and not found:
                lines = session.ask(AWAITED.format(name))
                found = [[unescape(value) for value in line.split("\t")] for line in lines]
                waiter.join(0.1)
        waiter.join()
        if not failed:
            return
        if LOCKED not in str(failed[0]) or not found:
            raise failed[0]
        raise BackupError(
            f"{failed[0]}. It waits for{tell_sessions(found)} If that is a migration, wait for its"
            f" end; else end it as superuser ({end_statements(found)}), and deploy again"
        ) from failed[0]

    def create_extension(self, name: str) -> None:
        """Make an extension, which belongs to the superuser then."""
        try:
            free = self.sql(f"{_EXTENSION_SCHEMA}{literal(name)};", "PostgreSQL did not answer")
            schema = " WITH SCHEMA public" if free == "1" else ""
            make = f"CREATE EXTENSION IF NOT EXISTS {identifier(name)}{schema};"
            self.sql(make, "PostgreSQL refused")
        except BackupError as error:
            raise BackupError(
                f"database_extensions names {name!r}, and the extension was not made: {error}."
                " Take an image of PostgreSQL that has it (image_refs.postgres), or remove the"
                " name from database_extensions."
            ) from error
