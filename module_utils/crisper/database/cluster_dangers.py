"""Rights and settings that give somebody a superuser's rights in every database. Python 3.9+."""

from __future__ import annotations

import re

from ..text import printable, sql_identifier
from .acl import rights
from .catalog import SUPERUSER_OID, Catalog, parse_array

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


def _parameter(name: str) -> str:
    """Return the name of a setting for a statement; a dot separates its parts."""
    plain = re.fullmatch("[a-z_][a-z0-9_]*", name)
    return name if plain else ".".join(sql_identifier(part) for part in name.split("."))


def of_cluster(catalog: Catalog, application: str) -> list[str]:
    """Return what gives somebody a superuser's rights in every database, a sentence each.

    Args:
        catalog: that of the application's database.
    """
    return [
        *_parameters(catalog),
        *_settings_of_files(catalog),
        *_settings_of_sessions(catalog, application),
        *_subscriptions(catalog),
        *_replication_slots(catalog),
        *_open_template(catalog),
    ]


def _databases(catalog: Catalog) -> dict[str, str]:
    return {row["oid"]: row["datname"] for row in catalog.rows["pg_database"]}


def _parameters(catalog: Catalog) -> list[str]:
    found = []
    for row in catalog.rows["pg_parameter_acl"]:
        for right in sorted(rights("", row["paracl"], catalog.super_names)):
            grantee, _, letter = right.rpartition("=")
            verb = {"s": "SET", "A": "ALTER SYSTEM"}.get(letter, letter)
            who = sql_identifier(grantee) if grantee else "PUBLIC"
            found.append(
                f"{who} may change the setting {printable(row['parname'])} ({printable(verb)}). If"
                f" that is not yours: REVOKE {verb} ON PARAMETER {_parameter(row['parname'])}"
                f" FROM {who}"
            )
    return found


def _settings_of_files(catalog: Catalog) -> list[str]:
    found = []
    for row in catalog.rows["file_settings"]:
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
    return found


def _settings_of_sessions(catalog: Catalog, application: str) -> list[str]:
    found = []
    superuser = catalog.roles.get(str(SUPERUSER_OID), "")
    databases = _databases(catalog)
    for row in catalog.rows["pg_db_role_setting"]:
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
    return found


def _subscriptions(catalog: Catalog) -> list[str]:
    found, databases = [], _databases(catalog)
    for row in catalog.rows["pg_subscription"]:
        if row["subowner"] in catalog.superusers:
            database = printable(databases.get(row["subdbid"], "?"))
            found.append(
                f"the subscription {printable(row['subname'])} in the database {database} writes"
                " into tables as superuser. If it is not yours: DROP SUBSCRIPTION"
                f" {sql_identifier(row['subname'])}"
            )
    return found


def _replication_slots(catalog: Catalog) -> list[str]:
    """Return the slots, for which the server keeps its log until the disk is full."""
    return [
        f"the replication slot {printable(row['slot_name'])} keeps the server's log"
        f" ({'in use' if row['active'] == 't' else 'nobody reads it'}), until the disk is full. If"
        f" it is not yours: SELECT pg_catalog.pg_drop_replication_slot('{row['slot_name']}')"
        for row in catalog.rows["pg_replication_slots"]
        # PostgreSQL allows no other characters.
        if re.fullmatch("[a-z0-9_]{1,63}", row["slot_name"] or "")
    ]


def _open_template(catalog: Catalog) -> list[str]:
    found = []
    for row in catalog.rows["pg_database"]:
        if row["datname"] == "template0" and row["datallowconn"] == "t":
            found.append(
                "the database template0 takes connections, and new databases are copies of it."
                " If that is not yours: ALTER DATABASE template0 ALLOW_CONNECTIONS false"
            )
    return found
