"""System catalogs of a PostgreSQL, read so that nothing in the cluster can run meanwhile.

Whoever was superuser may have planted casts, operators and functions that a question of the
superuser's would call. `COPY <catalog> TO STDOUT` calls none: it plans nothing and compares
nothing. Where a catalog is too large to be read whole, the condition compares two values of one
built-in type, which is an exact match and leaves PostgreSQL no choice. Python 3.9+.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..backup.backends.postgres_sql import FIND_SUPERUSER
from ..backup.backends.psql import unescape
from ..backup.manifest import BackupError
from ..docker.exec import Docker
from ..text import sql_identifier
from .catalog_tables import CLASSES, FIRST_OF_USERS, TABLES

SUPERUSER_OID = 10
# Bytes of the catalogs of one database that are read: an application makes as many tables as it
# likes, and the server's memory is for what serves.
MOST_BYTES = 200_000_000
READ = FIND_SUPERUSER + (
    ' has() { [ "$version" -ge "$1" ] && echo true || echo false; };'
    " env PGCLIENTENCODING=UTF8 psql --quiet --no-psqlrc --tuples-only --no-align"
    ' --username "$superuser" --set ON_ERROR_STOP=1 --set has14="$(has 140000)"'
    f' --set has15="$(has 150000)" --file - | head --bytes {MOST_BYTES}'
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ARRAY = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)', re.DOTALL)
# Needs no quotes in SQL.
# Also an operator's: it is of these characters alone, and has no quotes in SQL.
_PLAIN = re.compile(r"(?:[a-z_][a-z0-9_$]*|[-+*/<>=~!@#%^&|`?]+)\Z")


def parse_field(text: str) -> str | None:
    """Return a value of COPY's text format; None for NULL."""
    return None if text == "\\N" else unescape(text)


def parse_array(text: str | None) -> list[str]:
    """Return the elements of an array of texts as PostgreSQL writes it; nothing of NULL."""
    return [
        _ESCAPED.sub(r"\1", quoted) if quoted or not bare else bare
        for quoted, bare in _ARRAY.findall(text or "")
    ]


def script(mark: str) -> str:
    """Return the statements that read all of :data:`TABLES`, one after the other.

    Args:
        mark: begins the line before each; in no value, thus random.
    """
    lines = [
        "SET log_statement = 'none'; SET log_min_duration_statement = -1;",
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;",
    ]
    for name, table in TABLES.items():
        lines += [f"\\if :has{table.since}"] if table.since else []
        lines += [f"\\echo {mark} {name}", table.statement(name)]
        lines += ["\\endif"] if table.since else []
    return "\n".join([*lines, "COMMIT;", f"\\echo {mark} end", ""])


