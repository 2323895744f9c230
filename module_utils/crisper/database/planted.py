"""What a superuser may have left in a PostgreSQL to be one again, found by comparing catalogs.

The measure is a new cluster of the same image: every built-in object must be as initdb makes it,
and every member of an extension as ``CREATE EXTENSION`` makes it. What is in neither is judged by
what it can do. Python 3.9+.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..text import printable, sql_identifier
from .catalog import (
    SUPERUSER_OID,
    TABLES,
    Catalog,
    builtin,
    parse_array,
)

REBUILD = "ansible-playbook playbooks/upgrade.yml -e database_rebuild=true (docs/UPGRADE.md)"
# Settings that have the server or its sessions run something, or let somebody else in.
DANGEROUS_SETTING = re.compile(
    r"(?:\w*_command|\w*_librar(?:y|ies)|dynamic_library_path|extension_control_path|jit_provider"
    r"|(?:hba|ident|config)_file|data_directory|external_pid_file|unix_socket_\w+|krb_server_keyfile"
    r"|ssl_(?:cert|key|ca|crl|dh_params)\w*|primary_conninfo|log_(?:directory|filename)"
    r"|stats_temp_directory|allow_system_table_mods|session_authorization|session_replication_role"
    r"|lo_compat_privileges|restrict_nonsystem_relation_kind)\Z"
)
# An application sets these for itself; for a superuser's sessions it must not.
OWN_SETTING = re.compile(r"(?:search_path|role|local_preload_libraries)\Z")
# Characters of a statement in a message.
MOST_STATEMENT = 1000
# Whatever the catalog says.
NEVER_TRUSTED = ("c", "internal")
# Schemas in which every name is PostgreSQL's.
SYSTEM = ("pg_catalog", "information_schema")
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
# What everybody may where nobody has said anything.
_PUBLIC = {"pg_database": {"=T", "=c"}, "pg_proc": {"=X"}, "pg_type": {"=U"}, "pg_language": {"=U"}}
_ACL_ITEM = re.compile(r'("(?:[^"]|"")*"|[^=]*)=([A-Za-z*]*)/', re.DOTALL)
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
    "pg_depend", "pg_default_acl", "pg_user_mapping",
}  # fmt: skip
# Its owner and its rights are an operator's, and those of each edition of PostgreSQL.
_NOT_COMPARED = {("pg_namespace", "public")}


# --- One cluster ------------------------------------------------------------------------------
@dataclass(frozen=True)
class Grant:
    """Rights that somebody has on an object; `*` behind a letter: he may pass it on."""

    grantee: str  # empty for PUBLIC
    letters: str


def grants(acl: str | None, table: str = "") -> list[Grant]:
    """Return the rights that an object's ACL gives, by grantee.

    Args:
        acl: as PostgreSQL writes it; None where nobody has said anything.
        table: the object's catalog, for what everybody may then.
    """
    if acl is None:
        return [Grant("", "".join(right.lstrip("=") for right in sorted(_PUBLIC.get(table, ()))))]
    found = []
    for item in parse_array(acl):
        if match := _ACL_ITEM.match(item):
            name = match[1]
            plain = name[1:-1].replace('""', '"') if name.startswith('"') else name
            found.append(Grant(plain, match[2]))
    return found


def rights(table: str, acl: str | None, superusers: Iterable[str]) -> set[str]:
    """Return ``grantee=letter`` for each right that somebody but a superuser has."""
    if acl is None:
        return set(_PUBLIC.get(table, ()))
    return {
        f"{each.grantee}={letter}"
        for each in grants(acl)
        if each.grantee not in superusers
        for letter in each.letters.replace("*", "")
    }


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
    told = catalog.qualified(row[schema], row[name]) if schema else row[name]
    if kind == "pg_opclass":
        told += f" USING {names['pg_am'].get(row['opcmethod'], '?')}"
    return f"{word} {told}"


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
    """What a new cluster has: per part and object, digests of its rows and everybody's rights."""

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
            told = label(catalog, table, row)
            values = [_value(catalog, name, target, row[name]) for name, target in plain]
            digest = hashlib.sha256(repr((table, values)).encode()).hexdigest()[:16]
            found.rows.setdefault(whose, {}).setdefault(told, []).append(digest)
            if kind in ACL_COLUMNS:
                has = rights(kind, row[ACL_COLUMNS[kind]], catalog.super_names)
                known = found.rights.setdefault(whose, {})
                known[told] = sorted(has | set(known.get(told, ())))
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


# --- Compared ---------------------------------------------------------------------------------
def differences(found: Measure, wanted: Measure, parts: Iterable[str]) -> dict[str, list[str]]:
    """Return what is other than in a new cluster: ``{what: [object]}``.

    Args:
        parts: those that are compared.
    """
    told: dict[str, list[str]] = {"changed": [], "added": [], "missing": [], "open": []}
    for each in parts:
        here, there = found.rows.get(each, {}), wanted.rows.get(each, {})
        suffix = "" if each == "builtin" else f" of {each}"
        for name in sorted(set(here) | set(there)):
            if Counter(here.get(name, ())) == Counter(there.get(name, ())):
                continue
            what = "added" if name not in there else "missing" if name not in here else "changed"
            told[what].append(f"{name}{suffix}")
        for name, has in sorted(found.rights.get(each, {}).items()):
            more = set(has) - set(wanted.rights.get(each, {}).get(name, ()))
            if more and name in there:
                told["open"].append(f"{name}{suffix} ({', '.join(sorted(more))})")
    return told


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


