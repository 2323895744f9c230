"""Options of ``celery worker`` that a pool of celery_workers declares (no I/O)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .validators import COUNT, quoted, size_bytes, whole

KINDS = ("prefork", "threads", "gevent", "eventlet", "solo")
# Pools whose processes Celery can end: only there it has time limits.
WITH_LIMITS = ("", "prefork")
NONE = "none"
OPTION = re.compile(r"[a-z][a-z0-9-]{1,40}\Z")
# An option of `celery worker`, and where it is set instead.
OWN_KEYS = {
    "app": "stack_app.celery.app",
    "hostname": "nothing: the deploy finds workers by their names",
    "queues": "queues",
    "exclude-queues": "queues",
    "concurrency": "concurrency",
    "pool": "pool",
    "autoscale": "autoscale",
    "max-tasks-per-child": "max_tasks_per_child",
    "max-memory-per-child": "max_memory_per_child",
    "prefetch-multiplier": "prefetch_multiplier",
    "time-limit": "time_limit",
    "soft-time-limit": "soft_time_limit",
    "beat": "stack_app.celery.beat: two beats send every task twice",
    "schedule": "stack_app.celery.beat",
    "schedule-filename": "stack_app.celery.beat",
    "scheduler": "stack_app.celery.beat",
    "purge": "nothing: it throws away what waits",
    "discard": "nothing: it throws away what waits",
    "detach": "nothing: the worker is the container's first process",
    "pidfile": "nothing: the worker is the container's first process",
    "logfile": "nothing: a container's log is its output",
    "executable": "nothing: the image decides",
    "uid": "stack_app.user",
    "gid": "stack_app.user",
}


def limit_of(pool: Mapping[str, Any], name: str, default: Any) -> int | None:
    """Return a time limit of a pool in seconds; None leaves it to the application.

    Args:
        pool: of celery_workers.
        name: ``time_limit`` or ``soft_time_limit``.
        default: of all pools.
    """
    value = pool.get(name, default)
    return None if value == NONE else whole(value)


def worker_arguments(pool: Mapping[str, Any], hard: Any, soft: Any) -> list[str]:
    """Return the options of a checked pool, as words of its command.

    Args:
        pool: of celery_workers.
        hard: celery_task_time_limit, seconds or ``none``.
        soft: celery_task_soft_time_limit, seconds or ``none``.
    """
    found: dict[str, Any] = {"pool": pool.get("pool")}
    if pool.get("pool", "") in WITH_LIMITS:
        found["time-limit"] = limit_of(pool, "time_limit", hard)
        found["soft-time-limit"] = limit_of(pool, "soft_time_limit", soft)
    if scale := pool.get("autoscale"):
        found["autoscale"] = f"{whole(scale['max'])},{whole(scale['min'])}"
    for key in ("max_tasks_per_child", "prefetch_multiplier"):
        found[key.replace("_", "-")] = whole(pool.get(key))
    if memory := size_bytes(pool.get("max_memory_per_child")):
        found["max-memory-per-child"] = memory // 1024
    found = {"loglevel": "INFO", **found, **(pool.get("options") or {})}
    return [word for name, value in found.items() for word in _words(name, value)]


def _words(name: str, value: Any) -> Iterator[str]:
    if value is True:
        yield f"--{name}"
    elif value is not None and value is not False:
        several = value if isinstance(value, (list, tuple)) else [value]
        yield f"--{name}={','.join(map(str, several))}"


def validate_options(where: str, pool: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the options of a pool, with the remedy.

    Args:
        where: name of the pool's entry, for messages.
        pool: the entry.
    """
    kind = pool.get("pool", "")
    if kind not in ("", *KINDS):
        yield f"{where}.pool is {quoted(kind)}: choose {', '.join(KINDS)}."
    for key in ("max_tasks_per_child", "prefetch_multiplier"):
        least = 0 if key == "prefetch_multiplier" else 1
        number = whole(pool[key]) if key in pool else least
        if number is None or number < least:
            yield f"{where}.{key} is {quoted(pool[key])}: give a whole number, {least} or more."
    if "max_tasks_per_child" in pool and kind not in WITH_LIMITS:
        yield (
            f"{where}.max_tasks_per_child is set with pool {quoted(kind)}: Celery replaces"
            " processes in the prefork pool alone. Remove it."
        )
    if "max_memory_per_child" in pool and not size_bytes(pool["max_memory_per_child"]):
        setting = f"{where}.max_memory_per_child is {quoted(pool['max_memory_per_child'])}"
        yield f"{setting}: give a number and a unit, such as 512m."
    yield from _limit_problems(where, pool)
    yield from _scale_problems(where, pool)
    yield from _option_problems(where, pool.get("options", {}))


def _limit_problems(where: str, pool: Mapping[str, Any]) -> Iterator[str]:
    limits = {name: pool[name] for name in ("soft_time_limit", "time_limit") if name in pool}
    for name, value in limits.items():
        if value != NONE and not whole(value):
            yield f"{where}.{name} is {quoted(value)}: give seconds, or none."
        elif value != NONE and pool.get("pool", "") not in WITH_LIMITS:
            yield (
                f"{where}.{name} is {value} with pool {quoted(pool['pool'])}: Celery has time"
                " limits in the prefork pool alone. Remove it."
            )
    soft, hard = (whole(limits.get(name)) for name in ("soft_time_limit", "time_limit"))
    if soft and hard and soft >= hard:
        yield (
            f"{where}.soft_time_limit ({soft} s) must be less than its time_limit ({hard} s): a"
            " task must get its soft limit before it is killed."
        )


def _scale_problems(where: str, pool: Mapping[str, Any]) -> Iterator[str]:
    if "autoscale" not in pool:
        return
    scale = pool["autoscale"]
    well_formed = isinstance(scale, Mapping) and set(scale) == {"min", "max"}
    if not well_formed or not all(COUNT.matches(value) for value in scale.values()):
        yield f"{where}.autoscale is {quoted(scale)}: give {{min: 1, max: 8}}."
    elif (whole(scale["min"]) or 0) > (whole(scale["max"]) or 0):
        yield f"{where}.autoscale.min is more than its max: exchange them."
    elif pool.get("pool") == "solo":
        yield f"{where}.autoscale is set with pool solo, which has one process. Remove it."


def _option_problems(where: str, options: Any) -> Iterator[str]:
    if not isinstance(options, Mapping):
        setting = f"{where}.options is {quoted(options)}"
        yield f"{setting}: give a mapping such as {{optimization: fair}}."
        return
    for name, value in options.items():
        if not isinstance(name, str) or not OPTION.match(name):
            yield (
                f"{where}.options: {quoted(name)} is not the long name of an option of celery"
                " worker, without its dashes: optimization, without-mingle."
            )
        elif name in OWN_KEYS:
            yield f"{where}.options.{name} is not for options; set {OWN_KEYS[name]}."
        several = value if isinstance(value, (list, tuple)) else [value]
        if not all(isinstance(one, (str, int, float)) for one in several):
            setting = f"{where}.options.{name} is {quoted(value)}"
            yield f"{setting}: give true, a text, a number or a list."