def parse(text: str, mark: str) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each table of what :func:`script` answers.

    Raises:
        BackupError: it is not whole.
    """
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    for line in text.split("\n"):
        if line.startswith(mark):
            name = line[len(mark) + 1 :]
            if name == "end":
                return found
            rows, names = found[name], TABLES[name].names()
        elif names and line:
            fields = line.split("\t")
            if len(fields) != len(names):
                raise BackupError("PostgreSQL's catalogs cannot be read: a row has other columns")
            rows.append({name: parse_field(each) for name, each in zip(names, fields)})  # noqa: B905
    raise BackupError("PostgreSQL's catalogs cannot be read: the answer broke off")


@dataclass
class Catalog:
    """The catalogs of one database, whose numbers have become names.

    Args:
        database: its name.
        rows: rows by table, as :func:`parse` returns them.
    """

    database: str
    rows: Mapping[str, list[dict[str, Any]]]
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    # (table, number) -> name of the extension that it is a member of
    members: dict[tuple[str, str], str] = field(default_factory=dict)
    internal: set[str] = field(default_factory=set)  # functions that belong to a type

    def __post_init__(self) -> None:
        """Name what rows refer to by numbers."""
        rows = self.rows
        self.superusers = {row["oid"] for row in rows["pg_authid"] if row["rolsuper"] == "t"}
        self.roles = {row["oid"]: row["rolname"] for row in rows["pg_authid"]}
        self.super_names = {self.roles[oid] for oid in self.superusers}
        self._name_objects()
        self._name_routines()
        self._list_members()

    def _name_objects(self) -> None:
        """Store what numbers of objects are called that have no types in their name."""
        rows, names = self.rows, self.names
        names["pg_authid"] = {
            oid: "~" if oid in self.superusers else name for oid, name in self.roles.items()
        }
        names["pg_namespace"] = {row["oid"]: row["nspname"] for row in rows["pg_namespace"]}
        for table, column in (
            ("pg_language", "lanname"),
            ("pg_am", "amname"),
            ("pg_foreign_data_wrapper", "fdwname"),
            ("pg_foreign_server", "srvname"),
        ):
            names[table] = {row["oid"]: row[column] for row in rows[table]}
        for table, prefix, column in (
            ("pg_type", "typ", "typname"),
            ("pg_class", "rel", "relname"),
        ):
            names[table] = {
                row["oid"]: self.qualified(row[f"{prefix}namespace"], row[column])
                for row in rows[table]
            }
        self._sql_types = {
            row["oid"]: self.sql_name(row["typnamespace"], row["typname"])
            for row in rows["pg_type"]
        }

    def _name_routines(self) -> None:
        """Store what numbers of operators and functions are called: with their types."""
        rows, names = self.rows, self.names
        names["pg_opfamily"] = {
            row["oid"]: f"{self.qualified(row['opfnamespace'], row['opfname'])} USING"
            f" {names['pg_am'].get(row['opfmethod'], '?')}"
            for row in rows["pg_opfamily"]
        }
        names["pg_operator"] = {
            row["oid"]: f"{self.qualified(row['oprnamespace'], row['oprname'])}"
            f" ({self.types(row['oprleft'])}, {self.types(row['oprright'])})"
            for row in rows["pg_operator"]
        }
        names["pg_proc"] = {
            row["oid"]: f"{self.qualified(row['pronamespace'], row['proname'])}"
            f"({self.types(row['proargtypes'])})"
            for row in (*rows["pg_proc"], *rows["others_proc"])
        }

    def _list_members(self) -> None:
        """Store what belongs to an extension, and which functions to a type."""
        rows = self.rows
        extensions = {row["oid"]: row["extname"] for row in rows["pg_extension"]}
        for row in rows["pg_depend"]:
            if row["deptype"] == "e":
                table = CLASSES.get(row["classid"], row["classid"])
                self.members[table, row["objid"]] = extensions.get(row["refobjid"], "?")
            elif row["deptype"] == "i":
                self.internal.add(row["objid"])

    def qualified(self, schema: str, name: str) -> str:
        """Return a name with its schema's, which PostgreSQL's own do not need.

        A name that is not plain has its quotes: no two objects are called the same.
        """
        place = self.names["pg_namespace"].get(schema, "?")
        return _readable(name) if place == "pg_catalog" else f"{_readable(place)}.{_readable(name)}"

    def sql_name(self, schema: str, name: str) -> str:
        """Return the name of an object for a statement: quoted, printable, with its schema."""
        place = sql_identifier(self.names["pg_namespace"].get(schema, "?"))
        return f"{place}.{sql_identifier(name)}"

    def sql_types(self, numbers: str | None) -> str:
        """Return the names of types, given as ``23 25``, for a statement."""
        found = re.findall(r"\d+", numbers or "")
        return ", ".join(self._sql_types.get(number, '"?"') for number in found)

    def types(self, numbers: str | None) -> str:
        """Return the names of types, given as ``23 25`` or ``{23,25}``."""
        found = re.findall(r"\d+", numbers or "")
        return ", ".join("NONE" if n == "0" else self.names["pg_type"].get(n, "?") for n in found)

    def extensions(self) -> list[tuple[str, str, str]]:
        """Return name, version and schema of each extension."""
        return sorted(
            (row["extname"], row["extversion"], self.names["pg_namespace"][row["extnamespace"]])
            for row in self.rows["pg_extension"]
        )


def _readable(name: str) -> str:
    """Return a name for people, with quotes where SQL asks for them."""
    return name if _PLAIN.match(name) else identifier(name)


def identifier(text: str) -> str:
    """Return a name as an identifier of SQL."""
    return '"' + text.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def builtin(number: str | None) -> bool:
    """Return whether initdb has made the object with a number."""
    return int(number or 0) < FIRST_OF_USERS


def read_catalog(docker: Docker, container: str, database: str) -> Catalog:
    """Return the catalogs of a database, which the superuser reads.

    Raises:
        BackupError: PostgreSQL does not answer, or they have more than MOST_BYTES.
    """
    mark = f"crisper-{os.urandom(8).hex()}"
    # By the environment: a name given as an argument may be a connection to elsewhere.
    command = docker.inside(container, READ, PGDATABASE=database)
    what = f"The catalogs of the database {database!a} were not read"
    return Catalog(database, parse(docker.answer(what, command, script(mark).encode()), mark))
