"""Variables of the application that name services of the stack: ``{{ redis.url(1) }}`` (no I/O).

Ansible renders such a text long before a password is known. What it gets for a name is therefore a
mark, which passes through all checks and stands in no secret's place; the rendering of a release
puts the values in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..backup.signature import SECRET as BACKUP_SECRET
from .marks import MARK, SECRET, mark, marks
from .secrets import SECRET_NAME
from .validators import as_mapping, quoted

# What an operator may name; of `secrets` any name, and of redis a database.
NAMES: dict[str, tuple[str, ...]] = {
    "postgres": (
        *("url", "asyncpg_url", "psycopg_url", "host", "port", "user", "password", "database"),
    ),
    "redis": ("url", "host", "port", "user", "password"),
    "qdrant": ("url", "api_key"),
    "mariadb": ("url", "host", "port", "user", "password", "database"),
}
REDIS_DATABASES = 16
# Variable of Celery's own that overrides the application's settings in every process -> words in
# the names of variables of an application that takes over that matter itself.
OVERRIDES = {
    "CELERY_BROKER_URL": ("BROKER", "URL"),
    "CELERY_RESULT_BACKEND": ("RESULT", "BACKEND"),
}


class Reference(str):
    """A mark that may be called with an argument: ``redis.url`` and ``redis.url(1)``."""

    __slots__ = ()

    def __call__(self, argument: Any) -> str:
        """Return the mark with that argument."""
        return mark(str(self)[len("[[crisper:") : -len("]]")], argument)


def reference(name: str) -> Reference:
    """Return what Ansible gets for a name that takes an argument."""
    return Reference(mark(name))


def references(service: str) -> dict[str, str]:
    """Return what Ansible gets for the names of a service that take no argument."""
    return {name: mark(f"{service}.{name}") for name in NAMES[service]}


def fill(templates: Mapping[str, Any], endpoints: Mapping[str, Any]) -> dict[str, Any]:
    """Return variables with the values of their marks.

    Args:
        templates: stack_app.environment_templates.
        endpoints: value by name; ``secret`` has the secrets, and what takes an argument has its
            place as ``{}``.
    """

    def value(found: re.Match[str]) -> str:
        name, argument = found[1], found[2]
        if name == SECRET:
            return str(endpoints[SECRET][argument])
        text = str(endpoints[name])
        return text.replace("{}", argument or "0") if name == "redis.url" else text

    return {
        name: MARK.sub(value, text) if isinstance(text, str) else text
        for name, text in templates.items()
    }


def wiring(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stack's variables, without those that would override what the application has.

    Celery takes CELERY_BROKER_URL and CELERY_RESULT_BACKEND before the application's settings. An
    application with variables of its own for that, such as BROKER_URL, has settings from these.
    """
    taken = {
        variable
        for variable, words in OVERRIDES.items()
        for name, value in own.items()
        if name != variable and gives_address(str(name), value, *words)
    }
    return {name: value for name, value in defaults.items() if name not in taken}


def gives_address(name: str, value: Any, what: str, kind: str) -> bool:
    """Return whether a variable has an address: MY_BROKER_URL has, BROKER_POOL_LIMIT has not."""
    return what in name.upper() and (kind in name.upper() or "://" in str(value))


def validate(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with stack_app.environment_templates, with the remedy."""
    app = as_mapping(values.get("stack_app"))
    for name, text in as_mapping(app.get("environment")).items():
        if any(marks(text)):
            yield (
                f"stack_app.environment.{name} names a service of the stack: move it to"
                " stack_app.environment_templates."
            )
    for name, text in as_mapping(app.get("environment_templates")).items():
        for service, argument in marks(text):
            yield from _mark_problems(f"stack_app.environment_templates.{name}", service, argument)
            if service.startswith("mariadb.") and not values.get("mariadb_enabled"):
                yield (
                    f"stack_app.environment_templates.{name} names mariadb, which does not run:"
                    " set mariadb_enabled: true."
                )


def _mark_problems(where: str, name: str, argument: str | None) -> Iterator[str]:
    if name == SECRET and not SECRET_NAME.match(argument or ""):
        yield f"{where}: secret({quoted(argument)}) is no name of a secret."
    if name == SECRET and argument == BACKUP_SECRET:
        yield f"{where} names {argument}, which signs backup sets: take another secret."
    number = argument if argument is None or argument.isdecimal() else "x"
    if name == "redis.url" and number is not None and not _is_database(number):
        yield (
            f"{where}: redis.url({argument}) is no database: give a number from 0 to"
            f" {REDIS_DATABASES - 1}."
        )


def _is_database(text: str) -> bool:
    return text.isdecimal() and len(text) < 3 and int(text) < REDIS_DATABASES
