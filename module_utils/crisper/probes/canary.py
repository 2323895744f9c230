"""Canaries: one task through every queue, from inside a container."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from typing import Any

from ..celery import busy
from .control import Failure, check_types, connected
from .inspect import inspect
from .leftovers import leftovers_of_results, result_name
from .queue_head import QueueHead

# What ids of canaries begin with: no other results are removed (as in probes.leftovers).
CANARY_ID = "crisper-canary-"
# Seconds after which a canary is not merely on its way, and seconds between two looks at the pools.
FIRST_LOOK, LOOK_INTERVAL = 0.5, 1.0
# Seconds that workers have to answer a look: a machine whose processors are all busy takes a while.
LOOK_TIMEOUT = 5.0
# Seconds for a canary that was taken while it was about to be removed.
LATE = 1.0


def canary(app: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Send one task through every queue: ``{queue: {task_id, state, seconds, result, why}}``.

    Each is published as the next message that its queue's consumer takes, and removed again if
    nobody took it. While one is not back, the workers are looked at: where every process is busy,
    its state becomes BUSY, and where nothing ends it is not waited for. `why` has the evidence.
    """
    from celery.backends.base import DisabledBackend

    if isinstance(app.backend, DisabledBackend):
        raise Failure("no_result_backend", "The application has no result backend")
    canaries = Canaries(app, request)
    for queue in request["queues"]:
        canaries.send(queue)
    pools = Pools(app, request.get("nodes") or (), request["timeout"])
    canaries.wait(pools)
    if canaries.pending:
        canaries.give_up(pools)
    canaries.close()
    return {"queues": canaries.results, "seconds": round(time.monotonic() - canaries.begun, 4)}


class Canaries:
    """Canaries through queues, each from being sent to its result, or the reason for none.

    Attributes:
        results: queue -> what is known of its canary.
        pending: queue -> when its canary was sent, of those that are not back.
    """

    def __init__(self, app: Any, request: dict[str, Any]) -> None:
        """Connect; results that earlier ones have left are removed."""
        self.app, self.request = app, request
        timeout = request["timeout"]
        self.head = QueueHead(app, lambda: connected(app, timeout))
        self.begun = time.monotonic()
        self.results: dict[str, dict[str, Any]] = {}
        self.pending: dict[str, float] = {}
        self.untaken: set[str] = set()  # queues whose canary was taken back
        self.exact = self.head.exact
        if self.exact:
            check_types(self.head.connection, request["queues"])
        self.leftovers = leftovers_of_results(app)
        if self.leftovers:
            self.leftovers.sweep()

    def send(self, queue: str) -> None:
        """Send the canary of a queue."""
        request, timeout = self.request, self.request["timeout"]
        task_id = CANARY_ID + str(uuid.uuid4())
        entry = self.results[queue] = {
            "task_id": task_id,
            "state": "PENDING",
            "seconds": None,
            "result": None,
        }
        if self.leftovers:
            self.leftovers.note([result_name(self.app, task_id)], timeout)
        try:
            self.head.send(
                request["task"],
                task_id,
                queue,
                args=request["args"],
                kwargs=request["kwargs"],
                # It counts when a worker looks: one that was taken and not begun does no harm.
                expires=timeout,
                ignore_result=False,
            )
        except Exception as error:
            entry.update(state="UNROUTABLE", result=f"{type(error).__name__}: {error}")
            if self.leftovers:
                self.leftovers.forget([result_name(self.app, task_id)])
            entry["task_id"] = ""
        else:
            self.pending[queue] = time.monotonic()

    def wait(self, pools: Pools) -> None:
        """Wait until all are back, the time is over, or nothing is to be waited for."""
        deadline = self.begun + self.request["timeout"]
        await_canaries(self.app, self.results, self.pending, deadline, pools, self.exact)

    def give_up(self, pools: Pools) -> None:
        """Take back the canaries that are pending, and write into their entries why they are."""
        pools.complete()
        waited = round(time.monotonic() - self.begun, 1)
        ids = {queue: self.results[queue]["task_id"] for queue in self.pending}
        why = {queue: pools.judge(queue, task_id, self.exact) for queue, task_id in ids.items()}
        removed = {queue for queue, task_id in ids.items() if self.head.take_back(task_id)}
        self.untaken.update(removed)
        # One that a worker took just now is seen by no look; with another broker all expire.
        late = {
            queue: at
            for queue, at in self.pending.items()
            if self.exact and queue not in removed and not why[queue].taken
        }
        await_canaries(self.app, self.results, late, time.monotonic() + LATE)
        for queue in self.pending:
            if self.results[queue]["seconds"] is None:
                explain(self.results[queue], why[queue], waited)

    def close(self) -> None:
        """Drop what is noted of results that will not come any more, and leave the broker."""
        if self.leftovers:
            # Of one that a worker holds the result may come later: the next probe removes it.
            over = [
                entry["task_id"]
                for queue, entry in self.results.items()
                if queue in self.untaken or is_back(entry)
            ]
            names = [result_name(self.app, task_id) for task_id in over if task_id]
            self.leftovers.forget(names)
        self.head.close()


