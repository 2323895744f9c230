"""Name the settings of a Celery application with which tasks are lost, or run twice.

Pure functions of what the workers answered (``nodes`` of M(celery_inspect)). They are warnings: an
application may accept both, so no deploy fails for them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from typing import Any

from ..model.workers import pool_service
from ..shapes import ANY, EACH, like
from ..text import listed, printable
from .stranded import LEASED

# Transports that hand a message out again when it was not acknowledged for a time, and the seconds
# without a setting (kombu). Others keep it as long as the connection lives.
REDIS = ("redis", "rediss", "sentinel")
USUAL_VISIBILITY = 3600.0
# Services and tasks that one sentence names, and where all of them end.
MOST_SERVICES, MOST_TASKS = 3, 5
AT_A_RESTART = "tasks with late acknowledgement that ran then may run twice"
RESTARTS = 'See docs/RELIABILITY.md, "Tasks that no worker knows".'
REMEDIES = 'See docs/CHECKLIST.md, "Risky settings".'


def settings_warnings(
    nodes: Any,
    names: Collection[str],
    grace: float = 0,
    limit: float = 0,
    now: datetime | None = None,
) -> list[str]:
    """Return one sentence per setting, with the worker services; empty where nothing is known.

    The remedies are in docs/CHECKLIST.md: a sentence has two lines at most.

    Args:
        nodes: of M(celery_inspect), by node.
        names: of the nodes of this release; others are not judged.
        grace: celery_stop_grace_period, in seconds.
        limit: celery_task_time_limit, in seconds; to tell whose limit it is.
        now: the time, for tasks with an ETA; None for that of the controller.
    """
    if not isinstance(nodes, Mapping):
        return []
    now = now or datetime.now(timezone.utc)
    found: dict[str, list[str]] = {}
    for node in sorted(set(names) & set(nodes)):
        replies = nodes[node] if isinstance(nodes[node], Mapping) else {}
        service = printable(pool_service(node.partition("@")[0]))
        for text in (
            _early(replies),
            _twice(replies, grace, limit),
            _long(replies),
            _far(replies, now),
            _endless(replies),
            _pickled(replies),
            _ignored(replies),
        ):
            if text and service not in found.setdefault(text, []):
                found[text].append(service)
    return [
        f"{listed(services, MOST_SERVICES)}: {text} {REMEDIES}" for text, services in found.items()
    ]


def restart_warning(result: Any, names: Collection[str], since: float) -> str:
    """Return what a restart of Redis means for tasks; empty where there was none, or no harm.

    Args:
        result: of M(celery_inspect); ``{nodes, restarted}``.
        names: of the nodes of this release; others are not judged.
        since: Unix seconds; a Redis that was started before was not restarted.
    """
    found = result if isinstance(result, Mapping) else {}
    nodes, restarted = found.get("nodes"), found.get("restarted")
    if not isinstance(restarted, (int, float)) or isinstance(restarted, bool):
        return ""
    if not isinstance(nodes, Mapping) or restarted < since:
        return ""
    services: list[str] = []
    for node in sorted(set(names) & set(nodes)):
        conf = _conf(nodes[node] if isinstance(nodes[node], Mapping) else {})
        service = printable(pool_service(node.partition("@")[0]))
        leased = str(conf.get("worker_consumer")).startswith(LEASED)
        if conf.get("task_acks_late") is True and not leased and service not in services:
            services.append(service)
    if not services:
        return ""
    has = "has" if len(services) == 1 else "have"
    return (
        f"Redis was restarted: {AT_A_RESTART} ({listed(services, MOST_SERVICES)} {has} no"
        f" lease). {RESTARTS}"
    )


def planned_restart_warning(steps: Any, guard: bool) -> str:
    """Return what a plan that recreates Redis means for tasks; empty where it does no harm.

    Args:
        steps: of M(stack_plan).
        guard: whether the workers are started by the guard, and have leases.
    """
    wanted = ("redis", "recreate")
    recreated = any(
        isinstance(step, Mapping) and (step.get("service"), step.get("action")) == wanted
        for step in (steps if isinstance(steps, list) else [])
    )
    if not recreated or guard:
        return ""
    return (
        "Redis is recreated: tasks with late acknowledgement that run at that moment may run twice"
        f" (stack_app.celery.guard is false). {RESTARTS}"
    )


def _conf(replies: Mapping[str, Any]) -> Mapping[str, Any]:
    conf = replies.get("conf")
    return conf if isinstance(conf, Mapping) else {}


def _early(replies: Mapping[str, Any]) -> str:
    tasks = task_settings(replies)
    early = [name for name, fields in tasks.items() if fields.get("acks_late") == "False"]
    by_task = any("acks_late" in fields for fields in tasks.values())
    if not early if by_task else _conf(replies).get("task_acks_late") is not False:
        return ""
    if by_task and len(early) < len(tasks):
        verb = "is" if len(early) == 1 else "are"
        whose, setting = f"{listed(map(printable, early), MOST_TASKS)} {verb}", "acks_late"
    else:
        whose, setting = "tasks are", "task_acks_late"
    return (
        f"{whose} acknowledged before they run ({setting} is False): one that runs when its"
        " worker is killed is lost."
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
    """Return the seconds until the broker hands out again what is unacknowledged, or None."""
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


def _twice(replies: Mapping[str, Any], grace: float, limit: float) -> str:
    seconds = _visibility(replies)
    if seconds is None:
        return ""
    conf, stats = _conf(replies), replies.get("stats")
    pool = stats.get("pool") if isinstance(stats, Mapping) else None
    timeouts = pool.get("timeouts") if isinstance(pool, Mapping) else None
    limits = list(timeouts) if isinstance(timeouts, (list, tuple)) else []
    hard = _number(limits[1] if len(limits) == 2 else conf.get("task_time_limit"))
    name = "celery_task_time_limit" if hard == limit else "its time limit"
    if hard is None:
        longest = "without end (no hard time limit)"
    elif hard >= seconds:
        longest = f"for {hard:g} s ({name})"
    elif grace >= seconds:
        longest = f"for {grace:g} s while it is drained (celery_stop_grace_period)"
    else:
        return ""
    late = conf.get("task_acks_late") is True
    state = "run" if late else "wait in a worker behind one that runs"
    whose = "visibility_timeout" + ("" if "visibility_timeout" in conf else ", not set")
    return (
        f"a task may {state} {longest}, and after {seconds:g} s ({whose}) Redis hands it out again:"
        " it runs twice."
    )


def _long(replies: Mapping[str, Any]) -> str:
    """Warn of tasks whose own time limit is not below the visibility timeout."""
    seconds = _visibility(replies)
    if seconds is None:
        return ""
    # Of a task without a limit of its own a worker answers the application's.
    usual = _number(like(replies.get("conf"), {EACH: ANY}).get("task_time_limit"))
    limits = {
        name: _seconds(fields, "time_limit") for name, fields in task_settings(replies).items()
    }
    long = [name for name, limit in limits.items() if limit >= seconds and limit != usual]
    if not long:
        return ""
    return (
        f"{listed(map(printable, long), MOST_TASKS)} may run longer than {seconds:g} s (time_limit"
        " of the task, visibility_timeout): Redis hands them out again, and they run twice."
    )


def _endless(replies: Mapping[str, Any]) -> str:
    """Warn of workers without a hard time limit, where `_twice` has not told it."""
    if _visibility(replies) is not None:
        return ""
    limits = like(replies.get("stats"), {"pool": {"timeouts": [ANY]}})["pool"]["timeouts"]
    if len(limits) != 2 or limits[1]:
        return ""
    return (
        "tasks without a time_limit of their own may run for ever (no hard time limit): one that"
        " hangs keeps its process, and every deploy waits for it until celery_drain_timeout."
    )


def _pickled(replies: Mapping[str, Any]) -> str:
    conf = _conf(replies)
    kinds = conf.get("accept_content")
    accepts = [str(kind) for kind in kinds] if isinstance(kinds, (list, tuple)) else []
    tasks = task_settings(replies)
    own = [name for name, fields in tasks.items() if fields.get("serializer") == "pickle"]
    if "pickle" not in (*accepts, conf.get("task_serializer")) and not own:
        return ""
    which = f" ({listed(map(printable, own), MOST_TASKS)})" if own else ""
    return (
        f"pickle is used for messages{which}: whoever can write into the broker runs code in the"
        " workers."
    )


def _ignored(replies: Mapping[str, Any]) -> str:
    tasks = task_settings(replies)
    own = [name for name, fields in tasks.items() if fields.get("ignore_result") == "True"]
    if not own:
        return ""
    return (
        f"results of {listed(map(printable, own), MOST_TASKS)} are not stored (ignore_result): that"
        " they failed is in the log of a worker alone."
    )


def task_settings(replies: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the settings of each task, as a worker answers them to `registered`."""
    found = {}
    for entry in like(replies.get("registered"), [""]):
        name, _, rest = entry.partition(" [")
        pairs = (pair.partition("=") for pair in rest.rstrip("]").split())
        found[name] = {key: value for key, _, value in pairs}
    return found


def _seconds(fields: Mapping[str, str], name: str) -> float:
    try:
        return _number(float(fields.get(name, "0"))) or 0.0
    except ValueError:
        return 0.0


def _far(replies: Mapping[str, Any], now: datetime) -> str:
    """Warn of tasks with a far ETA: they are held unacknowledged until then, early acks or not."""
    seconds = _visibility(replies)
    scheduled = replies.get("scheduled")
    if seconds is None or not isinstance(scheduled, list):
        return ""
    waits = (_wait(entry, now) for entry in scheduled)
    if not any(wait > seconds for wait in waits):
        return ""
    return (
        f"tasks wait for an ETA more than {seconds:g} s away (visibility_timeout): Redis hands them"
        " out again, and they may run more than once."
    )


def _wait(entry: Any, now: datetime) -> float:
    """Return the seconds until the ETA of a scheduled task; 0 where it cannot be read."""
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
