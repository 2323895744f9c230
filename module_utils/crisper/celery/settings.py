"""Name the settings of a Celery application with which tasks are lost, or run twice.

Pure functions of what the workers answered (``nodes`` of M(celery_inspect)). They are warnings: an
application may accept both, so no deploy fails for them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from typing import Any

from ..model.build import pool_service
from ..shapes import like
from ..text import printable

# Transports that hand a message out again when it was not acknowledged for a time, and the seconds
# without a setting (kombu). Others keep it as long as the connection lives.
REDIS = ("redis", "rediss", "sentinel")
USUAL_VISIBILITY = 3600.0
LEASED = "crisper_worker."  # begins the consumer of a worker that renews a lease on its messages


def settings_warnings(
    nodes: Any,
    names: Collection[str],
    grace: float = 0,
    limit: float = 0,
    visibility: float = 0,
    now: datetime | None = None,
) -> list[str]:
    """Return one sentence per worker service and setting; empty where nothing is known.

    Args:
        nodes: of M(celery_inspect), by node.
        names: of the nodes of this release; others are not judged.
        grace: celery_stop_grace_period, in seconds.
        limit: celery_task_time_limit, in seconds; to tell whose limit it is.
        visibility: celery_visibility_timeout, in seconds; to tell whether the application uses it.
        now: the time, for tasks with an ETA; None for that of the controller.
    """
    if not isinstance(nodes, Mapping):
        return []
    now = now or datetime.now(timezone.utc)
    found: dict[str, None] = {}
    for node in sorted(set(names) & set(nodes)):
        replies = nodes[node] if isinstance(nodes[node], Mapping) else {}
        service = printable(pool_service(node.partition("@")[0]))
        for text in (
            _early(replies),
            _twice(replies, grace, limit, visibility),
            _far(replies, now),
        ):
            if text:
                found[f"{service} {text}"] = None
    return list(found)


def _conf(replies: Mapping[str, Any]) -> Mapping[str, Any]:
    conf = replies.get("conf")
    return conf if isinstance(conf, Mapping) else {}


def _early(replies: Mapping[str, Any]) -> str:
    if _conf(replies).get("task_acks_late") is not False:
        return ""
    return (
        "acknowledges tasks before it runs them (task_acks_late is False): a task that runs when"
        " the worker is killed is lost. Set task_acks_late and task_reject_on_worker_lost to True"
        " in the Celery application, if its tasks may run twice."
    )


def _number(value: Any) -> float | None:
    """Return a positive number; None for all else, one beyond the range of floats too."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value) if value > 0 and math.isfinite(value) else None
    except OverflowError:
        return None


def _visibility(replies: Mapping[str, Any]) -> float | None:
    """Seconds after which the broker hands out again what is not acknowledged; None for never."""
    conf = _conf(replies)
    # Without this key the settings have Celery's old names, of which the probe shows none.
    if not isinstance(conf.get("task_acks_late"), bool):
        return None
    if str(conf.get("worker_consumer")).startswith(LEASED):
        return None
    stats = like(replies.get("stats"), {"broker": {"transport": ""}})
    transport = stats["broker"]["transport"].partition("+")[0]
    if transport not in REDIS:
        return None
    return _number(conf.get("visibility_timeout", USUAL_VISIBILITY))


def _twice(replies: Mapping[str, Any], grace: float, limit: float, visibility: float) -> str:
    seconds = _visibility(replies)
    if seconds is None:
        return ""
    conf, stats = _conf(replies), replies.get("stats")
    pool = stats.get("pool") if isinstance(stats, Mapping) else None
    timeouts = pool.get("timeouts") if isinstance(pool, Mapping) else None
    given = list(timeouts) if isinstance(timeouts, (list, tuple)) else []
    hard = _number(given[1] if len(given) == 2 else conf.get("task_time_limit"))
    name = "celery_task_time_limit" if hard == limit else "its time limit"
    if hard is None:
        longest = "as long as it likes (it has no hard time limit)"
    elif hard >= seconds:
        longest = f"{hard:g} s ({name})"
    elif grace >= seconds:
        longest = f"{grace:g} s while it is drained (celery_stop_grace_period)"
    else:
        return ""
    late = conf.get("task_acks_late") is True
    held = "runs" if late else "waits in a worker behind one that runs"
    whose = "visibility_timeout in broker_transport_options" + (
        "" if "visibility_timeout" in conf else ", not set"
    )
    remedy = (
        f"give celery_visibility_timeout ({visibility:g} s, in the environment as"
        " CELERY_VISIBILITY_TIMEOUT) to broker_transport_options in the Celery application"
        if visibility and visibility != seconds
        else "raise celery_visibility_timeout"
    )
    return (
        f"may hold a task for {longest}, and Redis hands out again after {seconds:g} s ({whose})"
        f" what is not acknowledged: a task that {held} for longer is run twice. To mend it,"
        f" {remedy}, lower the time limit, or use crisper-worker, whose lease makes it"
        " indifferent."
    )


def _far(replies: Mapping[str, Any], now: datetime) -> str:
    """Tasks with an ETA are held without acknowledgement until then, early acks or not."""
    seconds = _visibility(replies)
    scheduled = replies.get("scheduled")
    if seconds is None or not isinstance(scheduled, list):
        return ""
    waits = (_wait(entry, now) for entry in scheduled)
    if not any(wait > seconds for wait in waits):
        return ""
    return (
        f"holds tasks with an ETA that is more than {seconds:g} s away, after which Redis hands"
        " them out again (visibility_timeout in broker_transport_options): they may run more than"
        " once. Raise celery_visibility_timeout above the longest ETA or countdown, or use"
        " crisper-worker."
    )


def _wait(entry: Any, now: datetime) -> float:
    """Seconds until the ETA of a scheduled task; 0 where it cannot be read."""
    eta = entry.get("eta") if isinstance(entry, Mapping) else None
    try:
        when = datetime.fromisoformat(str(eta).replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=timezone.utc)
    try:
        return (when - now).total_seconds()
    except OverflowError:
        return 0.0