def is_back(entry: dict[str, Any]) -> bool:
    """Return whether a canary's result was there, or it was never sent."""
    return entry["seconds"] is not None or not entry["task_id"]


def await_canaries(
    app: Any,
    results: dict[str, dict[str, Any]],
    pending: dict[str, float],
    deadline: float,
    pools: Pools | None = None,
    exact: bool = True,
) -> None:
    """Wait until all canaries of `pending` are back, or nothing is to be waited for.

    Those that are back leave `pending` (queue -> when it was sent). With `pools` the workers are
    looked at meanwhile, and nothing is waited for where no process is free and none becomes so.
    """
    look_at = time.monotonic() + FIRST_LOOK
    while pending and time.monotonic() < deadline:
        for queue, since in list(pending.items()):
            entry = results[queue]
            meta = result_of(app, entry["task_id"])
            entry["state"] = meta["status"]
            if entry["state"] in ("SUCCESS", "FAILURE", "REVOKED"):
                entry["seconds"] = round(time.monotonic() - since, 4)
                entry["result"] = meta["result"]
                app.backend.forget(entry["task_id"])
                del pending[queue]
        if pending and pools and look_at <= time.monotonic() < deadline - LOOK_INTERVAL:
            pools.ask()
            look_at = time.monotonic() + LOOK_INTERVAL
            found = [pools.judge(queue, results[queue]["task_id"], exact) for queue in pending]
            kinds = {verdict.kind for verdict in found}
            if kinds == {busy.BUSY} and min(v.still for v in found) >= busy.STILL:
                return
        elif pending:
            time.sleep(0.01)


def result_of(app: Any, task_id: str) -> dict[str, Any]:
    """Return what the backend stored; of what cannot be read, a failure that says so."""
    try:
        meta = app.backend.get_task_meta(task_id)
        return {"status": str(meta.get("status")), "result": plain(meta.get("result"))}
    except (OSError, *getattr(app.backend, "connection_errors", ())):
        raise  # the backend is away
    except Exception as error:  # somebody else has stored it
        why = "(a result that cannot be read: " + type(error).__name__ + ")"
        return {"status": "FAILURE", "result": why}


def explain(entry: dict[str, Any], verdict: busy.Verdict, waited: float) -> None:
    """Write into a canary's entry why it is not back."""
    why = {**verdict.as_dict(), "waited": waited}
    if verdict.kind == busy.BUSY:
        why["text"] = busy.describe_busy(why, waited)
        entry["state"] = busy.BUSY
    entry["why"] = why


class Pools:
    """Looks at what the workers run."""

    def __init__(self, app: Any, nodes: Iterable[str], timeout: float) -> None:
        """Begin without a look; `nodes` are asked, or else everybody who answers the first."""
        self.app = app
        self.timeout = min(LOOK_TIMEOUT, max(1.0, timeout))
        self.nodes = list(nodes)
        self.looks: list[dict[str, busy.Pool]] = []
        self.looked_at = -LOOK_INTERVAL  # when the last look ended
        # By node: time limits of tasks that have one of their own.
        self.limits: dict[str, dict[str, float]] | None = None

    def ask(self) -> None:
        """Ask the workers."""
        request: dict[str, Any] = {"methods": list(busy.METHODS), "timeout": self.timeout}
        request.update(destination=self.nodes, everybody=not self.nodes)
        request["settle"] = 0.0 if self.nodes else 0.3
        if self.limits is None:
            request["methods"].append("registered")
            request["arguments"] = {"registered": {"taskinfoitems": ["time_limit"]}}
        try:
            replies = inspect(self.app, request)["replies"]
        except Exception:  # the broker is away: that nobody answers is told
            replies = {}
        now, wall = time.monotonic(), time.time()
        nodes: dict[str, dict[str, Any]] = {}
        self.looked_at = now
        for method, messages in replies.items():
            for message in messages:
                for node, reply in message.items() if isinstance(message, dict) else ():
                    nodes.setdefault(str(node), {})[method] = reply
        if self.limits is None and nodes:
            limits = {node: found.get("registered") for node, found in nodes.items()}
            self.limits = {n: busy.own_limits(names) for n, names in limits.items()}
        known = self.limits or {}
        found = {n: busy.pool_of(r, now, wall, known.get(n, {})) for n, r in nodes.items()}
        self.looks.append({node: pool for node, pool in found.items() if pool is not None})
        # Who has answered once is waited for.
        self.nodes = self.nodes or sorted(self.looks[-1])

    def complete(self) -> None:
        """Look until the last look is recent, and there are as many as a verdict needs."""
        recent = time.monotonic() - self.looked_at < LOOK_INTERVAL / 2
        if recent and not any(self.looks):
            return  # nobody has ever answered
        if not recent:
            self.ask()
        while len(self.looks) < busy.LOOKS:
            time.sleep(LOOK_INTERVAL / 2)
            self.ask()

    def judge(self, queue: str, task_id: str, exact: bool) -> busy.Verdict:
        """Return the verdict on a canary that is not back."""
        return busy.judge(queue, task_id, self.looks, exact=exact)


def plain(value: Any) -> Any:
    """Return the value as JSON can hold it; exceptions as their text."""
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    return json.loads(json.dumps(value, default=repr))
