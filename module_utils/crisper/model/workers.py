"""Worker pools: what an operator may say of them, and what the model says (no I/O)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from .celery_settings import setting_words
from .container_limits import container_limits, validate_container, worker_pids
from .guard import health_check, is_guarded, program
from .names import CANARY, DEFAULT_QUEUE, QUEUE
from .validators import COUNT, SECONDS, quoted, whole
from .worker_options import WITH_LIMITS, limit_of, validate_options, worker_arguments

# Seconds between two health checks of a worker, by how they are made: at least so many, and at
# least so many for each worker of the stack.
CHECK_SECONDS = {"heartbeat": 10, "ping": 30}
CHECK_SECONDS_PER_WORKER = {"heartbeat": 1, "ping": 5}
POOL = re.compile(r"[a-z0-9][a-z0-9-]{0,29}\Z")


class Expected(TypedDict):
    """Answers that workers of a pool must give, beside queues; None where they may say anything."""

    pool: str
    processes: list[int]
    time_limit: int | None
    soft_time_limit: int | None
    max_tasks_per_child: int | None


class Pool(TypedDict):
    """A worker pool: its Compose service, and the limits of each of its containers.

    ``adopts``: the operator gives no queues; the application names them, see celery.application.
    ``arguments``: options of its command.
    """

    name: str
    service: str
    queues: list[str]
    adopts: bool
    concurrency: int
    replicas: int
    memory: str
    cpus: float
    pids: int
    tmp: int
    arguments: list[str]
    expected: Expected


class CeleryModel(TypedDict):
    """The properties that workers of a release must have; limits in seconds.

    ``settings``: what they are started with, as words of the command. ``guard``: whether they are
    started by it. ``health``: how their health is checked. ``program``: the beginning of their
    command. ``check_interval``: seconds between two health checks of a worker.
    """

    app: str
    guard: bool
    health: str
    check_interval: int
    program: list[str]
    canary_task: str
    expected_tasks: list[str]
    time_limit: int
    soft_time_limit: int
    settings: list[str]


def pool_service(name: str) -> str:
    """Return the Compose service of a worker pool; the pool ``default`` is ``celery-worker``."""
    return "celery-worker" if name == "default" else f"celery-worker-{name}"


def host_name(inventory_name: str) -> str:
    """Return an inventory name as part of a Celery node name: no ``@``, ``%``, ``$`` or space."""
    return re.sub(r"[^A-Za-z0-9.-]", "-", inventory_name)


def worker_pools(values: Mapping[str, Any]) -> list[Pool]:
    """Return the pools of checked variables; what a pool does not say has a default."""
    hard, soft = values["celery_task_time_limit"], values["celery_task_soft_time_limit"]
    return [
        {
            "name": pool["name"],
            "service": pool_service(pool["name"]),
            "queues": list(pool.get("queues", [DEFAULT_QUEUE])),
            "adopts": "queues" not in pool,
            "concurrency": int(pool.get("concurrency", 1)),
            "replicas": int(pool.get("replicas", 1)),
            "memory": str(pool.get("memory", "1g")),
            "cpus": float(pool.get("cpus", 1.0)),
            "arguments": worker_arguments(pool, hard, soft),
            "expected": expected_answers(pool, hard, soft),
            **container_limits(
                {"memory": "1g", **pool}, worker_pids(max(expected_processes(pool)))
            ),
        }
        for pool in values["celery_workers"]
    ]


def expected_processes(pool: Mapping[str, Any]) -> list[int]:
    """Return the least and the most tasks that a worker of a checked pool may run at once."""
    if pool.get("pool") == "solo":
        return [1, 1]
    concurrency = int(pool.get("concurrency", 1))
    scale = pool.get("autoscale") or {"min": concurrency, "max": concurrency}
    return [int(scale["min"]), int(scale["max"])]


def expected_answers(pool: Mapping[str, Any], hard: Any, soft: Any) -> Expected:
    """Return what the workers of a checked pool must answer; see `worker_arguments`."""
    limited = pool.get("pool", "") in WITH_LIMITS
    return {
        "pool": pool.get("pool", ""),
        "processes": expected_processes(pool),
        "time_limit": limit_of(pool, "time_limit", hard) if limited else None,
        "soft_time_limit": limit_of(pool, "soft_time_limit", soft) if limited else None,
        # Celery tells it of the prefork pool alone.
        "max_tasks_per_child": whole(pool.get("max_tasks_per_child")) if limited else None,
    }


def celery_model(values: Mapping[str, Any]) -> CeleryModel:
    """Return what the workers of checked variables must be like."""
    celery = values["stack_app"]["celery"]
    return {
        "app": celery["app"],
        "canary_task": celery.get("canary_task", CANARY) or "",
        "guard": is_guarded(celery),
        "health": health_check(celery),
        "check_interval": _check_interval(health_check(celery), values["celery_workers"]),
        "program": program(celery),
        "expected_tasks": list(celery.get("expected_tasks") or []),
        "time_limit": int(values["celery_task_time_limit"]),
        "soft_time_limit": int(values["celery_task_soft_time_limit"]),
        "settings": setting_words(values.get("celery_settings") or {}),
    }


def _check_interval(health: str, pools: Sequence[Mapping[str, Any]]) -> int:
    workers = sum(int(pool.get("replicas", 1)) for pool in pools)
    return max(CHECK_SECONDS[health], CHECK_SECONDS_PER_WORKER[health] * workers)


def validate(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with celery_workers, with the remedy."""
    external = values.get("celery_external_queues")
    for queue in external if isinstance(external, (list, tuple)) else ():
        if not isinstance(queue, str) or not QUEUE.match(queue):
            yield f"celery_external_queues: {quoted(queue)} is not a queue name."
    pools = values.get("celery_workers")
    if not isinstance(pools, Sequence) or isinstance(pools, str) or not pools:
        yield "celery_workers is empty: without a pool no task runs; define at least one."
        return
    names = Counter(str(pool.get("name")) for pool in pools if isinstance(pool, Mapping))
    for each, count in names.items():
        if count > 1:
            yield f"celery_workers: {count} pools are named {quoted(each)}: give each its own name."
    for index, pool in enumerate(pools):
        where = f"celery_workers[{index}]"
        if not isinstance(pool, Mapping):
            yield f"{where} is {quoted(pool)}: give a mapping with name, queues and concurrency."
            continue
        name = pool.get("name")
        if not isinstance(name, str) or not POOL.match(name):
            yield (
                f"{where}.name is {quoted(name)}: use lower-case letters, digits and '-',"
                " at most 30; quote it when it is a number."
            )
        if "queues" in pool:
            yield from _queue_problems(where, pool["queues"])
        for key in ("concurrency", "replicas"):
            if not COUNT.matches(pool.get(key, 1)):
                yield f"{where}.{key} is {quoted(pool[key])}: {COUNT.remedy}"
        yield from validate_container(where, pool)
        yield from validate_options(where, pool)


