"""Secrets: which ones a stack needs, and what its services can take as one (no I/O)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ..backup.signature import MIN_KEY
from ..backup.signature import SECRET as BACKUP_SECRET
from .marks import named_secrets
from .validators import as_mapping

SECRET_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")
SECRETS = ("postgres_password", "redis_password", "qdrant_api_key", "secret_key")
# No client outside the stack has them: the server makes those that the inventory lacks.
OWN_SECRETS = ("postgres_superuser_password",)
MARIADB_SECRETS = ("mariadb_password", "mariadb_root_password")
# Longer ones do not fit every client: they stand in URLs, prompts and HTTP headers.
MAX_SECRET = 1024


def required_secrets(values: Mapping[str, Any]) -> list[str]:
    """Return the names of the secrets this stack cannot run without."""
    names = [*SECRETS, *OWN_SECRETS]
    if values.get("mariadb_enabled"):
        names += MARIADB_SECRETS
    app = as_mapping(values.get("stack_app"))
    named = as_mapping(app.get("secret_environment")).values()
    for name in (*named, *named_secrets(app.get("environment_templates"))):
        if isinstance(name, str) and SECRET_NAME.match(name) and name not in names:
            names.append(name)
    own_key = as_mapping(values.get("stack_secrets")).get(BACKUP_SECRET)
    if BACKUP_SECRET not in names and (own_key or values.get("stack_secrets_generate") is True):
        names.append(BACKUP_SECRET)
    return names


def validate(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield names and remedies of wrong secrets; of a value nothing but its length."""
    if not isinstance(values.get("stack_secrets", {}), Mapping):
        yield "stack_secrets is no mapping: give names and values (docs/DEPLOYMENT.md)."
        return
    secrets = as_mapping(values.get("stack_secrets"))
    for name in required_secrets(values):
        value, where = secrets.get(name), f"stack_secrets.{name}"
        if value is None or value == "":
            if values.get("stack_secrets_generate") is not True and name not in OWN_SECRETS:
                yield (
                    f"{where} is missing: set vault_{name} with"
                    " `ansible-vault edit` (inventories/example shows how),"
                    " or stack_secrets_generate: true."
                )
        elif not isinstance(value, str):
            yield f"{where} is no text: quote it (YAML reads 0123 as 83, and yes as true)."
        elif name in (*SECRETS, *OWN_SECRETS, *MARIADB_SECRETS, BACKUP_SECRET):
            yield from _password_problems(where, value)
            if name == BACKUP_SECRET and len(value.strip()) < MIN_KEY:
                yield (
                    f"{where} has {len(value.strip())} characters: give {MIN_KEY} or more, such as"
                    " of `openssl rand -base64 32`."
                )


def _password_problems(where: str, value: str) -> Iterator[str]:
    """Yield what the stack's services and their clients cannot take as a password or key."""
    if re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", value):
        yield f"{where} holds a control character: use printable characters only."
    length = len(value.encode(errors="replace"))
    if length > MAX_SECRET:
        yield f"{where} is {length} bytes long: give at most {MAX_SECRET}."
    if where.endswith(".qdrant_api_key") and (not value.isascii() or value != value.strip()):
        yield (
            f"{where} is sent in an HTTP header: use ASCII characters, with no space at its ends."
        )
