"""Head of the application's migrations, asked in its own role, or read by the superuser.

Needs nothing but Python: the timer on a server runs it without Ansible.
"""

from __future__ import annotations

import json

from ...docker.exec import Docker
from ..manifest import BackupError, NoConnectionError
from .postgres_sql import ASK_APPLICATION, HEADS
from .psql import Session, postgres_session, unescape

HEAD_SECONDS = 60
MOST_HEADS = 1000
# COPY runs no code of the application and refuses a view. The tables are where the tools of
# migrations make them by default; the superuser has no search_path of the application.
_TABLES = {
    "alembic_version": "COPY public.alembic_version (version_num) TO STDOUT",
    "django_migrations": "COPY public.django_migrations (app, name) TO STDOUT",
}


def migration_heads(
    docker: Docker, container: str, session: Session, name: str = "", snapshot: str = ""
) -> list[str]:
    """Return what is applied of the migrations, as the application's role tells it.

    Where that role gets no connection, because something holds all of them, the superuser's
    session reads the tables: a backup must be possible then, too.

    Args:
        docker: the Docker client.
        container: the one of PostgreSQL.
        session: the superuser's, in a transaction.
        name: what PostgreSQL knows the role's session by.
        snapshot: of the superuser's transaction; empty for one of the role's own.

    Raises:
        BackupError: neither could tell.
    """
    try:
        return _ask_application(docker, container, name, snapshot)
    except NoConnectionError:
        heads = _read(session)
        if heads is None:
            raise
        return heads


def _ask_application(docker: Docker, container: str, name: str, snapshot: str) -> list[str]:
    with postgres_session(docker, container, name, ASK_APPLICATION) as session:
        session.ask(f"SET statement_timeout = '{HEAD_SECONDS}s'")
        session.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if snapshot:
            session.ask(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
        lines: list[str] = []
        for table, statement in HEADS.items():
            known = f"SELECT pg_catalog.to_regclass('{table}') IS NOT NULL"
            if session.ask(known) == ["t"]:
                lines = session.ask(statement)
                break
    try:
        return [str(json.loads(line)) for line in lines if line]
    except ValueError as error:
        raise BackupError(f"The head of the migrations cannot be read: {error}") from error


def _read(session: Session) -> list[str] | None:
    """Return the heads as the superuser reads them; None where the schema public has no table."""
    for table, statement in _TABLES.items():
        known = f"SELECT pg_catalog.to_regclass('public.{table}') IS NOT NULL"
        if session.ask(known) == ["t"]:
            rows = [[unescape(cell) for cell in row.split("\t")] for row in session.ask(statement)]
            if table == "django_migrations":
                newest: dict[str, str] = {}
                for app, migration in rows:
                    newest[app] = max(newest.get(app, ""), migration)
                rows = [[f"{app}.{migration}"] for app, migration in newest.items()]
            return sorted(row[0][:600] for row in rows)[:MOST_HEADS]
    return None
