"""Rows of the tables of a PostgreSQL, counted so that nothing of the application runs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from ..manifest import BackupError
from .postgres_extensions import SYSTEM_SCHEMAS
from .postgres_sql import CATALOGS, COLUMNS, NAME
from .psql import Session, unescape

COUNTED = re.compile(r"COPY (\d+)\Z")
FIRST_OF_USERS = 16384  # initdb makes what has smaller numbers


@dataclass(frozen=True)
class Tables:
    """Tables of a database by their numbers.

    `names` are schema, name and kind (relkind) of those that are the application's, `hidden` of
    those in schemas of PostgreSQL's own that initdb has not made. `own` are the rows of a table
    itself, and `heirs` the partitions and heirs right below one.
    """

    names: dict[str, tuple[str, str, str]]
    hidden: dict[str, tuple[str, str, str]]
    own: dict[str, int]
    heirs: dict[str, list[str]]

    def rows(self) -> dict[str, int]:
        """Return ``{schema.table: rows}``; a table has those of its partitions and heirs, too."""
        return count_names(
            sorted(
                ((schema, name), sum(self.own.get(each, 0) for each in self._below(number)))
                for number, (schema, name, _kind) in self.names.items()
            )
        )

    def _below(self, number: str) -> set[str]:
        """Return a table and all partitions and heirs below it, each once."""
        pending, below = [number], {number}
        while pending:
            for heir in self.heirs.get(pending.pop(), ()):
                if heir not in below:
                    below.add(heir)
                    pending.append(heir)
        return below


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


def count_tables(session: Session) -> Tables:
    """Return the tables of a database with their rows.

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
        every = {
            number: (schemas[schema], unescape(name), kind)
            for number, name, schema, kind, persistence in answers["pg_class"]
            if kind in "rp" and persistence != "t"
        }
        tables = {n: each for n, each in every.items() if each[0] not in SYSTEM_SCHEMAS}
        session.ask("\\set QUIET off\n")  # else COPY does not tell how many
        own = {
            number: _count(session, number, smallest.get(number))
            for number, (_schema, _name, kind) in tables.items()
            if kind == "r"
        }
        session.ask("\\set QUIET on\n")
        hidden = {n: each for n, each in every.items() if n not in tables and _is_users(n)}
    except (ValueError, KeyError) as error:
        raise BackupError(f"PostgreSQL's tables cannot be read: {error}") from error
    heirs: dict[str, list[str]] = {}
    for heir, parent in answers["pg_inherits"]:
        heirs.setdefault(parent, []).append(heir)
    return Tables(tables, hidden, own, heirs)


def _is_users(number: str) -> bool:
    return int(number) >= FIRST_OF_USERS


def _smallest_columns(session: Session) -> dict[str, tuple[bool, int, str]]:
    """Return of each table, by its number, the column that is the least to read."""
    smallest: dict[str, tuple[bool, int, str]] = {}
    for line in session.ask(COLUMNS):
        table, number, length, name = line.split("\t")
        each = (int(length) < 0, int(number), name)
        smallest[table] = min(smallest.get(table, each), each)
    return smallest


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
