"""Users of the stack's Redis: the application's, and the deploy's (no I/O).

The deploy, backups and health checks are Redis's user ``default``, whose password is
``redis_password``: releases of older editions connect as that one, so that both kinds of containers
run side by side during a deploy and after a rollback. The application is a user of its own.

Its password is derived from ``redis_password``, so that no inventory needs another secret, and
rotates with it; ``redis_password`` does not follow from it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from .validators import quoted

APP_USER = "app"
# INFO says nothing that the application could not find out, and monitoring reads it.
RULES = ("~*", "&*", "+@all", "-@admin", "-@dangerous", "+info")
# What an operator may add (stack_redis_commands): of the dangerous ones those that reach no file,
# no other user, no other server and no setting.
ADDABLE = (
    "client|list",
    "flushdb",
    "keys",
    "lastsave",
    "restore",
    "role",
    "slowlog|get",
    "slowlog|len",
    "sort",
    "sort_ro",
    "swapdb",
)
# With the application's password, each guess at a weak redis_password costs 16 MiB and some 50 ms.
SCRYPT = {"n": 2**14, "r": 8, "p": 1, "dklen": 24}
USER = re.compile(r"user[ \t]+(\S+)[ \t]", re.IGNORECASE)
# Name and major version of a reference such as docker.io/library/redis:8.0-alpine@sha256:…
SERVER = re.compile(r"(?:^|/)(redis|valkey):(\d{1,4})(?=[.@-]|\Z)")
# Redis's release notes of 7.0.
FIRST_COUNTING = 7


@lru_cache(maxsize=16)
def app_password(redis_password: str, stack: str) -> str:
    """Return the password of the application's user, 48 hexadecimal digits."""
    salt = f"crisper/{stack}/redis/{APP_USER}".encode()
    return hashlib.scrypt(redis_password.encode(), salt=salt, **SCRYPT).hex()


def app_user(redis_password: str, stack: str, commands: Sequence[str] = ()) -> str:
    """Return the line of redis.conf that makes the application's user.

    Args:
        redis_password: the secret of that name.
        stack: name of the stack.
        commands: further ones it may call, of ADDABLE.
    """
    digest = hashlib.sha256(app_password(redis_password, stack).encode()).hexdigest()
    added = [f"+{command}" for command in commands]
    return " ".join(["user", APP_USER, "on", f"#{digest}", *RULES, *added])


def counts_clients(reference: str) -> bool:
    """Return whether a server of this image knows ``maxmemory-clients``: Redis 7, Valkey.

    One that does not know it would not start.

    Args:
        reference: of the image; a name or a tag of another form counts as older.
    """
    match = SERVER.search(reference)
    if match is None:
        return False
    return match[1] == "valkey" or int(match[2]) >= FIRST_COUNTING


def validate(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with stack_redis_commands."""
    commands = values.get("stack_redis_commands") or []
    if isinstance(commands, (str, Mapping)) or not isinstance(commands, Sequence):
        yield f"stack_redis_commands is {quoted(commands)}: give a list of commands of Redis."
        return
    for command in commands:
        if command not in ADDABLE:
            yield (
                f"stack_redis_commands: {quoted(command)} is none that the application may be"
                f" given; choose of {', '.join(ADDABLE)}."
            )


def with_users_of(wanted: str, live: str) -> str:
    """Return a redis.conf that also has those users of the one in force which it does not name.

    Containers of the release that still serves connect as them until they are gone: after a
    rollback to a release of an older edition, whose configuration has only ``default``, or when the
    deploy fails half-way.

    Args:
        wanted: configuration of the release that is deployed or put back.
        live: configuration in force; empty for none.
    """
    known = _users(wanted).keys() | {"default"}
    lines = [line for name, line in _users(live).items() if name not in known]
    if not lines:
        return wanted
    end = "" if not wanted or wanted.endswith("\n") else "\n"
    return f"{wanted}{end}" + "".join(f"{line}\n" for line in lines)


def _users(text: str) -> dict[str, str]:
    found = {}
    for line in text.splitlines():
        match = USER.match(line)
        if match:
            found[match[1]] = line
    return found
