"""Measure of a PostgreSQL: what it has of initdb's and of extensions' objects, the same everywhere.

Two clusters of one image have the same measure, whatever numbers their objects have. Python 3.9+.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .acl import rights
from .catalog import SUPERUSER_OID, Catalog, builtin
from .catalog_tables import TABLES

# Table -> (what it is called, column of its name, column of its schema). Others have neither.
KINDS = {
    "pg_proc": ("function", "proname", "pronamespace"),
    "pg_type": ("type", "typname", "typnamespace"),
    "pg_operator": ("operator", "oprname", "oprnamespace"),
    "pg_opfamily": ("operator family", "opfname", "opfnamespace"),
    "pg_opclass": ("operator class", "opcname", "opcnamespace"),
    "pg_conversion": ("conversion", "conname", "connamespace"),
    "pg_ts_parser": ("text search parser", "prsname", "prsnamespace"),
    "pg_ts_template": ("text search template", "tmplname", "tmplnamespace"),
    "pg_class": ("relation", "relname", "relnamespace"),
    "pg_namespace": ("schema", "nspname", ""),
    "pg_language": ("language", "lanname", ""),
    "pg_am": ("access method", "amname", ""),
    "pg_event_trigger": ("event trigger", "evtname", ""),
    "pg_foreign_data_wrapper": ("foreign-data wrapper", "fdwname", ""),
    "pg_foreign_server": ("foreign server", "srvname", ""),
}
# Of what is read in two parts.
CATALOG_OF = {"others_proc": "pg_proc", "proc_body": "pg_proc"}
ACL_COLUMNS = {
    "pg_proc": "proacl",
    "pg_type": "typacl",
    "pg_language": "lanacl",
    "pg_namespace": "nspacl",
    "pg_class": "relacl",
    "pg_attribute": "attacl",
    "pg_foreign_data_wrapper": "fdwacl",
    "pg_foreign_server": "srvacl",
}
# Trees of expressions: what they call is told by numbers, which initdb gives in its own order.
_TREES = {"proargdefaults", "prosqlbody", "adbin", "indexprs", "indpred", "ev_qual", "ev_action"}
_TREES |= {"tgqual", "polqual", "polwithcheck", "conbin"}
_CALLS = re.compile(r":(funcid|opfuncid|aggfnoid|winfnoid|opno|relid) (\d+)")
_INITDBS_OWN = re.compile(r"\b(?:1[2-5]\d{3}|16[0-2]\d{2}|163[0-7]\d|1638[0-3])\b")
# What the object hangs on decides whose it is, and not its own number.
_SCOPE = {
    "pg_amop": "amopfamily", "pg_amproc": "amprocfamily", "pg_attribute": "attrelid",
    "pg_attrdef": "adrelid", "pg_index": "indrelid", "pg_rewrite": "ev_class",
    "pg_trigger": "tgrelid", "pg_policy": "polrelid", "pg_constraint": "conrelid",
}  # fmt: skip
# Read for other questions than whether they are as initdb makes them.
_APART = {
    "pg_authid", "pg_auth_members", "pg_database", "pg_db_role_setting", "pg_shdescription",
    "pg_parameter_acl", "pg_subscription", "file_settings", "hba", "ident", "pg_extension",
    "pg_depend", "pg_default_acl", "pg_user_mapping", "pg_replication_slots",
}  # fmt: skip
# Its owner and its rights are an operator's, and those of each edition of PostgreSQL.
_NOT_COMPARED = {("pg_namespace", "public")}


def _value(catalog: Catalog, name: str, target: str, value: str | None) -> Any:
    """Return a value of a column, so that it is the same in every cluster."""
    if value is None:
        return None
    if name in _TREES:
        names = catalog.names

        def called(match: re.Match[str]) -> str:
            table = {"opno": "pg_operator", "relid": "pg_class"}.get(match[1], "pg_proc")
            return f":{match[1]} {names[table].get(match[2], match[2])}"

        return _INITDBS_OWN.sub("#", _CALLS.sub(called, value))
    if not target:
        return value.removeprefix("pg_catalog.")  # a function that has others of its name
    if value == "0":
        return ""
    known = catalog.names[target]
    return re.sub(r"\d+", lambda match: known.get(match[0], match[0]), value)


def label(catalog: Catalog, table: str, row: Mapping[str, Any]) -> str:
    """Return how people call an object."""
    names = catalog.names
    kind = CATALOG_OF.get(table, table)
    if kind == "pg_proc":
        return f"function {names['pg_proc'].get(row['oid'], '?')}"
    if kind == "pg_operator":
        return f"operator {names['pg_operator'].get(row['oid'], '?')}"
    if kind == "pg_opfamily":
        return f"operator family {names['pg_opfamily'].get(row['oid'], '?')}"
    if kind == "pg_cast":
        source, target = (catalog.types(row[f"cast{end}"]) for end in ("source", "target"))
        return f"cast ({source} AS {target})"
    if kind == "pg_transform":
        return (
            f"transform for {catalog.types(row['trftype'])} language"
            f" {names['pg_language'].get(row['trflang'], '?')}"
        )
    if kind == "pg_aggregate":
        return f"aggregate {row['aggfnoid'].removeprefix('pg_catalog.')}"
    if kind in ("pg_amop", "pg_amproc"):
        return f"operator family {names['pg_opfamily'].get(row[_SCOPE[kind]], '?')}"
    if kind in _SCOPE:
        relation = names["pg_class"].get(row[_SCOPE[kind]], "?")
        own = row.get("attname") or row.get("tgname") or row.get("polname") or row.get("rulename")
        return f"relation {relation}" + (f" ({own})" if own else "")
    word, name, schema = KINDS[kind]
    text = catalog.qualified(row[schema], row[name]) if schema else row[name]
    if kind == "pg_opclass":
        text += f" USING {names['pg_am'].get(row['opcmethod'], '?')}"
    return f"{word} {text}"


def part(catalog: Catalog, table: str, row: Mapping[str, Any]) -> str:
    """Return ``builtin``, ``extension <name>``, or nothing: whose an object is."""
    if table == "pg_aggregate":
        # It has no number of its own; a function in another schema is told with that.
        return "builtin" if "." not in row["aggfnoid"].removeprefix("pg_catalog.") else ""
    kind = CATALOG_OF.get(table, table)
    if kind in _SCOPE:
        return "builtin" if builtin(row[_SCOPE[kind]]) else ""
    if extension := catalog.members.get((kind, row["oid"])):
        return f"extension {extension}"
    return "builtin" if builtin(row["oid"]) else ""


@dataclass
class Measure:
    """Per part and object of a cluster digests of its rows, and everybody's rights."""

    rows: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    rights: dict[str, dict[str, list[str]]] = field(default_factory=dict)


