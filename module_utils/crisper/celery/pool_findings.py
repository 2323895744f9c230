"""Judge a worker's pool against the one that celery_workers declares.

Pure functions of what workers answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .findings import Finding

# Where Celery defines the pools, by the name that `--pool` takes.
MODULES = {
    "prefork": "celery.concurrency.prefork",
    "threads": "celery.concurrency.thread",
    "gevent": "celery.concurrency.gevent",
    "eventlet": "celery.concurrency.eventlet",
    "solo": "celery.concurrency.solo",
}


def pool_findings(
    node: str, facts: Mapping[str, Any], expected: Mapping[str, Any]
) -> Iterator[Finding]:
    """Yield how a pool differs from what its entry in celery_workers declares.

    Args:
        node: name of the worker.
        facts: ``pool`` of its answer to ``stats``.
        expected: of the pool's model; empty for a release of an earlier edition.
    """
    kind, actual = expected.get("pool"), str(facts.get("implementation"))
    if kind and actual.partition(":")[0] != MODULES[kind]:
        text = f"{node} has pool {actual}, expected {kind}."
        yield Finding("wrong_pool", text, node, kind, actual)
    wanted = expected.get("max_tasks_per_child")
    tasks = facts.get("max-tasks-per-child")
    if wanted is not None and tasks != wanted:
        text = f"{node} has max_tasks_per_child {tasks}, expected {wanted}."
        yield Finding("wrong_max_tasks", text, node, wanted, tasks)
