"""Judge the canaries: tasks that went through the queues and are back, late or lost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..shapes import ANY, EACH, like
from ..text import WIDTH, clean, listed, quote
from .busy import BUSY, FREE, OVERDUE, RUNNING, SILENT, UNCONSUMED, describe_busy, duration
from .findings import MOST_NAMES, REMEDIES

# What becomes of a canary, and why it is not back.
WHY: dict[str, Any] = {
    "kind": "",
    "nodes": [""],
    "processes": 0,
    "active": 0,
    "tasks": [""],
    "oldest_seconds": 0.0,
    "limit": 0.0,
    "ended": False,
    "taken": False,
    "task_id": "",
    "waited": 0.0,
    "text": "",
}
CANARY: dict[str, Any] = {"task_id": "", "state": "", "seconds": None, "result": ANY, "why": WHY}
# States of a canary that has not ended.
PENDING = ("PENDING", "STARTED", "RECEIVED", "RETRY")


def judge_canaries(
    queues: Mapping[str, Mapping[str, Any]], nodes: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the findings over the canaries of all queues: lost, failed, or run by a stranger.

    A canary that a busy pool has not taken is none: see `busy_canaries`.

    Args:
        queues: queue -> ``{task_id, state, seconds, result, why}``; `why` is a verdict of
            ``celery.busy``, where the canary is not back.
        nodes: node names that may have run them; empty accepts any.
    """
    findings = []
    for queue, entry in sorted(queues.items()):
        if trouble := _trouble(queue, entry, nodes):
            text, remedy = trouble
            task_id = entry.get("task_id")
            finding = {"queue": queue, "task_id": task_id, "message": text, "remedy": remedy}
            findings.append(finding)
    return findings


def _trouble(queue: str, entry: Mapping[str, Any], nodes: Sequence[str]) -> tuple[str, str] | None:
    """Return the message and the remedy for one canary; None where all is well."""
    state, result = str(entry.get("state")), entry.get("result")
    worker = result.get("worker") if isinstance(result, Mapping) else None
    if state == BUSY:
        return None
    if state in PENDING:
        return explain_missing(queue, state, entry.get("why") or {})
    if state != "SUCCESS":
        text = f"The canary in queue {queue} ended as {state}: {quote(_plain(result), WIDTH)}."
        return text, "Look at the worker's log for that task id."
    if nodes and worker and worker not in nodes:
        text = f"The canary in queue {queue} was run by {worker}, which is not of this release."
        return text, REMEDIES["foreign_node"]
    return None


def explain_missing(queue: str, state: str, why: Mapping[str, Any]) -> tuple[str, str]:
    """Return the message and the remedy for a canary that did not come back.

    Args:
        queue: its name.
        state: the state that the result backend told last.
        why: of ``celery.busy``, with the seconds waited; empty where nobody could look.
    """
    text = f"The canary in queue {queue} did not come back"
    text += f" within {why['waited']:g} s (state {state})" if why else f" (state {state})"
    explain = EXPLANATIONS.get(str(why.get("kind")))
    if explain is None:
        return f"{text}.", "Does a worker of this release consume that queue? See celery_workers."
    reason, remedy = explain(listed(why.get("nodes") or [], MOST_NAMES) or "no worker", why)
    return f"{text}: {reason}", remedy


def _unconsumed(_names: str, _why: Mapping[str, Any]) -> tuple[str, str]:
    return (
        "no worker that answers consumes that queue.",
        "Add the queue to the queues of a pool in celery_workers, or correct its name there.",
    )


def _free(names: str, why: Mapping[str, Any]) -> tuple[str, str]:
    free = why["processes"] - why["active"]
    did = "took it and did not begin it" if why["taken"] else "did not take it"
    return (
        f"{names} consumes that queue, has {free} of {why['processes']} processes free and {did}.",
        "See the log of that worker. Restart it if it is stuck (docker restart); raise"
        " verify_canary_timeout if the broker or the machine is slow. A rate limit on the"
        " canary task holds it up as well.",
    )


def _overdue(names: str, why: Mapping[str, Any]) -> tuple[str, str]:
    task = f"{listed(why['tasks'], MOST_NAMES)} ({why['task_id']})"
    return (
        f"{names} runs {task} for {duration(why['oldest_seconds'])}, beyond its time"
        f" limit of {duration(why['limit'])}: the pool is stuck.",
        "Restart that worker (docker restart); its log tells what the task does. If the task is"
        " called with a time_limit of its own, set that on the task or raise"
        " celery_task_time_limit: workers do not tell the limit of a call.",
    )


def _running(names: str, why: Mapping[str, Any]) -> tuple[str, str]:
    return (
        f"{names} began it {duration(why['oldest_seconds'])} ago and has not ended it.",
        "The canary (stack_app.celery.canary_task) must be a task that returns at once; see the"
        " log of that worker, or raise verify_canary_timeout.",
    )


def _silent(names: str, why: Mapping[str, Any]) -> tuple[str, str]:
    who = f"{names} did not answer" if why["nodes"] else "no worker answered"
    return (
        f"{who} when the workers were asked meanwhile.",
        "See the log of that worker: is it running, and connected to the broker? A pool of kind"
        " solo cannot answer while it runs a task, and so cannot be proved then: use prefork or"
        " threads with concurrency 1 in celery_workers, or deploy when it is idle.",
    )


EXPLANATIONS: dict[str, Callable[[str, Mapping[str, Any]], tuple[str, str]]] = {
    UNCONSUMED: _unconsumed,
    FREE: _free,
    OVERDUE: _overdue,
    RUNNING: _running,
    SILENT: _silent,
}


def busy_canaries(queues: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the queues whose canary a busy pool has not taken, with the evidence that it works.

    Each ``{queue, nodes, processes, active, oldest_seconds, tasks, text}``.
    """
    keys = ("nodes", "processes", "active", "oldest_seconds", "tasks", "text")
    return [
        {"queue": queue, **{key: entry["why"][key] for key in keys}}
        for queue, entry in sorted(queues.items())
        if entry.get("state") == BUSY
    ]


def report_canaries(reply: Mapping[str, Any], nodes: Sequence[str]) -> dict[str, Any]:
    """Return what became of the canaries: ``{problem, queues, findings, busy}``.

    Args:
        reply: the probe's: ``{problem, error, queues}``, the last only without a problem.
        nodes: node names that may have run them; empty accepts any.
    """
    problem = str(reply.get("problem") or "")
    queues = like(clean(reply.get("queues")), {EACH: CANARY})
    for entry in queues.values():
        # Without evidence nobody could look.
        why = entry["why"] = entry["why"] if entry["why"]["kind"] else {}
        if why and entry["state"] == BUSY:
            why["text"] = describe_busy(why, why["waited"])  # of names that are printable
        if entry["state"] == BUSY and not entry["why"]:
            entry["state"] = "PENDING"
    findings = judge_canaries(queues, nodes)
    if not problem and not isinstance(reply.get("queues"), Mapping):
        problem, reply = "malformed_reply", {"error": "no queues in the answer"}
    if problem:
        text = f"{problem}: {reply.get('error') or 'no reason given'}"
        findings = [{"queue": "", "task_id": "", "message": text, "remedy": ""}]
        findings[0]["remedy"] = REMEDIES.get(problem, "")
    busy = busy_canaries(queues)
    return {"problem": problem, "queues": queues, "findings": findings, "busy": busy}


def _plain(result: Any) -> str:
    """Return what a task returned, or raised, as a text."""
    return result if isinstance(result, str) else repr(result)[:1000]
