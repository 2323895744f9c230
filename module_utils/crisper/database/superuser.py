"""Statements that the superuser of a stack's PostgreSQL runs, and who keeps a lock from them."""

from __future__ import annotations

import os
import threading

from ..backup.backends.postgres_locks import end_statements, tell_sessions
from ..backup.backends.postgres_sql import AWAITED, FIND_SUPERUSER, SET_NO_TIMEOUT
from ..backup.backends.psql import postgres_session, unescape
from ..backup.manifest import BackupError, NoConnectionError
from ..docker.exec import Docker
from .catalog import literal
from .scram import VERIFIERS

# Longest that a request waits behind a change of owner that cannot have its lock yet.
LOCK_MILLISECONDS = 500
# For so long a change that had to wait is made again, to see whom it waits for.
WATCHED_SECONDS = 3
LOCKED = "ERROR:  55P03:"


class Superuser:
    """The superuser of the PostgreSQL in a container."""

    def __init__(self, docker: Docker, container: str) -> None:
        self.docker, self.container = docker, container

    def run(self, script: str, what: str, database: str = "", **settings: str) -> str:
        """Return the output of statements; no password gets logged.

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
        except NoConnectionError:
            raise  # before any statement
        except BackupError as error:
            raise BackupError(VERIFIERS.sub("…", str(error))) from None

    def run_watched(self, script: str, what: str, **settings: str) -> None:
        """Run statements as :meth:`run`; who keeps a lock from them is named.

        No session is ended: one that holds such a lock may be a migration of the application's.

        Raises:
            BackupError: one of them failed.
        """
        try:
            self.run(script, what, **settings)
            return
        except BackupError as error:
            if LOCKED not in str(error):
                raise
        # Again, and watched: whom a statement waits for is known while it waits.
        name = f"crisper-roles-{os.urandom(8).hex()}"
        again = f"SET application_name = {literal(name)};\n{script}"
        if "wait" in settings:
            settings["wait"] = f"{WATCHED_SECONDS} s"
        else:  # nothing of the application's queues behind a lock on its role
            again = f"SET lock_timeout = '{WATCHED_SECONDS}s';\n{again}"
        failure, holders = self._run_beside_a_look(name, again, what, settings)
        if not failure:
            return
        if LOCKED not in str(failure) or not holders:
            raise failure
        raise BackupError(
            f"{failure}. It waits for{tell_sessions(holders)} If that is a migration, wait for its"
            f" end; else end it as superuser ({end_statements(holders)}), and deploy again"
        ) from failure

    def _run_beside_a_look(
        self, name: str, script: str, what: str, settings: dict[str, str]
    ) -> tuple[BackupError | None, list[list[str]]]:
        """Return why statements failed, if they did, and which sessions they have waited for.

        Args:
            name: that of the session that runs them.
        """
        failures: list[BackupError] = []

        def run() -> None:
            try:
                self.run(script, what, **settings)
            except BackupError as error:
                failures.append(error)

        holders: list[list[str]] = []
        waiter = threading.Thread(target=run)
        with postgres_session(self.docker, self.container) as session:
            waiter.start()
            while waiter.is_alive() and not holders:
                lines = session.ask(AWAITED.format(name))
                holders = [[unescape(value) for value in line.split("\t")] for line in lines]
                waiter.join(0.1)
        waiter.join()
        return (failures[0] if failures else None), holders
