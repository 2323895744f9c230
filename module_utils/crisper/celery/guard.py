"""Report what the guard of a worker cannot do there, from what workers tell of it.

Pure functions of what the workers answered (``nodes`` of M(celery_inspect)).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..model.workers import pool_service
from ..shapes import ANY, EACH, like
from ..text import WIDTH, listed, quote

# The setting by which a worker tells of its guard (crisper_worker/guard.py).
REPORT = "crisper_guard"
SHAPE = {"celery": "", "kombu": "", "redis": "", "missing": {EACH: ""}}
# What a worker does without a part of the guard.
LOSSES = {
    "lease": (
        "tasks of a killed worker wait for the visibility timeout, and none is set aside for"
        " killing its workers"
    )
}
MOST_SERVICES = 3


def conf_of(replies: Any) -> dict[str, Any]:
    """Return the settings that a worker tells; empty where it tells none."""
    settings: dict[str, Any] = like(replies, {"conf": {EACH: ANY}})["conf"]
    return settings


def guard_report(replies: Any) -> dict[str, Any] | None:
    """Return what a worker tells of its guard; None where it tells nothing."""
    conf = conf_of(replies)
    return like(conf[REPORT], SHAPE) if isinstance(conf.get(REPORT), Mapping) else None


def guard_warnings(nodes: Any, names: Collection[str], model: Mapping[str, Any]) -> list[str]:
    """Return one sentence for each thing that guards do not do, with the services.

    Args:
        nodes: of M(celery_inspect), by node.
        names: of the nodes of this release; others are not judged.
        model: of the release; without ``celery.guard`` it was made before there was one.
    """
    guarded = like(model, {"celery": {"guard": False}})["celery"]["guard"]
    if not isinstance(nodes, Mapping) or not guarded:
        return []
    found: dict[str, list[str]] = {}
    for node in sorted(set(names) & set(nodes)):
        for sentence in _losses(nodes[node]):
            services = found.setdefault(sentence, [])
            service = pool_service(node.partition("@")[0])
            if service not in services:
                services.append(service)
    return [f"{listed(services, MOST_SERVICES)}: {text}" for text, services in found.items()]


def _losses(replies: Any) -> Iterable[str]:
    """Yield what one worker does without; one that has not told its settings is not judged."""
    if not conf_of(replies):
        return
    report = guard_report(replies)
    if report is None:
        yield (
            "the worker does not tell of its guard: does the image's entrypoint run the command"
            " that it is given?"
        )
        return
    for part, reason in report["missing"].items():
        loss = LOSSES.get(part, "see docs/COMPATIBILITY.md")
        yield f"no {quote(part, WIDTH)}, {quote(reason, WIDTH)}: {loss} (docs/COMPATIBILITY.md)."


def guard_rows(nodes: Any) -> list[str]:
    """Return the status's rows about guards that lack something."""
    found: dict[str, int] = {}
    for replies in nodes.values() if isinstance(nodes, Mapping) else ():
        report = guard_report(replies)
        for part, reason in (report or {"missing": {}})["missing"].items():
            row = f"without {quote(part, WIDTH)}: {quote(reason, WIDTH)}"
            found[row] = found.get(row, 0) + 1
    return [f"{count} worker{'' if count == 1 else 's'} {row}" for row, count in found.items()]
