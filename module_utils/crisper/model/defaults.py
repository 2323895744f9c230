"""Defaults of the variables that are mappings: an inventory says only what differs (no I/O)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..playbook.call import nearest
from .validators import as_mapping

LIKE = 0.5  # likeness (0 to 1) from which a name is taken for a mistyped one

# References of the platform images; local builds get the same names.
IMAGE_REFS = {
    "postgres": "docker.io/library/postgres:17-trixie",
    "redis": "docker.io/library/redis:8.0",
    "nginx": "docker.io/library/nginx:1.26",
    "python": "docker.io/library/python:3.13-slim-trixie",
    "qdrant": "docker.io/qdrant/qdrant:v1.19.1-unprivileged",
    "mariadb": "docker.io/library/mariadb:11.8",
}
LIMITS: dict[str, dict[str, Any]] = {
    # Its workers follow from the CPUs, its connections from the memory (docs/PRODUCTION_DOCKER.md).
    "nginx": {"memory": "256m", "cpus": 0.5},
    "frontend": {"memory": "128m", "cpus": 0.25},
    "backend": {"memory": "1g", "cpus": 1.0},
    # Its start and its end are part of every deploy, and half a processor made them twice as long.
    "celery-beat": {"memory": "256m", "cpus": 1.0},
    "postgres": {"memory": "1g", "cpus": 1.0},
    "redis": {"memory": "512m", "cpus": 0.5},
    "qdrant": {"memory": "1g", "cpus": 1.0},
    "mariadb": {"memory": "1g", "cpus": 1.0},
}


def image_references(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return image_refs with the defaults of the images that it does not name."""
    return {**IMAGE_REFS, **as_mapping(values.get("image_refs"))}


def limits_by_service(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return stack_limits with the defaults of what it does not say; wrong entries as they are."""
    limits = as_mapping(values.get("stack_limits"))
    return {
        name: {**LIMITS.get(name, {}), **limits[name]}
        if isinstance(limits.get(name), Mapping)
        else limits.get(name, LIMITS.get(name))
        for name in {**LIMITS, **limits}
    }


def unknown_keys(where: str, section: Mapping[str, Any], known: Collection[str]) -> Iterator[str]:
    """Yield one sentence for each key of a mapping that nothing reads, with the nearest known."""
    for key in section:
        if key not in known:
            meant = nearest(str(key), known, LIKE)
            guess = f"did you mean {meant}?" if meant else "remove it."
            yield (
                f"{where}.{key}: {where} has no such key: {guess} It has"
                f" {', '.join(sorted(known))}."
            )
