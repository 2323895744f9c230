"""Limits for asking a container that a run is about to replace, and the warning about it.

It may be broken or compromised: it can kill, stop or answer for whatever is run in it. So it costs
a run seconds and a warning, and never refuses the release that replaces it.
"""

from __future__ import annotations

from typing import Any

# Seconds that the application may take to be imported there. A container of one's own has longer.
IMPORT_SECONDS = 20
# Seconds for `docker exec` and its Python to start, besides what the program in it has for itself.
START_SECONDS = 10
# What `docker ps --quiet` prints of an id.
ID_WIDTH = 12


def hurried(request: dict[str, Any], timeout: float) -> tuple[dict[str, Any], float]:
    """Return the request with less time, and the seconds after which its program is ended.

    Args:
        request: with ``import_timeout``.
        timeout: seconds that the program has after the import.
    """
    seconds = min(request["import_timeout"], IMPORT_SECONDS)
    quick = {**request, "import_timeout": seconds, "timeout": timeout}
    return quick, seconds + timeout + START_SECONDS


def no_answer(container: str, why: str, instead: str) -> str:
    """Return the warning that a container gave no answer.

    Args:
        container: its id.
        why: what happened.
        instead: what is done about it, as a sentence without its full stop.
    """
    name = container[:ID_WIDTH]
    return (
        f"Container {name} gave no answer: {why}. {instead}. If something in it kills or stops what"
        f" is run there, look at it (docker top {name}); `docker stop {name}` ends it before a"
        " deploy replaces it."
    )
