"""Contents of a dump of PostgreSQL: judged when it is made, and before data is replaced."""

from __future__ import annotations

import base64
import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, cast

from ...docker.exec import Docker, started
from ...text import sql_identifier
from ..manifest import BackupError
from .postgres_extensions import MOST_NAMES, SYSTEM_SCHEMAS, Rows
from .postgres_rows import Tables
from .postgres_sql import HELPER
from .psql import unescape

# A table with its rows in the list of a dump, by the table's number. pg_restore writes no line's
# end that is part of a name.
_DATA = re.compile(rb"\d+; \d+ (\d+) TABLE DATA ")
SUPERUSER = "10"


def find_helpers(schemas: Rows, relations: Rows, functions: Rows) -> list[str]:
    """Return the schemas that a restore has made for itself, and that no dump needs.

    The name alone says nothing: the application may make a schema of that name. A helper is the
    bootstrap superuser's, and has one function and no relation.

    Args:
        schemas: rows of SCHEMA_OWNERS, as COPY writes them.
        relations: those of RELATION_PLACES.
        functions: those of FUNCTION_PLACES.
    """
    used = {row[0] for row in relations}
    used |= {schema for schema, name in functions if name != "extension"}
    return [
        name
        for number, name, owner in schemas
        if HELPER.fullmatch(name) and owner == SUPERUSER and number not in used
    ]


class _Tee:
    """A stream that gives what is written to a program, too, while that reads."""

    def __init__(self, target: IO[bytes], program: IO[bytes]) -> None:
        self.target, self.program = target, program
        self.reads = True

    def write(self, data: bytes) -> int:
        """Write to both; the program reads the beginning alone."""
        if self.reads:
            try:
                self.program.write(data)
            except BrokenPipeError:
                self.reads = False
        return self.target.write(data)


@contextmanager
def listed(
    docker: Docker, container: str, target: IO[bytes], numbers: set[str]
) -> Iterator[IO[bytes]]:
    """Yield the stream for a dump; store the numbers of the tables whose rows it has.

    Args:
        target: where the dump goes.
        numbers: gets them when the dump has ended.

    Raises:
        BackupError: pg_restore does not read the dump.
    """
    command = docker.inside(container, "exec pg_restore --list")
    with tempfile.TemporaryFile() as answer:
        with started(command, stdin=subprocess.PIPE, stdout=answer) as running:
            yield cast(IO[bytes], _Tee(target, running.stdin))
        docker.judge("The dump of PostgreSQL cannot be read", running)
        answer.seek(0)
        numbers |= {match[1].decode() for line in answer if (match := _DATA.match(line))}


def find_missing(tables: Tables, dumped: set[str], *answers: Rows) -> list[tuple[str, str]]:
    """Return the tables whose rows a dump lacks, each with the extension that it belongs to.

    Rows of an extension that its script makes are in no dump. The application has written those of
    a table that it owns: the script of an extension that needs no superuser may have made the
    table, and the application may have put it there.

    Args:
        dumped: numbers of the tables whose rows it has.
        answers: rows of EXTENSIONS, AVAILABLE, MEMBERS, RELATIONS and ROLES, as COPY writes them.
    """
    extensions, _available, members, relations, roles = answers
    names = {row[0]: unescape(row[1]) for row in extensions}
    super_users = {number for number, power in roles if power == "t"}
    owners = {number: owner for number, owner, _kind in relations}
    member_of = {number: names.get(of, "") for number, of in members}
    found = []
    every = {**tables.names, **tables.hidden}
    for number, (schema, name, kind) in every.items():
        if number in dumped or (kind == "p" and number not in tables.hidden):
            continue
        if number in member_of and (
            owners.get(number) in super_users or not tables.own.get(number)
        ):
            continue
        found.append(
            (f"{sql_identifier(schema)}.{sql_identifier(name)}", member_of.get(number, ""))
        )
    return sorted(found)


