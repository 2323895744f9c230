"""Replace workers of the release that are not to be trusted: those of before this run at first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from ..docker.client import BackgroundCommand
from ..journal import Journal, began_at
from ..remote.run import RemoteError
from .plan import KEEP, Container
from .start import start_beside
from .state import Rollout
from .stop import stop_limits, warn_of_killed
from .suspects import (
    changed_by_others,
    newer_workers,
    older_workers,
    renewal_warning,
    replacement_warning,
    suspects,
)
from .workers import remedy

Findings = list[dict[str, Any]]


def look_again(rollout: Rollout) -> Findings:
    """Return the findings over the workers of the release at another look."""
    _steps, containers = rollout.plan()
    try:
        return rollout.asker().look_again(rollout.nodes(containers)["new"])
    except RemoteError as error:
        rollout.fail(f"{error}. {remedy(error.problem)}", problem=error.problem)


def replace_suspects(rollout: Rollout, findings: Findings, ask: Callable[[], Findings]) -> Findings:
    """Replace workers that were there before this run as long as there are findings.

    At first those that are named, then all: one may answer in the name of others. Findings over
    workers that this run has started stay findings.

    Args:
        rollout: its state.
        findings: over the workers of the release.
        ask: returns them again.
    """
    for everyone in (False, True):
        older = older_workers(rollout.containers(), rollout.release, _began(rollout))
        chosen = suspects(findings, older, rollout.params["host"], everyone=everyone)
        if not chosen:
            break
        _replace(rollout, chosen, replacement_warning(chosen, findings, rollout.release))
        findings = ask()
    return findings


def renew_own_workers(rollout: Rollout, ask: Callable[[], Findings]) -> None:
    """Replace the workers that this run has started, once, where somebody may have changed them.

    Whoever could write into Redis from an old container could tell the new workers anything by
    remote control, and a worker keeps a rate limit until it ends. All are replaced: a rate limit
    is in no answer, and was told to everybody. Where no old container ended, nothing is: the same
    stranger would do it again.

    Args:
        rollout: its state, with the proof of the workers as its result.
        ask: has the workers proved again.
    """
    findings = changed_by_others(rollout.result["proof"])
    if not findings or not rollout.stopping:
        return
    if own := newer_workers(rollout.containers(), rollout.release, _began(rollout)):
        _replace(rollout, own, renewal_warning(own, findings, rollout.release))
        ask()


def _began(rollout: Rollout) -> float:
    """Return when this run took its lock, Unix seconds; 0 without a run."""
    run = rollout.params["run"]
    return began_at(Journal(run["root"], run["id"]).entries(), run["id"]) if run else 0.0


def _replace(rollout: Rollout, chosen: list[Container], warning: str) -> None:
    """Start others in the place of these workers of the release, and have these stop.

    They get SIGTERM and their stop_grace_period as any worker that goes: one of them may work
    well, while another answers in its name.
    """
    rollout.note("start")
    alive = {c.id: c.name for c in chosen if c.state in ("running", "restarting")}
    if dead := [c.id for c in chosen if c.id not in alive]:
        rollout.docker.run("rm", "--force", "--volumes", *dead)
    rollout.replaced |= alive
    steps, containers = rollout.plan()
    services = {container.service for container in chosen}
    wanted = [s for s in steps if s.service in services and s.action != KEEP]
    beside = Counter(container.service for container in chosen if container.id in alive)
    old = {step.service: len(step.old) + beside[step.service] for step in wanted}
    before = {container.id for container in containers} | set(rollout.replaced)
    reason = f"\nThey were to take the place of others: {warning}"
    start_beside(rollout, wanted, old, before, reason)
    rollout.module.warn(warning)
    if alive:
        command = rollout.docker.begin("stop", *stop_limits(rollout), *alive)
        name = f"replace {min(alive)}"
        rollout.pending[name] = partial(_remove_replaced, rollout, command, alive)


def end_replacement(rollout: Rollout) -> None:
    """Wait until replaced workers have stopped, and remove them."""
    for name in [name for name in rollout.pending if name.startswith("replace ")]:
        rollout.end(name)


def _remove_replaced(rollout: Rollout, command: BackgroundCommand, names: dict[str, str]) -> None:
    command.wait()
    _code, out, _err = rollout.docker.call("container", "inspect", *names)
    warn_of_killed(rollout, names, json.loads(out or "[]"))
    rollout.docker.run("rm", "--force", "--volumes", *names)
