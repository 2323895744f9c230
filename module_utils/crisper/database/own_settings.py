"""Settings and rights with which the application shuts itself out of its database. Python 3.9+.

Its role may set defaults for its own sessions, and for all of its database, and as the owner of the
database take its own right to connect. Neither goes with a restore. What is found here lets no
application work, so it is nobody's wish, and a deploy takes it back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .acl import grants
from .catalog import Catalog, identifier, parse_array
from .connections import roles_above

# Milliseconds below which a limit ends sessions that do nothing unusual.
SHORTEST = {
    "statement_timeout": 100.0,
    "transaction_timeout": 100.0,
    "idle_session_timeout": 100.0,
    "idle_in_transaction_session_timeout": 100.0,
    "lock_timeout": 10.0,
}
UNITS = {"us": 0.001, "": 1.0, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6, "d": 8.64e7}
LIMIT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*")


@dataclass(frozen=True)
class OwnSetting:
    """A default of the application's sessions: `name` as `value`, made by ``ALTER alter SET``."""

    alter: str
    name: str
    value: str

    @property
    def reset(self) -> str:
        """Return the statement that takes it back."""
        return f"ALTER {self.alter} RESET {self.name};"


def hinders(name: str, value: str) -> bool:
    """Return whether no application works with a setting."""
    if name == "local_preload_libraries":
        return value.strip(' "') != ""
    if name == "default_transaction_read_only":
        word = value.strip().lower()
        no = word == "0" or any(each.startswith(word) for each in ("false", "no", "off"))
        return word != "" and not no
    if name in SHORTEST:
        match = LIMIT.fullmatch(value)
        if not match or match[2] not in UNITS:
            return False
        return 0 < float(match[1]) * UNITS[match[2]] < SHORTEST[name]
    return False


def hindering_settings(catalog: Catalog, application: str) -> list[OwnSetting]:
    """Return the settings of the application's role and database with which it cannot work."""
    databases = {row["oid"]: row["datname"] for row in catalog.rows["pg_database"]}
    role, found = identifier(application), []
    for row in catalog.rows["pg_db_role_setting"]:
        database = databases.get(row["setdatabase"], "")
        if catalog.roles.get(row["setrole"]) == application:
            within = f" IN DATABASE {identifier(database)}" if database else ""
            alter = f"ROLE {role}{within}"
        elif row["setrole"] == "0" and database == application:
            alter = f"DATABASE {role}"
        else:
            continue
        pairs = (setting.partition("=")[::2] for setting in parse_array(row["setconfig"]))
        found += [OwnSetting(alter, *pair) for pair in pairs if hinders(*pair)]
    return found


def is_shut_out(catalog: Catalog, application: str) -> bool:
    """Return whether the application may not connect to its own database, or make schemas there."""
    (row,) = (row for row in catalog.rows["pg_database"] if row["datname"] == application)
    owner = catalog.roles.get(row["datdba"])
    if row["datacl"] is None or owner != application:
        return False
    names = {"", *(catalog.roles.get(each, "") for each in roles_above(catalog, row["datdba"]))}
    letters = {c for each in grants(row["datacl"]) if each.grantee in names for c in each.letters}
    return not {"c", "C"} <= letters
