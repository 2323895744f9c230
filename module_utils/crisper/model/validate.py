"""Judge all variables of a stack at once: every finding names variable, value and remedy.

Pure functions of plain data. Each room of this package judges its own variables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..host.firewall import validate as validate_host_ports
from ..proxy.entry import entry_problems
from ..proxy.public_url import validate as validate_public_url
from . import (
    application,
    celery_settings,
    container_limits,
    entry_point,
    environment,
    environment_templates,
    guard,
    hooks,
    images,
    redis_users,
    secrets,
    service_files,
    service_options,
    workers,
)
from .validators import (
    BOOLEAN,
    FORMS,
    as_mapping,
    boolean_remedy,
    carried,
    printable,
    quoted,
    texts,
)

# Also a part of an image's name, in which no two separators follow each other.
NAME = re.compile(r"[a-z0-9]+(?:(?:__?|-+)[a-z0-9]+)*\Z")
# Users and databases are named like the stack; these names are the servers' own.
TAKEN = re.compile(r"(?:pg_.*|template[01])\Z")
TAKEN_MARIADB = frozenset({"root", "mysql", "sys", "information_schema", "performance_schema"})


def validate(values: Mapping[str, Any]) -> list[str]:
    """Return everything wrong with the stack's variables, one sentence each, with the remedy.

    Args:
        values: the shared variables of role ``stack`` by name.
    """
    found = [
        *_text_problems(values),
        *_form_problems(values),
        *_identity_problems(values),
        *entry_point.validate(values),
        *validate_public_url(values),
        *application.validate(values),
        *guard.validate(values),
        *entry_problems(values),
        *validate_host_ports(values),
        *environment.validate(values),
        *environment_templates.validate(values),
        *images.validate_references(values),
        *images.validate_pinning(values),
        *images.validate_logins(values),
        *environment.validate_proxies(values, "stack_proxy"),
        *environment.validate_proxies(values, "stack_container_proxy"),
        *workers.validate(values),
        *service_options.validate(values),
        *service_files.validate(values),
        *celery_settings.validate(values),
        *container_limits.validate(values),
        *workers.validate_budget(values),
        *secrets.validate(values),
        *hooks.validate(values),
        *redis_users.validate(values),
    ]
    return [printable(finding) for finding in found]


def _text_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield texts that no file, process or URL can carry, wherever they stand."""
    for name, value in values.items():
        for where, text in texts(value, name):
            if problem := carried(text):
                yield f"{where} {problem}"


def _form_problems(values: Mapping[str, Any]) -> Iterator[str]:
    for name, form in FORMS.items():
        *parents, last = name.split(".")
        section: Any = values
        for parent in parents:
            section = as_mapping(section.get(parent))
        if last in section and not form.matches(section[last]):
            # On the command line a value within a mapping is given as a whole.
            is_option = form is BOOLEAN and not parents
            remedy = boolean_remedy(name, section[last]) if is_option else form.remedy
            yield f"{name} is {quoted(section[last])}: {remedy}"


def _identity_problems(values: Mapping[str, Any]) -> Iterator[str]:
    name = values.get("stack_name", "")
    if not isinstance(name, str) or len(name) > 40 or not NAME.match(name):
        yield (
            f"stack_name is {quoted(name)}: use lower-case letters and digits, with single '-' or"
            " '_' between them, at most 40; quote it when it is a number."
        )
        return
    database = name.replace("-", "_")
    mariadb = values.get("mariadb_enabled") is True and database in TAKEN_MARIADB
    if TAKEN.match(database) or mariadb:
        yield f"stack_name is {name!r}: the database has a {database!r} of its own; choose another."
