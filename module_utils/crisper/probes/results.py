"""Read the results that Celery's backend has stored in Redis.

Sent to containers with probes: standard library, Python 3.8, and what the application itself has,
inside functions.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any

# Results that are asked for at once: one may be large.
RESULTS = 20


def read_results(app: Any, task_ids: Sequence[str]) -> dict[str, Any] | None:
    """Return task id -> what the backend stored; None where it is not Redis or does not answer.

    Results are a help: without them a task may run twice.
    """
    try:
        from celery.backends.redis import RedisBackend

        if not isinstance(app.backend, RedisBackend):
            return None
        raws = []
        for start in range(0, len(task_ids), RESULTS):
            batch = task_ids[start : start + RESULTS]
            raws += app.backend.client.mget([app.backend.get_key_for_task(one) for one in batch])
    except Exception:  # no result backend, one that cannot be loaded, or that is away
        return None
    metas = {}
    for task_id, raw in zip(task_ids, raws):  # noqa: B905 (Python 3.8)
        try:
            metas[task_id] = app.backend.decode_result(raw) if raw else None
        except Exception:  # whatever a serializer raises
            metas[task_id] = None
    return metas


def unix(text: Any) -> float:
    """Return Unix seconds of the time that Celery writes into a result: UTC, unless it says so."""
    moment = text if isinstance(text, datetime.datetime) else datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return moment.timestamp()