def _parameter(name: str) -> str:
    """Return the name of a setting for a statement; a dot separates its parts."""
    plain = re.fullmatch("[a-z_][a-z0-9_]*", name)
    return name if plain else ".".join(sql_identifier(part) for part in name.split("."))


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
        told = printable(label(catalog, "pg_transform", row))
        found.append(
            f"the {told} {_where(catalog)} runs code of its maker. If it is not yours: DROP"
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


def of_cluster(catalog: Catalog, application: str) -> list[str]:
    """Return what gives somebody a superuser's rights in every database, a sentence each.

    Args:
        catalog: that of the application's database.
    """
    found, rows = [], catalog.rows
    superuser = catalog.roles.get(str(SUPERUSER_OID), "")
    databases = {row["oid"]: row["datname"] for row in rows["pg_database"]}
    for row in rows["pg_parameter_acl"]:
        for right in sorted(rights("", row["paracl"], catalog.super_names)):
            grantee, _, letter = right.rpartition("=")
            verb = {"s": "SET", "A": "ALTER SYSTEM"}.get(letter, letter)
            who = sql_identifier(grantee) if grantee else "PUBLIC"
            found.append(
                f"{who} may change the setting {printable(row['parname'])} ({printable(verb)}). If"
                f" that is not yours: REVOKE {verb} ON PARAMETER {_parameter(row['parname'])}"
                f" FROM {who}"
            )
    for row in rows["file_settings"]:
        word = row["name"] or ""
        if not DANGEROUS_SETTING.match(word):
            continue
        automatic = (row["sourcefile"] or "").endswith("postgresql.auto.conf")
        file = printable((row["sourcefile"] or "?").rpartition("/")[2])
        setting = printable(f"{word} = {row['setting']}")
        found.append(
            f"the server runs what ALTER SYSTEM has set: {setting}. If it is not yours: ALTER"
            f" SYSTEM RESET {_parameter(word)}"
            if automatic
            else f"the server runs what {file} has: {setting}. If it is not yours, remove the line"
        )
    for row in rows["pg_db_role_setting"]:
        database, role = databases.get(row["setdatabase"], ""), catalog.roles.get(row["setrole"])
        every = row["setrole"] in ("0", str(SUPERUSER_OID)) and (
            row["setdatabase"] == "0" or database == application
        )
        for setting in parse_array(row["setconfig"]):
            word, _, value = setting.partition("=")
            captures = every and OWN_SETTING.match(word)
            if word == "search_path" and "pg_catalog" not in value:
                continue
            # `role` and search_path of a role that is no superuser are its own affair.
            if not (
                captures or (DANGEROUS_SETTING.match(word) and word != "local_preload_libraries")
            ):
                continue
            of = f"ROLE {sql_identifier(role)}" if role else "ROLE ALL"
            within = f" IN DATABASE {sql_identifier(database)}" if database else ""
            alter = f"DATABASE {sql_identifier(database)}" if database and not role else of + within
            whose = "a superuser's sessions" if role in (None, superuser) else f"sessions of {role}"
            found.append(
                f"{printable(whose)} start with {printable(setting)}: ALTER {alter}"
                f" RESET {_parameter(word)}"
            )
    for row in rows["pg_subscription"]:
        if row["subowner"] in catalog.superusers:
            database = printable(databases.get(row["subdbid"], "?"))
            found.append(
                f"the subscription {printable(row['subname'])} in the database {database} writes"
                " into tables as superuser. If it is not yours: DROP SUBSCRIPTION"
                f" {sql_identifier(row['subname'])}"
            )
    for row in rows["pg_database"]:
        if row["datname"] == "template0" and row["datallowconn"] == "t":
            found.append(
                "the database template0 takes connections, and new databases are copies of it."
                " If that is not yours: ALTER DATABASE template0 ALLOW_CONNECTIONS false"
            )
    return found


def compared(
    catalog: Catalog, found: Measure, wanted: Measure, unknown: Iterable[str] = ()
) -> list[str]:
    """Return what of a database is other than in a new cluster, a sentence each.

    Args:
        unknown: extensions that a new cluster does not get.
    """
    parts = ["builtin", *(f"extension {name}" for name, *_ in catalog.extensions())]
    parts = [each for each in parts if each.removeprefix("extension ") not in set(unknown)]
    where = f"in the database {printable(catalog.database)}"
    words = {
        "changed": "is not as a new cluster of the same image has it",
        "added": "is not in a new cluster of the same image",
        "missing": "is in a new cluster of the same image and not here",
        "open": "is open to more than in a new cluster of the same image",
    }
    told = differences(found, wanted, parts)
    return [f"the {printable(name)} {where} {words[what]}" for what in words for name in told[what]]


def of_files(catalog: Catalog, hba: Iterable[str], roles: Iterable[str]) -> list[str]:
    """Return lines of pg_hba.conf and powers of built-in roles that a new cluster has not.

    Args:
        hba: what :func:`access` returns of a new cluster.
        roles: what :func:`roles_of` returns of a new cluster.
    """
    found = []
    for line in sorted(set(access(catalog)) - set(hba)):
        found.append(
            "pg_hba.conf or pg_ident.conf has a line that a new cluster has not:"
            f" {printable(line)}. If it is not yours, remove it, then SELECT pg_reload_conf()"
        )
    for each in sorted(set(roles_of(catalog)) - set(roles)):
        found.append(
            f"a role of PostgreSQL's own has more than in a new cluster: {printable(each)}"
        )
    return found
