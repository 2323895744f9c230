"""Objects of one database that a superuser may have left to be one again.

They are judged by what they can do. What initdb and ``CREATE EXTENSION`` make is compared with a
new cluster instead (comparison). Python 3.9+.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..text import printable, sql_identifier
from .catalog import SUPERUSER_OID, Catalog, builtin, parse_array
from .measure import CATALOG_OF, KINDS, label

REBUILD = "ansible-playbook playbooks/upgrade.yml -e database_rebuild=true (docs/UPGRADE.md)"
# Characters of a statement in a message.
MOST_STATEMENT = 1000
# Whatever the catalog says.
NEVER_TRUSTED = ("c", "internal")
# Schemas in which every name is PostgreSQL's.
SYSTEM = ("pg_catalog", "information_schema")
# Only a superuser makes these, or makes them of built-in types.
SUPERUSERS_ONLY = {
    "pg_language": "LANGUAGE",
    "pg_am": "ACCESS METHOD",
    "pg_ts_parser": "TEXT SEARCH PARSER",
    "pg_ts_template": "TEXT SEARCH TEMPLATE",
    "pg_foreign_data_wrapper": "FOREIGN DATA WRAPPER",
}
_IN_SCHEMAS = (
    *("others_proc", "pg_type", "pg_operator", "pg_opclass", "pg_conversion", "pg_class"),
)


def of_superusers(catalog: Catalog, transferred: bool) -> list[str]:
    """Return what a superuser alone can have made, a sentence each; extensions' apart.

    Args:
        transferred: whether the move will give the superuser's objects to the application.
    """
    definers = _definers(catalog, transferred)
    return [*not_restorable(catalog), *definers, *_in_system_schemas(catalog)]


def not_restorable(catalog: Catalog) -> list[str]:
    """Return what a dump has and the application's role may not make, a sentence each."""
    found = [
        *(_event_triggers(catalog), _untrusted(catalog), _casts(catalog)),
        *(_code_of_others(catalog), _without_password(catalog)),
    ]
    return [sentence for sentences in found for sentence in sentences]


def _where(catalog: Catalog) -> str:
    return f"in the database {printable(catalog.database)}"


def _own(catalog: Catalog, table: str) -> list[dict[str, Any]]:
    """Return the rows that are neither initdb's nor an extension's."""
    return [
        row
        for row in catalog.rows[table]
        if not builtin(row["oid"])
        and (CATALOG_OF.get(table, table), row["oid"]) not in catalog.members
    ]


def _event_triggers(catalog: Catalog) -> list[str]:
    return [
        f"the event trigger {printable(row['evtname'])} {_where(catalog)} runs a function whenever"
        f" a superuser {'logs in' if row['evtevent'] == 'login' else 'changes a schema'}. If it is"
        f" not yours: DROP EVENT TRIGGER {sql_identifier(row['evtname'])}"
        for row in _own(catalog, "pg_event_trigger")
    ]


def _drop_routine(catalog: Catalog, row: Mapping[str, Any]) -> str:
    """Return the remedy for a function that is not the operator's."""
    name = catalog.sql_name(row["pronamespace"], row["proname"])
    statement = f"DROP ROUTINE {name}({catalog.sql_types(row['proargtypes'])})"
    if len(statement) > MOST_STATEMENT:  # cut, it would be another one
        return (
            "If it is not yours, drop it as superuser: its name is too long for this message, and"
            f" its oid in pg_proc is {int(row['oid'])}"
        )
    return f"If it is not yours: {statement}"


def _untrusted(catalog: Catalog) -> list[str]:
    trusted = {
        row["oid"]
        for row in catalog.rows["pg_language"]
        if row["lanpltrusted"] == "t" and row["lanname"] not in NEVER_TRUSTED
    }
    return [
        f"the function {name} {_where(catalog)} is in a language that is not trusted: it reads"
        f" files and runs programs of the database server. {_drop_routine(catalog, row)}"
        for row in _own(catalog, "others_proc")
        # An aggregate is what its functions are; those of a range type come with the type.
        if row["prolang"] not in trusted
        and row["prokind"] != "a"
        and row["oid"] not in catalog.internal
        for name in [printable(catalog.names["pg_proc"][row["oid"]])]
    ]