def measure(catalog: Catalog) -> Measure:
    """Return what a database has of initdb's and of extensions'."""
    found = Measure()
    for table, definition in TABLES.items():
        if table in _APART:
            continue
        kind = "pg_proc" if table == "others_proc" else table
        columns = [column.partition(":")[::2] for column in definition.columns]
        plain = [
            pair for pair in columns if pair[0] not in ("oid", ACL_COLUMNS.get(kind), "typrelid")
        ]
        for row in catalog.rows[table]:
            whose = part(catalog, table, row)
            if not whose or (kind, row.get("nspname")) in _NOT_COMPARED:
                continue
            text = label(catalog, table, row)
            values = [_value(catalog, name, target, row[name]) for name, target in plain]
            digest = hashlib.sha256(repr((table, values)).encode()).hexdigest()[:16]
            found.rows.setdefault(whose, {}).setdefault(text, []).append(digest)
            if kind in ACL_COLUMNS:
                has = rights(kind, row[ACL_COLUMNS[kind]], catalog.super_names)
                known = found.rights.setdefault(whose, {})
                known[text] = sorted(has | set(known.get(text, ())))
    return found


def roles_of(catalog: Catalog) -> list[str]:
    """Return what the built-in roles are and whose members they are, a text each."""
    words = ("rolsuper", "rolcreaterole", "rolcreatedb", "rolcanlogin", "rolreplication",
             "rolbypassrls")  # fmt: skip
    return [
        f"{row['rolname']} {' '.join(word for word in words if row[word] == 't')}".rstrip()
        for row in catalog.rows["pg_authid"]
        if builtin(row["oid"]) and row["oid"] != str(SUPERUSER_OID)
    ] + [
        f"{catalog.roles.get(row['member'], '?')} in {catalog.roles.get(row['roleid'], '?')}"
        for row in catalog.rows["pg_auth_members"]
        if builtin(row["member"]) and row["member"] != str(SUPERUSER_OID)
    ]


def access(catalog: Catalog) -> list[str]:
    """Return who may log in from where: the lines of pg_hba.conf and pg_ident.conf."""
    return [
        " ".join(str(value) for value in row.values() if value is not None)
        for row in (*catalog.rows["hba"], *catalog.rows["ident"])
    ]
