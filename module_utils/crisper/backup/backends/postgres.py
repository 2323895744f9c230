"""PostgreSQL: its state, a dump of it, and a restore that is whole or changes nothing."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import IO, Any

from ...docker.exec import Docker
from ...text import printable
from ..manifest import BackupError
from .postgres_extensions import (
    SYSTEM_SCHEMAS,
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
from .postgres_sql import (
    ASK_TEMPLATE,
    AVAILABLE,
    CATALOGS,
    COLUMNS,
    DATABASE,
    DUMP_POSTGRES,
    EXTENSIONS,
    HELPER,
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
from .versions import service_version

NEEDS_SUPERUSER = re.compile("permission denied|must be (superuser|owner)|[Mm]ust have")
COUNTED = re.compile(r"COPY (\d+)\Z")


def count_names(pairs: Iterable[tuple[tuple[str, str], int]]) -> dict[str, int]:
    """Return ``{schema.table: rows}`` of counts by schema and table.

    A dot is part of a name, too: names that would be the same are told with their quotes.
    """
    pairs = list(pairs)
    names = Counter(".".join(pair) for pair, _ in pairs)
    return {
        name
        if names[name := ".".join(pair)] == 1
        else ".".join('"' + word.replace('"', '""') + '"' for word in pair): rows
        for pair, rows in pairs
    }


def _rows(session: Session) -> dict[str, int]:
    """Return ``{schema.table: rows}``; a table has the rows of its partitions and heirs, too.

    Raises:
        BackupError: an answer cannot be read.
    """
    answers = {
        name: [
            line.split("\t")
            for line in session.ask(f"COPY pg_catalog.{name} ({columns}) TO STDOUT")
        ]
        for name, columns in CATALOGS.items()
    }
    smallest = _smallest_columns(session)
    try:
        schemas = {number: unescape(name) for number, name in answers["pg_namespace"]}
        tables = {
            number: (schemas[schema], unescape(name), kind)
            for number, name, schema, kind, persistence in answers["pg_class"]
            if kind in "rp" and persistence != "t" and schemas[schema] not in SYSTEM_SCHEMAS
        }
        session.ask("\\set QUIET off\n")  # else COPY does not tell how many
        own = {
            number: _count(session, number, smallest.get(number))
            for number, (_schema, _name, kind) in tables.items()
            if kind == "r"
        }
        session.ask("\\set QUIET on\n")
    except (ValueError, KeyError) as error:
        raise BackupError(f"PostgreSQL's tables cannot be read: {error}") from error
    heirs: dict[str, list[str]] = {}
    for heir, parent in answers["pg_inherits"]:
        heirs.setdefault(parent, []).append(heir)
    return count_names(
        sorted(
            ((schema, name), sum(own.get(each, 0) for each in _with_heirs(number, heirs)))
            for number, (schema, name, _kind) in tables.items()
        )
    )


def _smallest_columns(session: Session) -> dict[str, tuple[bool, int, str]]:
    """Return of each table, by its number, the column that is the least to read."""
    smallest: dict[str, tuple[bool, int, str]] = {}
    for line in session.ask(COLUMNS):
        table, number, length, name = line.split("\t")
        each = (int(length) < 0, int(number), name)
        smallest[table] = min(smallest.get(table, each), each)
    return smallest


def _with_heirs(number: str, heirs: dict[str, list[str]]) -> set[str]:
    """Return a table and all partitions and heirs below it, each once."""
    pending, below = [number], {number}
    while pending:
        for heir in heirs.get(pending.pop(), ()):
            if heir not in below:
                below.add(heir)
                pending.append(heir)
    return below


def _count(session: Session, number: str, column: tuple[bool, int, str] | None) -> int:
    """Return the rows of one table; 0 when the session has ended, which tells why itself."""
    name = unescape("".join(session.ask(NAME.format(int(number)))))
    quoted = unescape(column[2]).replace('"', '""') if column else ""
    answer = session.ask(f"COPY {name}" + (f' ("{quoted}")' if column else "") + " TO '/dev/null'")
    match = COUNTED.match("".join(answer))
    if not answer:
        return 0
    if not match:
        raise ValueError(f"{name!a} was not counted")
    return int(match[1])


def postgres_state(docker: Docker, container: str) -> dict[str, Any]:
    """Return ``{rows: {table: count}, migration_head: [...]}`` of a database."""
    with name_lock_holders(docker, container), postgres_session(docker, container) as session:
        session.ask(f"SET lock_timeout = '{lock_seconds(docker)}s'")
        session.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        rows = _rows(session)
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
            environment = {"SNAPSHOT": snapshot, "LOCK_WAIT": f"{lock_seconds(docker)}s"}
            excluded = [f"--exclude-schema={each}" for each in _helper_schemas(session)]
            environment["EXCLUDED"] = " ".join(excluded)
            command = docker.inside(container, DUMP_POSTGRES, **environment, **named(name))
            docker.out_of("PostgreSQL was not dumped", command, target)
            rows = _rows(session)
            head = migration_heads(docker, container, session, name, snapshot)
    return {"rows": rows, "migration_head": head, "extensions": extensions}


def _helper_schemas(session: Session) -> list[str]:
    """Return the schemas of restores that were killed: they are the superuser's, without tables.

    The application may give a schema of its own such a name, and keep its tables there.
    """
    rows = [line.split("\t") for line in session.ask(SCHEMA_OWNERS)]
    found = {
        number: name for number, name, owner in rows if owner == "10" and HELPER.fullmatch(name)
    }
    for place in session.ask(RELATION_PLACES) if found else ():
        found.pop(place, None)
    return sorted(found.values())


def _extensions(session: Session) -> list[list[list[str]]]:
    """Return the rows of EXTENSIONS, AVAILABLE, MEMBERS, RELATIONS and ROLES."""
    questions = (EXTENSIONS, AVAILABLE, MEMBERS, RELATIONS, ROLES)
    return [[line.split("\t") for line in session.ask(question)] for question in questions]


def _misplaced(session: Session, available: Rows) -> list[tuple[str, str]]:
    """Return what :func:`find_misplaced` finds in the database of a session."""
    answers = [[line.split("\t") for line in session.ask(each)] for each in (PLACES, SCHEMAS)]
    return find_misplaced(available, *answers)


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

    Raises:
        BackupError: it failed, and the database is as it was.
    """
    what = "PostgreSQL was not restored, and is as it was"
    try:
        with postgres_session(docker, container, name) as session:
            present, available, *_ = _extensions(session)
        script = _restore_script(extensions, present, available)
        docker.into(what, docker.inside(container, script, **named(name)), source)
    except BackupError as error:
        why = str(error) if str(error).startswith(what) else f"{what}: {error}"
        problem = f"{why}{_versions(docker, container, made_by)}"
        # What ends a session at its beginning says nothing of the dump.
        if "FATAL:" in problem or not NEEDS_SUPERUSER.search(str(error)):
            raise BackupError(problem) from error
        raise BackupError(
            f"{problem}. The application's role restores, and the dump holds what only a superuser"
            " may make: docs/BACKUP.md says how to restore that by hand"
        ) from error


def _restore_script(extensions: Sequence[str] | None, present: Rows, available: Rows) -> str:
    """Return the script of one restore; see :func:`restore_postgres`, and allowed_extensions."""
    allowed = "true"
    if extensions is not None:
        allowed = allowed_extensions(extensions, present, available)
    script = RESTORE_POSTGRES.replace("@allowed@", allowed)
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
