"""Judge from ACL LOG what Redis has refused the application's user (no I/O).

Whoever reaches Redis writes into that log (a wrong name at a login), so its texts are printable and
its size is bounded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..model.redis_users import ADDABLE, APP_USER
from ..text import quote

# Entries that are asked for; Redis keeps 128 as a rule. Bytes of them that are read.
MOST_ENTRIES = 128
MOST_BYTES = 4 << 20
# Commands that are listed.
MOST_COMMANDS = 10
WIDTH = 60
PAGE = "docs/PRODUCTION_DOCKER.md"


class UnreadableError(ValueError):
    """The log is not what Redis prints; the message says so."""


def refusals(text: str, hours: float) -> list[str]:
    """Return a sentence for each command that the application's user was refused lately.

    Args:
        text: ``redis-cli --json acl log``.
        hours: older entries are left out: they may be of a release that is gone.

    Raises:
        UnreadableError: the text is no such log.
    """
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"ACL LOG of Redis cannot be read: {quote(error, 200)}") from None
    if not isinstance(entries, list):
        raise UnreadableError(f"ACL LOG of Redis is no list: {quote(text, 80)}")
    counts: dict[str, int] = {}
    ages: dict[str, float] = {}
    for entry in entries[:MOST_ENTRIES]:
        found = _command(entry, hours * 3600)
        if found:
            name, count, age = found
            counts[name] = counts.get(name, 0) + count
            ages[name] = min(age, ages.get(name, age))
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    rows = [_sentence(name, counts[name], ages[name]) for name in ordered[:MOST_COMMANDS]]
    if len(ordered) > MOST_COMMANDS:
        rows.append(f"and {len(ordered) - MOST_COMMANDS} more commands, see ACL LOG in Redis")
    return rows


def _command(entry: Any, seconds: float) -> tuple[str, int, float] | None:
    """Return name, count and age in seconds of a refused command; None of anything else."""
    if not isinstance(entry, Mapping):
        return None
    if (entry.get("reason"), entry.get("username")) != ("command", APP_USER):
        return None
    try:
        name, count = str(entry["object"]).lower(), min(int(entry["count"]), 10**9)
        age = float(entry["age-seconds"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return (name, count, age) if count > 0 and 0 <= age <= seconds else None


def _sentence(name: str, count: int, age: float) -> str:
    times = "once" if count == 1 else f"{count} times"
    remedy = (
        f"add it to stack_redis_commands, or call another one ({PAGE})"
        if name in ADDABLE
        else f"the application cannot be given it, call another one ({PAGE})"
    )
    return (
        f"The application's Redis user was refused the command {quote(name, WIDTH)} {times},"
        f" last {_ago(age)} ago: {remedy}"
    )


def _ago(seconds: float) -> str:
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