def refuse_missing(found: Iterable[tuple[str, str]]) -> None:
    """Raise BackupError for the tables of :func:`find_missing`, if there are any."""
    first = list(itertools.islice(found, MOST_NAMES))
    if first:
        name, extension = first[0]
        remedy = (
            f"Take them out of the extension (ALTER EXTENSION {sql_identifier(extension)} DROP"
            f" TABLE {name})"
            if extension
            else f"Move them to a schema of the application (ALTER TABLE {name} SET SCHEMA public)"
        )
        raise BackupError(
            "pg_dump has left out rows of tables, so they would be lost:"
            f" {', '.join(name for name, _ in first)}. It leaves out what belongs to an extension"
            f" or is in a schema of PostgreSQL's own ({', '.join(SYSTEM_SCHEMAS)}, pg_…). The dump"
            f" was not taken. {remedy}, and run again"
        )


class Preceded:
    """A stream that has a line before its content: the counts that JUDGE reads.

    No argument of a program and no variable of its environment may be that long.
    """

    def __init__(self, rows: Mapping[str, Any], source: IO[bytes]) -> None:
        self.line = base64.b64encode(json.dumps(dict(rows)).encode()) + b"\n"
        self.source = source

    def read(self, size: int = -1) -> bytes:
        """Return the line, then what the source has."""
        line, self.line = self.line, b""
        return line or self.source.read(size)


# Of what differs a few names are told: Docker passes 1000 characters on.
# The application's session compares before it commits: whatever the dump lacks, nothing has been
# replaced. Tables that the application may not read, or whose rows it does not see, are compared by
# name. So are those with partitions or heirs, which are tables themselves.
_JUDGE = r"""
SET LOCAL search_path = pg_catalog, pg_temp;
DO $crisper$
DECLARE
  expected jsonb := convert_from(decode('
@expected@
', 'base64'), 'UTF8');
  number oid;
  place text;
  relation text;
  kind "char";
  key text;
  found text;
  known text[] := '{}';
  wrong text[] := '{}';
BEGIN
  FOR number, place, relation, kind IN SELECT c.oid, n.nspname, c.relname, c.relkind
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 2, 3 LOOP
    key := place || '.' || relation;
    IF NOT expected ? key THEN
      key := '"' || replace(place, '"', '""') || '"."' || replace(relation, '"', '""') || '"';
    END IF;
    IF NOT expected ? key THEN
      wrong := wrong || format('rows of %s.%s: the set has no such table', place, relation);
      CONTINUE;
    END IF;
    known := known || key;
    CONTINUE WHEN kind = 'p' OR row_security_active(number)
      OR NOT has_schema_privilege(place, 'USAGE') OR NOT has_table_privilege(number, 'SELECT')
      OR EXISTS (SELECT FROM pg_inherits WHERE inhparent = number);
    EXECUTE format('SELECT count(*) FROM ONLY %I.%I', place, relation) INTO found;
    IF found IS DISTINCT FROM expected ->> key THEN
      wrong := wrong || format('rows of %s: %s instead of %s', key, found, expected ->> key);
    END IF;
  END LOOP;
  wrong := wrong || ARRAY(SELECT format('rows of %s: none instead of %s', k, expected ->> k)
    FROM jsonb_object_keys(expected) k WHERE k <> ALL (known) ORDER BY k LIMIT 4);
  IF cardinality(wrong) > 0 THEN
    RAISE EXCEPTION 'what the dump holds is not what the set says: %. Choose another set',
      array_to_string(wrong[1:4], '; ');
  END IF;
END $crisper$;
"""
_BEFORE, _AFTER = _JUDGE.split("\n@expected@\n")
# Shell: reads the line of Preceded, and later writes the statement.
READ_EXPECTED = "IFS= read -r expected || exit"
WRITE_JUDGE = f"""judge() {{
    cat <<'SQL'
{_BEFORE}
SQL
    printf '%s\\n' "$expected"
    cat <<'SQL'
{_AFTER}
SQL
}}"""