def _definers(catalog: Catalog, transferred: bool) -> list[str]:
    return [
        f"the function {name} {_where(catalog)} runs with the rights of the superuser who owns it"
        f" (SECURITY DEFINER), whoever calls it. {_drop_routine(catalog, row)}"
        for row in _own(catalog, "others_proc")
        if row["prosecdef"] == "t"
        and row["proowner"] in catalog.superusers
        and not (transferred and row["proowner"] == str(SUPERUSER_OID))
        for name in [printable(catalog.names["pg_proc"][row["oid"]])]
    ]


def _casts(catalog: Catalog) -> list[str]:
    def own(number: str) -> bool:
        return not builtin(number) and ("pg_type", number) not in catalog.members

    return [
        f"the cast {pair} {_where(catalog)} is between types of PostgreSQL, and its function runs"
        " wherever one becomes the other. If it is not yours: DROP CAST"
        f" ({catalog.sql_types(row['castsource'])} AS {catalog.sql_types(row['casttarget'])})"
        for row in _own(catalog, "pg_cast")
        if not own(row["castsource"]) and not own(row["casttarget"])
        for pair in [printable(label(catalog, "pg_cast", row).removeprefix("cast "))]
    ]


def _code_of_others(catalog: Catalog) -> list[str]:
    found = []
    for table, word in SUPERUSERS_ONLY.items():
        for row in _own(catalog, table):
            _word, name, schema = KINDS[table]
            quoted = (
                catalog.sql_name(row[schema], row[name]) if schema else sql_identifier(row[name])
            )
            found.append(
                f"the {printable(label(catalog, table, row))} {_where(catalog)} runs code of its"
                f" maker. If it is not yours: DROP {word} {quoted}"
            )
    for row in _own(catalog, "pg_transform"):
        text = printable(label(catalog, "pg_transform", row))
        found.append(
            f"the {text} {_where(catalog)} runs code of its maker. If it is not yours: DROP"
            f" TRANSFORM FOR {catalog.sql_types(row['trftype'])} LANGUAGE"
            f" {sql_identifier(catalog.names['pg_language'].get(row['trflang'], '?'))}"
        )
    return found


def _in_system_schemas(catalog: Catalog) -> list[str]:
    found = []
    for table in _IN_SCHEMAS:
        kind = CATALOG_OF.get(table, table)
        for row in _own(catalog, table):
            if (
                catalog.names["pg_namespace"].get(row[KINDS[kind][2]]) not in SYSTEM
                or (kind == "pg_class" and row["relkind"] in "ti")
                or (kind == "pg_type" and (row["typrelid"] != "0" or row["typelem"] != "0"))
            ):
                continue
            found.append(
                f"the {printable(label(catalog, table, row))} {_where(catalog)} is in a schema of"
                " PostgreSQL's own, where everybody finds it first. If it is not yours, drop it as"
                " superuser"
            )
    return found


def _without_password(catalog: Catalog) -> list[str]:
    found = []
    for row in catalog.rows["pg_user_mapping"]:
        options = [each.lower() for each in parse_array(row["umoptions"])]
        if any(re.match(r"password_required=(f|n|of|0)", each) for each in options):
            server = catalog.names["pg_foreign_server"].get(row["umserver"], "?")
            name = catalog.roles.get(row["umuser"])
            role = sql_identifier(name) if name else "PUBLIC"
            found.append(
                f"{role} {_where(catalog)} reaches the server {printable(server)} without a"
                " password (password_required=false), also as superuser. If it is not yours: DROP"
                f" USER MAPPING FOR {role} SERVER {sql_identifier(server)}"
            )
    return found
