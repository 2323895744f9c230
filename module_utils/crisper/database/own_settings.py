"""Rights and settings by which the application's role keeps itself out of its own database.

A role may take rights on its database from itself, and set defaults for its own sessions (ALTER
ROLE … SET, ALTER DATABASE … SET). What no working application has is reset by each deploy; what an
operator may want stays, and is named when the application cannot use its database. Python 3.9+.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..backup.manifest import BackupError
from ..docker.exec import Docker
from ..text import printable, sql_identifier
from .acl import grants
from .catalog import Catalog, identifier, parse_array

RIGHTS = {"c": "CONNECT", "T": "TEMPORARY", "C": "CREATE"}
# Milliseconds below which no application works: an operator's limit is longer.
SHORTEST = {
    **dict.fromkeys(("statement_timeout", "transaction_timeout"), 100.0),
    **dict.fromkeys(("idle_in_transaction_session_timeout", "idle_session_timeout"), 100.0),
    **dict.fromkeys(("lock_timeout", "tcp_user_timeout"), 10.0),
}
# The value that is harmless begins so; any other keeps the application from its tables.
HARMLESS = {
    **dict.fromkeys(("default_transaction_read_only", "exit_on_error"), re.compile("0|n|of|f")),
    **dict.fromkeys(
        ("local_preload_libraries", "restrict_nonsystem_relation_kind"), re.compile(r"\s*\Z|\"\"\Z")
    ),
}
_UNITS = {"us": 0.001, "": 1.0, "ms": 1.0, "s": 1e3, "min": 6e4, "h": 3.6e6, "d": 8.64e7}
_TIME = re.compile(r"\s*([0-9.]+)\s*([a-z]*)\s*\Z")
# As the application logs in: nothing of its defaults is set aside.
LOG_IN = (
    "exec psql --quiet --no-psqlrc --tuples-only --no-align --set ON_ERROR_STOP=1"
    ' --username "$POSTGRES_DB" --dbname "$POSTGRES_DB" --file -'
)
_USE = "BEGIN; CREATE TEMPORARY TABLE crisper_look (x pg_catalog.int4); ROLLBACK;"


@dataclass(frozen=True)
class Setting:
    """A default of sessions: `owner` is as ALTER takes it (``ROLE "shop"``)."""

    owner: str
    name: str
    value: str

    @property
    def reset(self) -> str:
        """Return the statement that takes the default away."""
        return f"ALTER {self.owner} RESET {self.name}"

    @property
    def locks_out(self) -> bool:
        """Return whether no application works with it."""
        name = self.name.lower()
        if name in SHORTEST:
            duration = milliseconds(self.value)
            return duration is None or 0 < duration < SHORTEST[name]
        harmless = HARMLESS.get(name)
        return bool(harmless and not harmless.match(self.value.lower()))


def milliseconds(text: str) -> float | None:
    """Return a time as PostgreSQL reads it; None of what cannot be read."""
    match = _TIME.match(text.lower())
    try:
        return float(match[1]) * _UNITS[match[2]] if match else None
    except (ValueError, KeyError):
        return None


def own_settings(catalog: Catalog, application: str) -> list[Setting]:
    """Return the defaults that the application's role may set for its sessions."""
    databases = {row["oid"]: row["datname"] for row in catalog.rows["pg_database"]}
    name, found = identifier(application), []
    for row in catalog.rows["pg_db_role_setting"]:
        database = databases.get(row["setdatabase"], "")
        role = catalog.roles.get(row["setrole"], "")
        owner = {
            ("", application): f"ROLE {name}",
            (application, application): f"ROLE {name} IN DATABASE {name}",
            (application, ""): f"DATABASE {name}",
        }.get((database, role))
        # A role that is gone has a number, and no name.
        if owner and (role or row["setrole"] == "0"):
            pairs = (each.partition("=") for each in parse_array(row["setconfig"]))
            found += [Setting(owner, word, value) for word, _, value in pairs]
    return found


def missing_rights(database: Mapping[str, Any], application: str) -> list[str]:
    """Return the rights on its database that the application has lost.

    Args:
        database: its row of pg_database.
    """
    acl = database["datacl"]
    if acl is None:  # the owner has them all
        return []
    has = {letter for g in grants(acl) if g.grantee in ("", application) for letter in g.letters}
    return [word for letter, word in RIGHTS.items() if letter not in has]


def describe_lockout(
    docker: Docker, container: str, application: str, settings: Sequence[Setting]
) -> list[str]:
    """Return why the application cannot use its database, with remedies; nothing when it can.

    Args:
        settings: those of :func:`own_settings`.
    """
    try:
        docker.answer("log in", docker.inside(container, LOG_IN), _USE.encode())
    except BackupError as error:
        name = printable(application)
        resets = "; ".join(_printable_reset(each) for each in settings[:10])
        remedy = (
            f" Its sessions start with settings that it may have made itself; as superuser take"
            f" away those that are not yours: {resets}"
            if resets
            else " Look at its rights and at the log of PostgreSQL"
        )
        words = printable(" ".join(str(error).removeprefix("log in: ").split()))
        return [f"the role {name} cannot use its database ({words}).{remedy}"]
    return []


def _printable_reset(setting: Setting) -> str:
    plain = re.fullmatch("[a-z_][a-z0-9_]*", setting.name)
    word = setting.name if plain else ".".join(map(sql_identifier, setting.name.split(".")))
    return printable(f"ALTER {setting.owner} RESET {word} (now {setting.value})")
