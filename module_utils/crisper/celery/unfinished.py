"""Say what became of the tasks that old workers had not finished when they were stopped.

Pure functions of plain data. Python 3.8: ``probes.unfinished`` takes the names from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..shapes import like
from ..text import printable

# States of a result that is final.
FINISHED, FAILED = "SUCCESS", ("FAILURE", "REVOKED")
# Tasks that are looked for, and told of.
MOST = 50
# What is known of one task.
TRACE: dict[str, Any] = {"state": "", "queue": "", "node": "", "held": False}


def outcome(trace: Mapping[str, Any]) -> str:
    """Return what became of a task, as the end of a sentence.

    Args:
        trace: ``state`` of its result, ``queue`` that it waits in, ``node`` that has it now, and
            whether it is ``held`` without acknowledgement; empty where nobody could look.
    """
    found = like(trace, TRACE)
    if found["state"] == FINISHED:
        return "finished"
    if found["state"] in FAILED:
        return f"ended as {found['state']}"
    if found["node"]:
        return f"runs again on {printable(found['node'])}"
    if found["queue"]:
        return f"is back in its queue ({printable(found['queue'])})"
    if found["held"]:
        return "is unacknowledged in Redis and comes back (playbooks/status.yml shows when)"
    if not trace:
        return "could not be looked for"
    return (
        "left no trace: it is lost if it was acknowledged before it ran (task_acks_late), and"
        " finished if it stores no result (ignore_result)"
    )


def with_outcomes(
    tasks: Sequence[Mapping[str, Any]], traces: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return tasks of M(celery_drain), each with its ``outcome``.

    Args:
        tasks: ``{id, name, node, seconds, state}``.
        traces: by task id.
    """
    return [{**task, "outcome": outcome(traces.get(str(task.get("id"))) or {})} for task in tasks]
