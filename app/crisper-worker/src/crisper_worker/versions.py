"""The versions of Celery, kombu and redis-py that this package was tested with.

Each takes away only what it must: a kombu that nobody has tested costs the lease and with it the
dead letters, because `crisper_worker.transport` reads kombu's own methods. Heartbeat, drain
deadline and node names need what Celery documents (boot steps, signals), and stay.
"""

from __future__ import annotations

import re
from typing import Any

import celery
import kombu

# First and last series of each; a newer one is added here when the tests have passed with it
# (scripts/test-celery). What differs between them is told in docs/COMPATIBILITY.md.
TESTED = {
    "celery": ((5, 3), (5, 7)),
    "kombu": ((5, 3), (5, 7)),
    "redis": ((4, 5), (8, 1)),
}


def series(version: str) -> tuple[int, ...]:
    """Return the first two numbers of a version; (0, 0) for what is none."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def installed() -> dict[str, str]:
    """Return the versions in this process; empty for a package that is not there."""
    versions = {"celery": celery.__version__, "kombu": kombu.__version__, "redis": ""}
    try:
        import redis

        versions["redis"] = redis.__version__
    except ImportError:
        pass  # an application with another broker
    return versions


def untested(versions: dict[str, str]) -> str:
    """Return which of the versions nobody has tested, in words; empty if all were."""
    return ", ".join(
        f"{name} {versions[name]} (tested: {described(first)} to {described(last)})"
        for name, (first, last) in TESTED.items()
        if versions[name] and not first <= series(versions[name]) <= last
    )


def described(numbers: tuple[int, ...]) -> str:
    """Return a series as people write it."""
    return ".".join(map(str, numbers))


def report(missing: dict[str, str]) -> dict[str, Any]:
    """Return what the remote control tells of this guard.

    Args:
        missing: what this worker does not have, with the reason.
    """
    return {**installed(), "missing": missing}
