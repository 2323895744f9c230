"""PostgreSQL: its state, a dump of it, and a restore that is whole or changes nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import IO, Any, cast

from ...docker.exec import Docker
from ...text import printable
from ..manifest import BackupError
from . import postgres_contents as contents
from .postgres_extensions import (
    Rows,
    allowed_extensions,
    find_hidden,
    find_misplaced,
    one_of,
    refuse_hidden,
    refuse_misplaced,
    trusted_extensions,
)
from .postgres_heads import migration_heads
from .postgres_locks import lock_seconds, name_lock_holders
from .postgres_rows import count_tables
from .postgres_sql import (
    ASK_TEMPLATE,
    AVAILABLE,
    DATABASE,
    DUMP_POSTGRES,
    EXTENSIONS,
    FUNCTION_PLACES,
    MAKE_DATABASE,
    MAKE_TEMPLATE,
    MEMBERS,
    NAME,
    PLACES,
    RELATION_PLACES,
    RELATIONS,
    RESTORE_POSTGRES,
    ROLES,
    SCHEMA_OWNERS,
    SCHEMAS,
)
from .psql import Session, named, postgres_session, unescape
from .remedies import DROP_DATABASE
from .versions import service_version

NEEDS_SUPERUSER = re.compile("permission denied|must be (superuser|owner)|[Mm]ust have")
_LOCKS = re.compile("ERROR: +out of shared memory")
# A client was let in by nobody: nothing of the dump was run.
_REFUSED_LOGIN = re.compile(r"psql: error: [^\n]*FATAL:")


def postgres_state(docker: Docker, container: str) -> dict[str, Any]:
    """Return ``{rows: {table: count}, migration_head: [...]}`` of a database."""
    with name_lock_holders(docker, container), postgres_session(docker, container) as session:
        session.ask(f"SET lock_timeout = '{lock_seconds(docker)}s'")
        session.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        rows = count_tables(session).rows()
        head = migration_heads(docker, container, session)
    return {"rows": rows, "migration_head": head}


def dump_postgres(
    docker: Docker, container: str, target: IO[bytes], name: str = ""
) -> dict[str, Any]:
    """Dump the database; what is told of it was counted in the dump's own snapshot.

    `name` is what PostgreSQL knows its sessions by.
    """
    rows: dict[str, int] = {}
    head: list[str] = []
    extensions: list[str] = []
    with (
        name_lock_holders(docker, container),
        postgres_session(docker, container, name) as session,
    ):
        session.ask(f"SET lock_timeout = '{lock_seconds(docker)}s'")
        session.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot = "".join(session.ask("SELECT pg_export_snapshot()"))
        if snapshot:  # else the session has ended, and tells why when it is left
            answers = _extensions(session)
            extensions, hidden = find_hidden(*answers)
            refuse_misplaced(_misplaced(session, answers[1]))
            refuse_hidden(
                (kind, unescape("".join(session.ask(NAME.format(number)))), of)
                for kind, number, of in hidden
            )
            excluded = " ".join(f"--exclude-schema={each}" for each in _helpers(session))
            environment = {"SNAPSHOT": snapshot, "EXCLUDED": excluded, **named(name)}
            dumped = _dump(docker, container, target, environment)
            tables = count_tables(session)
            contents.refuse_missing(contents.find_missing(tables, dumped, *answers))
            rows = tables.rows()
            head = migration_heads(docker, container, session, name, snapshot)
    return {"rows": rows, "migration_head": head, "extensions": extensions}


def _helpers(session: Session) -> list[str]:
    """Return the schemas of restores, which no dump takes along."""
    questions = (SCHEMA_OWNERS, RELATION_PLACES, FUNCTION_PLACES)
    return contents.find_helpers(*_answers(session, *questions))


def _dump(
    docker: Docker, container: str, target: IO[bytes], environment: Mapping[str, str]
) -> set[str]:
    """Write a dump; return the numbers of the tables whose rows it has."""
    wait = f"{lock_seconds(docker)}s"
    command = docker.inside(container, DUMP_POSTGRES, LOCK_WAIT=wait, **environment)
    dumped: set[str] = set()
    with contents.listed(docker, container, target, dumped) as stream:
        docker.out_of("PostgreSQL was not dumped", command, stream)
    return dumped


def _extensions(session: Session) -> list[list[list[str]]]:
    """Return the rows of EXTENSIONS, AVAILABLE, MEMBERS, RELATIONS and ROLES."""
    return _answers(session, EXTENSIONS, AVAILABLE, MEMBERS, RELATIONS, ROLES)


def _answers(session: Session, *questions: str) -> list[list[list[str]]]:
    """Return the rows of each question, as COPY writes them."""
    return [[line.split("\t") for line in session.ask(question)] for question in questions]


def _misplaced(session: Session, available: Rows) -> list[tuple[str, str]]:
    """Return what :func:`find_misplaced` finds in the database of a session."""
    return find_misplaced(available, *_answers(session, PLACES, SCHEMAS))


def misplaced_extensions(docker: Docker, container: str) -> list[tuple[str, str]]:
    """Return what :func:`find_misplaced` finds in the application's database."""
    with postgres_session(docker, container) as session:
        available = [line.split("\t") for line in session.ask(AVAILABLE)]
        return _misplaced(session, available)


