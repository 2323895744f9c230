"""Stop the containers that a release replaces, wait for the release's own, and look again."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

from ..docker.client import BackgroundCommand
from ..docker.diagnosis import describe
from ..output import KILLED
from .plan import KEEP, REMOVE, ROLLED, Container, Step
from .state import Rollout
from .traffic import refuse_unready, switch_requests, wait_for_accepting


def wait_until_healthy(rollout: Rollout) -> None:
    """Wait until no container of the release is starting any more, and beat is healthy.

    What the others have become is in the look afterwards, and for who judges it.
    """
    singletons = rollout.services_of_kind("singleton")
    deadline = time.monotonic() + rollout.params["wait_timeout"]
    while True:
        mine = [
            container
            for container in rollout.containers()
            if container.release == rollout.release and container.id not in rollout.stopping
        ]
        beats = [container for container in mine if container.service in singletons]
        lost = [c for c in beats if c.state != "running" or c.health == "unhealthy"]
        waited = [c for c in mine if c.state == "running" and c.health == "starting"]
        if not lost and not waited:
            return
        if lost or time.monotonic() > deadline:
            failures = rollout.failures(lost or waited)
            rollout.fail(
                f"{', '.join(sorted(c.name for c in lost or waited))} of release"
                f" {rollout.release} did not become healthy."
                + ("" if rollout.stopping else " The old workers still run.")
                + describe(failures)
            )
        rollout.wait_for_event()


def stop_old(rollout: Rollout, web_only: bool) -> None:
    """Have what the release does not want stop; `web_only` keeps workers that still work."""
    steps, containers = rollout.plan()
    switch_requests(rollout, steps, containers)
    if rollout.upstreams and not rollout.upstreams.services:
        rollout.upstreams.leave()  # its own nginx, which knows no link, runs by now
    rollout.result["stopped"] = {}
    rolled = _steps_to_stop(steps, web_only)
    ids = [identity for step in rolled for identity in step.old]
    if not ids:
        return
    refuse_unready(rollout, steps, containers, "The old containers stay")
    rollout.note("stop_old")
    old = [container for container in containers if container.id in ids]
    web = {step.service for step in rolled if step.kind == "web"}
    wait_for_accepting([c for c in old if c.service in web and c.pid])
    _stop(rollout, ids, old)
    if queues := rollout.result.get("left", {}).get("queues"):
        # Nobody is left to take them up again.
        nodes = {rollout.node(container) for container in old}
        rollout.result["left"]["queues"] = {n: q for n, q in queues.items() if n not in nodes}


def _steps_to_stop(steps: list[Step], web_only: bool) -> list[Step]:
    rolled = [s for s in steps if s.action == REMOVE or (s.kind in ROLLED and s.action != KEEP)]
    return [s for s in rolled if s.kind == "web" and s.action != REMOVE] if web_only else rolled


def _stop(rollout: Rollout, ids: list[str], old: list[Container]) -> None:
    """Begin to stop these containers; those that are overdue the cold way."""
    overdue = set(rollout.params["overdue"])
    if late := [c.id for c in old if rollout.node(c) in overdue]:
        rollout.docker.run("kill", "--signal", "QUIT", *late)
    names = {container.id: container.name for container in old}
    rollout.stopping = {identity: names[identity] for identity in ids}
    command = rollout.docker.begin("stop", *stop_limits(rollout), *ids)
    rollout.pending["stop"] = partial(_remove_stopped, rollout, command)
    rollout.result["changed"] = True


def stop_limits(rollout: Rollout) -> list[str]:
    """Return the option of ``docker stop`` that limits it, where a limit is given."""
    limit = rollout.params["stop_timeout"]
    return ["--time", str(limit)] if limit is not None else []


def _remove_stopped(rollout: Rollout, command: BackgroundCommand) -> None:
    """Wait until they have stopped, return their exit codes by name, and remove them."""
    command.end()
    records = json.loads(rollout.docker.run("container", "inspect", *rollout.stopping))
    rollout.result["stopped"] = warn_of_killed(rollout, rollout.stopping, records)
    rollout.docker.run("rm", "--force", "--volumes", *rollout.stopping)
    if rollout.upstreams:
        rollout.upstreams.prune()


def warn_of_killed(
    rollout: Rollout, names: dict[str, str], records: list[dict[str, Any]]
) -> dict[str, int]:
    """Warn of stopped containers that did not end in time; return exit codes by name.

    Args:
        rollout: its state.
        names: container id -> name.
        records: of ``docker container inspect``.
    """
    codes = {names[record["Id"]]: int(record["State"]["ExitCode"]) for record in records}
    pools = {names[record["Id"]]: _pool_of(record) for record in records}
    killed = sorted(name for name, code in codes.items() if code == KILLED)
    if workers := [name for name in killed if pools[name]]:
        rollout.module.warn(
            f"{', '.join(workers)} did not stop in time and was killed: tasks that a worker held"
            " come back after celery_visibility_timeout. Raise celery_stop_grace_period."
        )
    if others := [name for name in killed if not pools[name]]:
        rollout.module.warn(
            f"{', '.join(others)} did not stop in time and was killed: requests that it answered"
            " were cut off. Raise stop_grace_period of the service (stack_app.web)."
        )
    return codes


def _pool_of(record: dict[str, Any]) -> str:
    return str(((record.get("Config") or {}).get("Labels") or {}).get("crisper.pool") or "")
