"""Ends the counting of a deploy and reads what it counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..remote.run import parse
from ..shapes import ANY, EACH, like, matches
from ..text import printable

# What M(deploy_ledger) gives to whoever ends the counting.
SPEC: dict[str, Any] = {
    "type": "dict",
    "options": {
        "name": {"type": "str", "required": True},
        "wait": {"type": "float", "default": 20},
    },
}

# The numbers are its last line; the application may print as much as it likes before.
LOG_LINES, WIDTH = 1000, 500
COUNTS = ("accepted", "refused", "finished", "failed", "waiting", "stranded", "lost", "twice")
TASKS: dict[str, Any] = dict.fromkeys(COUNTS, 0)
REQUESTS: dict[str, Any] = {"probed": 0, "failed": 0, "errors": {EACH: 0}, "normal": [0]}


def end(
    docker: Callable[..., tuple[int, str, str]], name: str, wait: float
) -> dict[str, dict[str, Any] | str]:
    """End the container and read its numbers.

    Args:
        docker: runs a Docker command; exit code, output and errors.
        name: of the container.
        wait: seconds that it waits for sentinels which are not finished.

    Returns:
        ``{tasks, requests, error}``; numbers are missing where `error` says why.
    """
    docker("stop", "--time", str(int(wait + 20)), name)
    code, out, err = docker("logs", "--tail", str(LOG_LINES), name)
    docker("rm", "--force", "--volumes", name)
    reply = parse(out) or {}
    if not reply:
        why = (err if code == 0 else "it was not running").strip()[-500:] or "it said nothing"
        reply = {"error": f"The ledger gave no numbers: {printable(why, WIDTH)}"}
    error = str(reply.get("error") or "")
    return {
        "tasks": counts_of(reply.get("tasks"), TASKS),
        "requests": counts_of(reply.get("requests"), REQUESTS),
        "error": error,
    }


def counts_of(counts: Any, shape: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers that were told and are some: one that is missing is not 0."""
    found = counts if isinstance(counts, dict) else {}
    wanted = {key: part for key, part in shape.items() if matches(found.get(key, ANY), part)}
    return {key: like(found[key], part) for key, part in wanted.items() if key in found}
