"""Extensions of PostgreSQL: what a dump would lose of them, and what a restore may make."""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Iterable, Sequence

from ...text import is_visible, sql_identifier
from ..manifest import BackupError
from .psql import unescape

KINDS = {
    **{"r": "TABLE", "p": "TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW", "S": "SEQUENCE"},
    "f": "FOREIGN TABLE",
}
# Characters that mean themselves wherever they are.
_SAFE = frozenset(string.ascii_letters + string.digits + "_-")
_TEMPORARY = re.compile("pg_(toast_)?temp")
# Of a list in an error.
MOST_NAMES = 10
SYSTEM_SCHEMAS = ("pg_catalog", "information_schema")
Rows = Sequence[Sequence[str]]


def find_hidden(
    extensions: Rows, available: Rows, members: Rows, relations: Rows, roles: Rows
) -> tuple[list[str], list[tuple[str, int, str]]]:
    """Return the extensions, and what the application has put into one.

    That are relations that its script has not made: those are its owner's, a superuser's, or hold
    what a dump takes along (extconfig). The script of an extension that needs no superuser may have
    made anything.

    Args:
        extensions: rows of EXTENSIONS, as COPY writes them; the others are those of AVAILABLE,
            MEMBERS, RELATIONS and ROLES.

    Returns:
        ``([name], [(kind, number, extension)])``, sorted; a kind as ``ALTER EXTENSION`` has it.

    Raises:
        BackupError: the answers cannot be read.
    """
    try:
        names = {number: unescape(name) for number, name, _ in extensions}
        dumped = {each for *_, config in extensions for each in re.findall(r"\d+", config)}
        free = {unescape(row[0]) for row in available if row[2] == "f"}
        super_users = {number for number, power in roles if power == "t"}
        # What the application may own and change, and no dump takes along.
        found = {
            number: KINDS[kind]
            for number, owner, kind in relations
            if kind in KINDS and owner not in super_users and number not in dumped
        }
        hidden = [
            (found[number], int(number), names[of])
            for number, of in members
            # What is gone meanwhile is in no answer.
            if number in found and of in names and names[of] not in free
        ]
    except (ValueError, IndexError) as error:
        raise BackupError(f"PostgreSQL's extensions cannot be read: {error}") from error
    return sorted(names.values()), sorted(hidden, key=lambda each: each[1])


def refuse_hidden(found: Iterable[tuple[str, str, str]]) -> None:
    """Raise BackupError for kind, quoted name and extension of what is hidden, if anything."""
    listed = [
        (kind, _printable_name(name), sql_identifier(of))
        for kind, name, of in itertools.islice(found, MOST_NAMES)
    ]
    if listed:
        names = ", ".join(f"{name} (of {of})" for _, name, of in listed)
        kind, name, of = listed[0]
        raise BackupError(
            "The application has added objects of its own to an extension, and pg_dump leaves out"
            f" what belongs to one, so they would be lost: {names}. PostgreSQL was not dumped. Take"
            f" them out of the extension (ALTER EXTENSION {of} DROP {kind} {name}), and run again"
        )


def find_misplaced(available: Rows, places: Rows, schemas: Rows) -> list[tuple[str, str]]:
    """Return extensions that a restore cannot make where they are, and their schemas.

    A superuser has put them into a schema of PostgreSQL's own, and neither does PostgreSQL let the
    application do so (it is trusted) nor does the extension's control file name that schema.

    Args:
        available: rows of AVAILABLE, as COPY writes them.
        places: those of PLACES.
        schemas: those of SCHEMAS.

    Raises:
        BackupError: the answers cannot be read.
    """
    try:
        names = {number: unescape(name) for number, name in schemas}
        trusted = trusted_extensions(available)
        own = {(unescape(row[0]), unescape(row[-3])) for row in available}
        found = [(unescape(name), names.get(schema, "pg_temp")) for name, schema in places]
        return sorted(
            (name, schema)
            for name, schema in found
            if (schema.startswith("pg_") or schema in SYSTEM_SCHEMAS)
            and (name not in trusted or _TEMPORARY.match(schema))
            and (name, schema) not in own
        )
    except (ValueError, IndexError) as error:
        raise BackupError(f"PostgreSQL's extensions cannot be read: {error}") from error


def refuse_misplaced(found: Sequence[tuple[str, str]]) -> None:
    """Raise BackupError for the extensions that no restore could make again, if any."""
    if found:
        listed = ", ".join(
            f"{sql_identifier(name)} (in {sql_identifier(schema)})"
            for name, schema in found[:MOST_NAMES]
        )
        name = sql_identifier(found[0][0])
        raise BackupError(
            "A superuser has put extensions into schemas of PostgreSQL's own, where no restore may"
            f" make them again: {listed}. PostgreSQL was not dumped. As superuser move each to a"
            f" schema of the application (ALTER EXTENSION {name} SET SCHEMA public), or drop it,"
            " and run again"
        )


def _printable_name(name: str) -> str:
    """Return a name as PostgreSQL quotes it (``a."b c"``), so that it can be printed and pasted."""
    if is_visible(name):
        return name
    parts = re.findall(r'"((?:[^"]|"")*)"|([^".]+)', name)
    return ".".join(sql_identifier(quoted.replace('""', '"') or plain) for quoted, plain in parts)


def allowed_extensions(listed: Iterable[str], present: Rows, available: Rows) -> str:
    """Return the condition of SQL that an extension may be made, whose name is ``extension``.

    It is within a function's body, within a script for the shell: of names nothing is left that
    could end one of them.

    Args:
        listed: those of the set.
        present: rows of EXTENSIONS, as COPY writes them.
        available: those of AVAILABLE; who may make a database may make those that are trusted.
    """
    return one_of({*listed, *(unescape(row[1]) for row in present), *trusted_extensions(available)})


def trusted_extensions(available: Rows) -> set[str]:
    """Return those that who may make a database may make, too; from rows of AVAILABLE."""
    return {unescape(row[0]) for row in available if len(row) > 7 and row[3] == "t"}


def one_of(names: Iterable[str]) -> str:
    """Return the condition of SQL that ``extension`` is one of these names."""
    literals = (
        "E'" + "".join(c if c in _SAFE else f"\\U{ord(c):08x}" for c in name) + "'"
        for name in sorted(names)
        if name and "\0" not in name and not any("\ud800" <= c <= "\udfff" for c in name)
    )
    return f"extension = ANY (ARRAY[{', '.join(literals)}]::text[])"
