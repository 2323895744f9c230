"""Look for tasks that their workers had not finished: in results, in queues, and at workers."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from .control import connected
from .inspect import inspect
from .queue_head import QueueHead
from .serve import Probe

# Messages at each end of a queue that are looked at: what is put back is at an end.
NEAREST = 400
# Seconds for which a task is waited for that is nowhere: a message may be on its way.
SETTLE = 3.0


def traces(app: Any, request: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by id ``{state, queue, node, held}`` of each task, empty where there is none."""
    ids = list(request["tasks"])
    head = QueueHead(app, lambda: connected(app, request["timeout"]))
    deadline = time.monotonic() + SETTLE
    while True:
        found = locate(app, head, ids, request)
        lost = [task_id for task_id in ids if not any(found[task_id].values())]
        if not lost or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    head.close()
    return found


def locate(
    app: Any, head: QueueHead, ids: list[str], request: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return one look at all of them."""
    nodes = holders(app, request)
    queues = waiting(head, ids, request["queues"]) if head.exact else {}
    unacked = (head.find_unacked(ids, request["timeout"]) or set()) if head.exact else set()
    return {
        task_id: {
            "state": state_of(app, task_id),
            "queue": queues.get(task_id, ""),
            "node": nodes.get(task_id, ""),
            "held": task_id in unacked,
        }
        for task_id in ids
    }


def state_of(app: Any, task_id: str) -> str:
    """Return the state of a result that is there; empty where there is none."""
    try:
        state = str(app.backend.get_task_meta(task_id).get("status"))
    except Exception:  # no result backend, or what nobody can read
        return ""
    return state if state in app.backend.READY_STATES else ""


def holders(app: Any, request: dict[str, Any]) -> dict[str, str]:
    """Return by id which worker runs or holds a task."""
    question: dict[str, Any] = {"methods": ["active", "reserved"], "timeout": request["timeout"]}
    question.update(destination=request["nodes"], everybody=not request["nodes"], settle=0.3)
    found: dict[str, str] = {}
    for messages in inspect(app, question)["replies"].values():
        for message in messages:
            for node, tasks in message.items() if isinstance(message, dict) else ():
                for task in tasks if isinstance(tasks, list) else ():
                    if isinstance(task, dict):
                        found[str(task.get("id"))] = str(node)
    return found


def waiting(head: QueueHead, ids: Iterable[str], queues: Iterable[str]) -> dict[str, str]:
    """Return by id the queue that a task waits in, near one of its ends."""
    searched = {task_id: ('"' + task_id + '"').encode() for task_id in ids}
    found: dict[str, str] = {}
    for queue in queues:
        for key in head.lists(queue):
            for raw in head.ends(key, NEAREST):
                found.update({one: queue for one, text in searched.items() if text in raw})
    return found


class UnfinishedProbe(Probe):
    """Tells where tasks are."""

    def run(self, app: Any) -> None:
        """Look for each."""
        self.enter("broker_unreachable", self.request["timeout"] * 4 + SETTLE * 2 + 10)
        self.reply["traces"] = traces(app, self.request)


main = UnfinishedProbe.main
