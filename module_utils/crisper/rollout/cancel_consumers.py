"""Cancel the consumers of the old workers, while the new workers are checked."""

from __future__ import annotations

from typing import Any

from ..celery.findings import describe_findings
from ..remote.run import RemoteError
from .plan import Container
from .replacement import look_again, replace_suspects
from .state import Rollout
from .workers import remedy

Nodes = dict[str, list[str]]


def begin_cancelling(rollout: Rollout, containers: list[Container]) -> Nodes:
    """Cancel the consumers of the old workers, and ask the new ones; return all nodes.

    Nothing is returned where no old worker runs. `finish_cancelling` waits for the answers.
    """
    nodes = rollout.nodes(containers)
    rollout.result |= {"nodes": nodes, "held": []}
    if not nodes["old"]:
        return {}
    rollout.note("cancel_consumers")
    rollout.begin_asking(containers)
    try:
        rollout.asker().cancel_consumers(nodes["old"], nodes["new"])
    except RemoteError as error:
        rollout.fail(f"{error}. {remedy(error.problem)}", problem=error.problem)
    rollout.pending["cancel_consumers"] = lambda: _record(rollout, nodes)
    return nodes


def _record(rollout: Rollout, nodes: Nodes) -> None:
    """Record which workers left, for the undo of something that has failed meanwhile."""
    rollout.result["left"], _error = rollout.asker().wait_for_cancelling(nodes["new"])


def finish_cancelling(rollout: Rollout, nodes: Nodes) -> None:
    """Wait until the old workers take nothing new; fail where the new ones are not as expected."""
    if not nodes:
        return
    rollout.pending.pop("cancel_consumers")
    report, error = rollout.asker().wait_for_cancelling(nodes["new"])
    unfinished = sorted(set(nodes["old"]) - set(report["drained"]))
    rollout.result |= {"left": report, "held": unfinished}
    rollout.result["changed"] |= bool(report["queues"])
    if report["findings"]:
        findings = replace_suspects(rollout, look_again(rollout), lambda: look_again(rollout))
        report |= {"findings": findings, "problem": report["problem"] if findings else ""}
        error = describe_findings(findings)
    if error:
        rollout.fail(error, problem=report["problem"])
    _warn(rollout, report)


def _warn(rollout: Rollout, report: dict[str, Any]) -> None:
    """Warn of old workers that did not do as they were told."""
    if report["silent"]:
        rollout.module.warn(
            f"No answer from {', '.join(report['silent'])}. Does the container run (docker ps),"
            " and is it connected to the broker (its log)?"
        )
    if report["consuming"]:
        rollout.module.warn(
            f"{', '.join(report['consuming'])} did not stop consuming its queues on request. The"
            " deploy stops it anyway; its log may say why."
        )
