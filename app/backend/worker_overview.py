"""A worker's own account of itself, in one control command instead of Celery's four."""

from __future__ import annotations

from typing import Any

from celery.worker import state as tasks
from celery.worker.control import inspect_command


@inspect_command()
def overview(state: Any) -> dict[str, Any]:
    """``{queues: [name], active, reserved, pool: {kind, size}}`` of this worker."""
    pool = state.consumer.pool
    return {
        "queues": sorted(queue.name for queue in state.consumer.task_consumer.queues),
        "active": len(tasks.active_requests),
        "reserved": len(set(tasks.reserved_requests) - set(tasks.active_requests)),
        "pool": {"kind": type(pool).__module__.rsplit(".", 1)[-1], "size": pool.num_processes},
    }
