"""Limits of containers: memory, CPUs, processes, and the size of /tmp (no I/O).

Without a limit of processes, one container that forks without end takes every process id of the
host: nobody can log in, and no other container starts a health check. A tmpfs without a size grows
until the container's memory limit ends whatever process needs memory next.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

from .defaults import LIMITS, limits_by_service, unknown_keys
from .validators import as_mapping, number, quoted, size_bytes, whole

RESOURCES = ("memory", "cpus", "pids", "tmp")
MINIMUM_MEMORY = 6 * 1024**2  # the engine refuses less

# Processes and threads: the kernel counts both. A start needs 4, and a health check 3 to 6.
LEAST_PIDS, MOST_PIDS = 32, 4194304
# nginx: 64 worker processes, as many old ones after a reload, the watch over the replicas.
# postgres: a process for each session. mariadb: a thread for each. qdrant: several pools, each of
# as many threads as the host has processors. backend: processes times threads, and numerical
# libraries that start a thread for each processor.
PIDS = {
    "nginx": 512,
    "frontend": 512,
    "backend": 4096,
    "celery-beat": 512,
    "postgres": 1024,
    "redis": 256,
    "qdrant": 4096,
    "mariadb": 2048,
}
# A worker: its own threads, and for each child what a numerical library starts on 128 processors.
WORKER_PIDS, CHILD_PIDS = 1024, 128
LEAST_TMP = 1024**2


def worker_pids(concurrency: int) -> int:
    """Return how many processes and threads a worker of that many children may have."""
    return WORKER_PIDS + CHILD_PIDS * concurrency


class ContainerLimits(TypedDict):
    """Processes and threads of a container, and the size of its /tmp in bytes."""

    pids: int
    tmp: int


def container_limits(limit: Mapping[str, Any], pids: int) -> ContainerLimits:
    """Return ``pids`` and ``tmp`` (bytes) of a service.

    Args:
        limit: its entry in stack_limits or celery_workers; what it lacks has a default.
        pids: the default. That of ``tmp`` is half of the memory, as which it counts.
    """
    memory = size_bytes(limit["memory"]) or 0
    return {
        "pids": whole(limit.get("pids")) or pids,
        "tmp": size_bytes(limit.get("tmp")) or memory // 2,
    }


def service_limits(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the limits of checked variables by service; those of workers are of their pools."""
    limits = {name: dict(limit) for name, limit in limits_by_service(values).items()}
    web = values["stack_app"]["web"]
    limits["backend"].update({key: web[key] for key in RESOURCES if web.get(key)})
    for name in PIDS.keys() & limits.keys():
        if size_bytes(limits[name].get("memory")):  # else a service that this stack does not have
            limits[name].update(container_limits(limits[name], PIDS[name]))
    return limits


def validate(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with stack_limits and the limits of stack_app.web, with the remedy."""
    app, limits = as_mapping(values.get("stack_app")), values.get("stack_limits", {})
    yield from validate_container("stack_app.web", as_mapping(app.get("web")))
    if not isinstance(limits, Mapping):
        yield f"stack_limits is {quoted(limits)}: give a mapping of services to memory and cpus."
        return
    yield from unknown_keys("stack_limits", limits, LIMITS)
    for service, limit in limits_by_service(values).items():
        where = f"stack_limits.{service}"
        if isinstance(limit, Mapping):
            yield from validate_container(where, limit)
        else:
            yield f"{where} is {quoted(limit)}: give a mapping with memory and cpus."


def validate_container(where: str, section: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the limits in an entry of a service or pool, with the remedy."""
    if "memory" in section:
        size = size_bytes(section["memory"])
        setting = f"{where}.memory is {quoted(section['memory'])}"
        if size is None:
            yield f"{setting}: give a number and a unit, such as 512m or 1g."
        elif size < MINIMUM_MEMORY:
            yield f"{setting}: the engine accepts no less than 6m."
    if "cpus" in section:
        cpus = number(section["cpus"])
        if cpus is None or not 0.01 <= cpus <= 4096:
            yield f"{where}.cpus is {quoted(section['cpus'])}: give a number of CPUs, such as 0.5."
    yield from _process_problems(where, section)


def _process_problems(where: str, section: Mapping[str, Any]) -> Iterator[str]:
    if "pids" in section:
        pids = whole(section["pids"])
        if pids is None or not LEAST_PIDS <= pids <= MOST_PIDS:
            yield (
                f"{where}.pids is {quoted(section['pids'])}: give a whole number of processes and"
                f" threads from {LEAST_PIDS} to {MOST_PIDS}."
            )
    if "tmp" not in section:
        return
    size, memory = size_bytes(section["tmp"]), size_bytes(section.get("memory"))
    setting = f"{where}.tmp is {quoted(section['tmp'])}"
    if size is None or size < LEAST_TMP:
        yield f"{setting}: give a size of 1m or more, such as 64m."
    elif memory is not None and size > memory:
        yield (
            f"{setting}, more than {where}.memory ({section['memory']}): /tmp lies in the"
            " container's memory; lower tmp, or raise memory."
        )
