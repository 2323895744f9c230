"""Ask all workers of a release, send canaries, and look at every container a last time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .plan import KEEP
from .replacement import Findings, end_replacement, renew_own_workers, replace_suspects
from .state import Rollout
from .stop import wait_until_healthy
from .suspects import worker_findings


def finish_stopping(rollout: Rollout, web_only: bool) -> None:
    """Wait until the old containers are gone and beat is healthy, and look again."""
    if not web_only:
        wait_until_healthy(rollout)
    end_replacement(rollout)
    rollout.end("stop")
    if not web_only:
        if rollout.redefined:
            rollout.compare_definitions()
        rollout.result["after"] = {"release": rollout.release, **rollout.summary(*rollout.plan())}


def ask_everybody(rollout: Rollout, canaries: Mapping[str, Any] | None = None) -> None:
    """Ask every worker everything, and send canaries; `verify` reads the answers.

    Where all canaries of a question before are accounted for, `canaries`, none are sent.
    """
    containers = rollout.containers()
    rollout.begin_asking(containers)
    workers = rollout.services_of_kind("worker")
    count = sum(rollout.services[name]["replicas"] for name in workers)
    rollout.asker().ask(rollout.nodes(containers)["new"], count, canaries)


def verify(rollout: Rollout) -> None:
    """Record what the workers answered; that fails nothing here."""
    proof = rollout.asker().proof()
    canaries = proof.get("canary", {})
    if proof["findings"] or canaries.get("findings"):
        # An old worker may have answered that is gone now. A busy pool is not waited for twice.
        ask_everybody(rollout, canaries if canaries and not canaries["findings"] else None)
        proof = rollout.asker().proof()
    rollout.result["proof"] = proof
    findings = worker_findings(proof)
    if "stop_old" in rollout.params["phases"] and (findings or _has_unhealthy_workers(rollout)):
        replace_suspects(rollout, findings, lambda: _verify_again(rollout))
        renew_own_workers(rollout, lambda: _verify_again(rollout))


def _has_unhealthy_workers(rollout: Rollout) -> bool:
    """Return whether workers of the release were not as they should be at the last look."""
    steps = rollout.result["after"]["steps"]
    return any(step["kind"] == "worker" and step["action"] != KEEP for step in steps)


def _verify_again(rollout: Rollout) -> Findings:
    """Ask everybody anew when replaced workers are gone; return the findings."""
    finish_stopping(rollout, web_only=False)
    ask_everybody(rollout)
    rollout.result["proof"] = rollout.asker().proof()
    return worker_findings(rollout.result["proof"])