def _queue_problems(where: str, queues: Any) -> Iterator[str]:
    if not isinstance(queues, Sequence) or isinstance(queues, str) or not queues:
        yield (
            f"{where}.queues is {quoted(queues)}: give a list with at least one queue name, or"
            " leave it out for the queues that the application names."
        )
        return
    for queue in queues:
        if not isinstance(queue, str) or not QUEUE.match(queue):
            yield (
                f"{where}.queues: {quoted(queue)} is not a queue name (letters, digits,"
                " _.:-; quote what YAML takes for something else)."
            )


def validate_budget(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield breaks of the shutdown budget: each limit must leave room for the one below it."""
    names = (
        "celery_task_soft_time_limit",
        "celery_task_time_limit",
        "celery_drain_timeout",
        "celery_stop_grace_period",
        "celery_visibility_timeout",
    )
    seconds: dict[str, int] = {}
    for name in names:
        if SECONDS.matches(values.get(name)):
            seconds[name] = whole(values[name]) or 0
        else:
            yield f"{name} is {quoted(values.get(name))}: {SECONDS.remedy}"
    for low, high, why in (
        (names[0], names[1], "a task must get its soft limit before it is killed"),
        (names[2], names[3], "Docker would kill the worker before it has put its tasks back"),
        (names[1], names[4], "a task that still runs would be started a second time"),
    ):
        if low in seconds and high in seconds and seconds[low] >= seconds[high]:
            yield (f"{low} ({seconds[low]} s) must be less than {high} ({seconds[high]} s): {why}.")
