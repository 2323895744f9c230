"""One cell of the matrix: a fault in a phase, and what it cost."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Any

from load import call

from faults.deploys import Deploy
from faults.faults import Fault
from faults.server import CannotRunError, Server, ServerError, wait_until
from faults.work import BESIDE, QUEUES, Embeddings, Load

PATIENCE = 240  # seconds until a stack that does not recover is given up
WARM = 8  # seconds of load before the fault


@dataclass(frozen=True)
class Stack:
    """The stack under test.

    Attributes:
        server: where it runs.
        url: of its front.
        group: its group in molecule/inventory, for deploys.
        expected: how many containers each service has.
    """

    server: Server
    url: str
    group: str
    expected: Counter[str]

    def recovered(self, since: float) -> float:
        """Seconds from `since` until all is healthy and a request and a task of each queue work.

        Raises:
            ServerError: it did not become so in PATIENCE seconds.
        """
        wait_until(lambda: self.server.is_whole(self.expected), "all is healthy", PATIENCE)
        wait_until(self._answers, "a request is answered", PATIENCE)
        for queue in QUEUES.split(","):
            number = f"probe-{uuid.uuid4().hex[:8]}"
            wait_until(lambda q=queue, n=number: self._queued(q, n), "a task is accepted", PATIENCE)
            wait_until(lambda n=number: n in self._marks(), "a task is run", PATIENCE)
        return round(time.monotonic() - since, 1)

    def _answers(self) -> bool:
        try:
            return bool(call(f"{self.url}/health")["status"] == "ok")
        except OSError:
            return False

    def _queued(self, queue: str, number: str) -> bool:
        try:
            call(f"{self.url}/api/load-test/tasks", {"tasks": {number: 0}, "queue": queue})
        except OSError:
            return False
        return True

    def _marks(self) -> dict[str, int]:
        try:
            return call(f"{self.url}/api/load-test/marks")
        except OSError:
            return {}


def run_cell(stack: Stack, name: str, fault: Fault, phase: str) -> dict[str, Any]:
    """Make the fault in the phase and count; `error` is what kept the cell from being measured."""
    cell: dict[str, Any] = {"fault": name, "phase": phase, "error": ""}
    try:
        stack.recovered(time.monotonic())
        if phase == "idle":
            cell |= hurt(stack, fault)
        else:
            cell |= under_load(stack, fault, phase)
    except CannotRunError as reason:
        cell["cannot"] = str(reason)
    except (ServerError, OSError) as error:
        cell["error"] = str(error)
    return cell


def hurt(stack: Stack, fault: Fault) -> dict[str, Any]:
    """Make the fault: when, by the machine's clock, for how long, and seconds to recover."""
    at = time.time()
    fault.make(stack.server)
    lasted = round(time.time() - at, 1)
    return {"at": at, "lasted": lasted, "recovered": stack.recovered(time.monotonic())}


def under_load(stack: Stack, fault: Fault, phase: str) -> dict[str, Any]:
    """The fault under load, and while a deploy runs in that phase."""
    found: dict[str, Any] = {}
    embeddings = Embeddings(stack.url, stack.server.setting("admin_password"))
    load = Load(stack.url)
    try:
        time.sleep(WARM)
        found = during_deploy(stack, fault) if phase == "deploy" else hurt(stack, fault)
    finally:
        embeddings.stop()
        seen = load.end()
    wait_until(embeddings.ended, "every accepted embedding ends", PATIENCE)
    paths = seen["requests"].pop("paths")
    begun = call(f"{stack.url}/api/load-test/begun")
    mine = {n: times for n, times in begun.items() if n.startswith(seen["tasks"]["run"])}
    return {
        **found,
        "requests": {key: paths["/health"][key] for key in ("sent", "failed", "errors")},
        "beside": {key: paths[BESIDE][key] for key in ("sent", "failed", "errors")},
        "tasks": seen["tasks"],
        "embeddings": embeddings.summary(),
        **again(mine, found["at"], found["lasted"]),
    }


def again(begun: dict[str, list[float]], at: float, lasted: float) -> dict[str, Any]:
    """How many tasks of before a fault's end began again after it, and how long after `at`."""
    ends = at + lasted
    later = [
        min(t for t in times if t > ends)
        for times in begun.values()
        if min(times) <= ends < max(times)
    ]
    return {"again": len(later), "again_after": round(max(later) - at, 1) if later else None}


def during_deploy(stack: Stack, fault: Fault) -> dict[str, Any]:
    """The fault in the middle of a rollout; what serves then, and whether the next deploy works."""
    before = stack.server.release()
    backends = stack.expected["backend"]
    deploy = Deploy(stack.group, uuid.uuid4().hex[:8]).start()

    def rolls() -> bool:
        if not deploy.is_running():
            raise CannotRunError(f"the deploy was over before the fault: {deploy.wait(1)['told']}")
        running = Counter(container.service for container in stack.server.containers())
        return running["backend"] > backends

    try:
        wait_until(rolls, "the rollout begins", PATIENCE)
        found = hurt(stack, fault)
    finally:
        hit = deploy.wait(600)
    serves = "new" if stack.server.release() != before else "old"
    whole = stack.server.is_of_one_release()
    following = Deploy(stack.group, uuid.uuid4().hex[:8]).start().wait(600)
    stack.recovered(time.monotonic())
    after = stack.server.is_of_one_release()
    return {
        **found,
        "deploy": {
            "hit": hit["code"],
            "serves": serves,
            "whole": whole,
            "next": following["code"],
            "next_whole": after,
            "told": following["told"] if following["code"] else hit["told"] if hit["code"] else "",
        },
    }