def restore_postgres(
    docker: Docker,
    container: str,
    source: IO[bytes],
    name: str = "",
    extensions: Sequence[str] | None = None,
    made_by: str = "",
    rows: Mapping[str, Any] | None = None,
) -> None:
    """Replace the database by a dump, whole or not at all.

    Args:
        docker: the Docker client.
        container: the one of PostgreSQL.
        source: the dump.
        name: what PostgreSQL knows its session by.
        extensions: those that the database had when it was dumped, besides which only those are
            made that this one has or that PostgreSQL trusts; None for what the dump asks for.
        made_by: version of PostgreSQL that made the dump; empty when it is unknown.
        rows: those of each table, as :func:`dump_postgres` returns them: a dump that holds others
            replaces nothing. None compares nothing.

    Raises:
        BackupError: it failed, and the database is as it was.
    """
    what = "PostgreSQL was not restored, and is as it was"
    try:
        with postgres_session(docker, container, name) as session:
            present, available, *_ = _extensions(session)
        script = _restore_script(extensions, present, available, rows is not None)
        if rows is not None:
            source = cast(IO[bytes], contents.Preceded(rows, source))
        docker.into(what, docker.inside(container, script, **named(name)), source)
    except BackupError as error:
        why = str(error) if str(error).startswith(what) else f"{what}: {error}"
        hint = _restore_hint(str(error))
        raise BackupError(f"{why}{_versions(docker, container, made_by)}{hint}") from error


def _restore_hint(words: str) -> str:
    """Return what to do about a restore that failed; empty where its words say that."""
    if _LOCKS.search(words):
        return (
            ". The database has more tables and large objects than one transaction can remove:"
            " make a backup of it as it is if you need one, drop it in the folder `current` of the"
            f" stack on the server ({DROP_DATABASE}), and restore again"
        )
    if not NEEDS_SUPERUSER.search(words) or _REFUSED_LOGIN.search(words):
        return ""
    return (
        ". The application's role restores, and the dump holds what only a superuser may make:"
        " docs/BACKUP.md says how to restore that by hand"
    )


def _restore_script(
    extensions: Sequence[str] | None, present: Rows, available: Rows, compared: bool
) -> str:
    """Return the script of one restore; see :func:`restore_postgres`, and allowed_extensions."""
    allowed = "true"
    if extensions is not None:
        allowed = allowed_extensions(extensions, present, available)
    script = RESTORE_POSTGRES.replace("@allowed@", allowed)
    script = script.replace("@read@", contents.READ_EXPECTED if compared else "")
    script = script.replace("@judge@", contents.WRITE_JUDGE if compared else "judge() { :; }")
    script = script.replace("@trusted@", one_of(trusted_extensions(available)))
    return script.replace("@helper@", f"crisper_restore_{os.urandom(8).hex()}")


def _versions(docker: Docker, container: str, made_by: str) -> str:
    """Return what to say of a restore that failed when the versions differ; empty else."""
    try:
        ours = service_version(docker, "postgres", container) if made_by else ""
    except BackupError:
        ours = ""
    if not ours or ours == made_by:
        return ""
    return (
        f" (PostgreSQL {printable(made_by)} made the dump, and {printable(ours)} restores it: set"
        " image_refs.postgres to the version of the dump, or a newer one, and try again)"
    )


def has_postgres_database(docker: Docker, container: str) -> bool:
    """Return whether the application's database is there: its owner can drop it.

    Raises:
        BackupError: PostgreSQL does not answer.
    """
    with postgres_session(docker, container, script=ASK_TEMPLATE) as session:
        found = session.ask(DATABASE)
    return bool(found)


def make_postgres_database(docker: Docker, container: str) -> None:
    """Make the application's database, empty and its own, where it is missing.

    Raises:
        BackupError: PostgreSQL refused.
    """
    what = "The database that is missing was not made"
    docker.answer(what, docker.inside(container, ASK_TEMPLATE), MAKE_DATABASE.encode())


def make_template_database(docker: Docker, container: str) -> None:
    """Make template1 where it is missing: whoever owned it could drop it.

    Raises:
        BackupError: PostgreSQL refused.
    """
    what = "The database template1 that is missing was not made"
    docker.answer(what, docker.inside(container, ASK_TEMPLATE), MAKE_TEMPLATE.encode())
