"""Start the containers of a release beside the old ones, and wait until they work."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from itertools import chain
from typing import Any, NoReturn

from ..docker.diagnosis import compose_error, describe
from .plan import KEEP, REMOVE, ROLLED, Container, Step, batches
from .readiness import describe_unanswered, with_readiness
from .state import Rollout
from .stop import warn_of_killed

# New containers that start at once: an import of an application takes a processor for seconds.
STARTING_PER_PROCESSOR = 4


def start_release(
    rollout: Rollout, steps: list[Step], containers: list[Container]
) -> tuple[list[Step], list[Container]]:
    """Start the release's web and worker containers beside the old ones; return the plan then.

    Only what belongs to no release is planned anew: its definition is compared meanwhile.
    """
    _start_missing(rollout, steps, containers)
    now, containers = rollout.plan()
    in_place = {step.service: step for step in now if step.kind == "stateful"}
    steps = [in_place.get(step.service, step) for step in steps]
    rollout.result["steps"] = [step.as_dict() for step in steps]
    rollout.result["nodes"] = rollout.nodes(containers)
    return steps, containers


def _start_missing(rollout: Rollout, steps: list[Step], containers: list[Container]) -> None:
    wanted = [s for s in steps if s.kind in ROLLED and s.action not in (KEEP, REMOVE)]
    if not wanted:
        rollout.compare_definitions()
        return
    rollout.note("start")
    dead = [c for c in containers if c.state not in ("running", "restarting")]
    dead = [c for c in dead if c.service in {step.service for step in wanted}]
    if dead:
        # `up` would start them again, old release or not.
        rollout.docker.run("rm", "--force", *(container.id for container in dead))
    removed = {container.id for container in dead}
    before = {container.id for container in containers} - removed
    old = {step.service: len(set(step.old) - removed) for step in wanted}
    start_beside(rollout, wanted, old, before)


def start_beside(
    rollout: Rollout, wanted: list[Step], old: dict[str, int], before: set[str], reason: str = ""
) -> None:
    """Start what is missing of these services in batches, and wait until all work.

    Args:
        rollout: its state.
        wanted: what happens to them.
        old: service -> containers beside the new ones that stay.
        before: ids of containers that are there.
        reason: a sentence that a failure has besides, why they were started.
    """
    rollout.watch()
    together = STARTING_PER_PROCESSOR * len(os.sched_getaffinity(0))
    # None where a service has too many containers of the release, and nothing is missing.
    fresh: list[str] = []
    batch_list = batches(wanted, together)
    if batch_list:
        fresh = _add(rollout, batch_list[0], old, before, reason)
    rollout.compare_definitions()  # the containers take their time now
    for batch in batch_list[1:]:
        _wait(rollout, fresh, reason, together // 2)
        fresh = _add(rollout, batch, old, before, reason)
    _wait(rollout, fresh, reason)
    rollout.result["changed"] = True


def _add(
    rollout: Rollout, batch: dict[str, int], old: dict[str, int], before: set[str], reason: str
) -> list[str]:
    """Start containers of the release; return the ids of all that were started so far.

    Args:
        rollout: its state.
        batch: service -> containers of the release that must run afterwards.
        old: service -> containers beside them that stay.
        before: ids of containers that were there before the first of the release.
        reason: as `start_beside` takes it.
    """
    scales = chain.from_iterable(
        ("--scale", f"{service}={old[service] + number}") for service, number in batch.items()
    )
    # --no-recreate leaves the old ones alone; --scale makes Compose add the new beside them.
    arguments = ["up", "--detach", "--no-deps", "--no-recreate", "--no-build", *scales, *batch]
    project = ("compose", "--project-name", rollout.params["project_name"])
    code, out, err = rollout.docker.call(*project, *arguments, folder=rollout.folder)
    fresh = [c.id for c in rollout.docker.containers() if c.service in old and c.id not in before]
    if code != 0:
        why = f"Compose could not start them: {compose_error(err or out)}"
        _give_up(rollout, fresh, why, reason)
    return fresh


def _wait(rollout: Rollout, ids: list[str], reason: str, starting: int = 0) -> None:
    """Wait until all but `starting` are healthy or answer.

    At the first that cannot become so, undo and fail.
    """
    timeout = rollout.params["wait_timeout"]
    deadline = time.monotonic() + timeout
    while True:
        _read_answers(rollout)
        now = [with_readiness(rollout, container) for container in rollout.docker.inspect(ids)]
        lost = [c for c in now if c.state in ("exited", "dead", "restarting")]
        lost += [c for c in now if c.health == "unhealthy"]
        if lost or len(now) < len(ids):
            _give_up(rollout, ids, "They did not become healthy", reason)
        if sum(not container.is_healthy for container in now) <= starting:
            return
        if time.monotonic() > deadline:
            _give_up(rollout, ids, f"Not healthy within {timeout} s", reason)
        rollout.begin_asking(now)
        if rollout.workers:
            rollout.workers.ping(rollout.nodes(now)["new"])  # those of a later batch, too
        rollout.wait_for_event(*_read_answers(rollout))


def _read_answers(rollout: Rollout) -> Sequence[Any]:
    """Note which workers have answered by now; return the streams on which more may come."""
    return rollout.workers.listen() if rollout.workers else ()


def _give_up(rollout: Rollout, ids: list[str], why: str, reason: str) -> NoReturn:
    """Remove what was started; old containers, if there are any, never stopped serving."""
    inspected = rollout.docker.inspect(ids) if ids else []
    containers = [with_readiness(rollout, container) for container in inspected]
    failures = rollout.failures(containers)
    if ids:
        _discard(rollout, ids, containers)
    rollout.fail(
        f"New containers of release {rollout.release} were started and removed again: {why}."
        f"{' What ran before still serves.' if _served_before(rollout) else ''}"
        f"{reason}{describe_unanswered(rollout, containers)}{describe(failures)}"
    )


def _discard(rollout: Rollout, ids: list[str], containers: list[Container]) -> None:
    """Remove new containers that are not wanted after all.

    Nobody sends requests to their web, but a worker takes tasks from its first second on: it
    gets SIGTERM and its stop_grace_period to finish them. A kill would lose what a worker has
    acknowledged early, and have the rest run twice.
    """
    docker = rollout.docker
    workers = {c.id: c.name for c in containers if c.pool and c.state == "running"}
    if others := [identity for identity in ids if identity not in workers]:
        docker.run("rm", "--force", "--volumes", *others)
    if not workers:
        return
    docker.run("stop", *workers)
    records = json.loads(docker.run("container", "inspect", *workers))
    warn_of_killed(rollout, workers, records)
    docker.run("rm", "--force", "--volumes", *workers)


def _served_before(rollout: Rollout) -> bool:
    """Return whether another release serves: nginx sends requests to it, or its web runs."""
    if rollout.upstreams and rollout.upstreams.serving not in ("", rollout.release):
        return True
    webs = rollout.services_of_kind("web")
    return any(
        c.service in webs and c.state == "running" and c.release not in ("", rollout.release)
        for c in rollout.docker.containers()
    )
