"""Bring what a probe answered about all workers into the form that modules return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..probes.redis_keys import REMOVAL
from ..shapes import like
from ..text import printable
from .canaries import PENDING, report_canaries
from .findings import FINDING_WIDTH, MOST_FINDINGS, REMEDIES, Finding, main_problem
from .judge import fold_replies, judge

UNREADABLE = "unreadable_data"


def report_inspection(
    reply: Mapping[str, Any], expect: Mapping[str, Any], canary_nodes: Sequence[str] | None
) -> dict[str, Any]:
    """Return what M(celery_inspect) returns of a reply.

    That is ``{nodes, findings, problem, seconds, held, restarted, unreadable, canary}``.

    Args:
        reply: the probe's: ``{problem, error}``, and without a problem ``{replies, seconds}`` and,
            if canaries were sent, ``canary``.
        expect: as `judge` takes it.
        canary_nodes: node names that may have run the canaries; None when none were sent.
    """
    problem = str(reply.get("problem") or "")
    error = str(reply.get("error") or "no reason given")
    if not problem and not isinstance(reply.get("replies"), Mapping):
        problem, error = "malformed_reply", "no replies in the answer"
    if problem:
        finding: dict[str, Any] = {"code": problem, "message": f"{problem}: {error}", "node": ""}
        finding |= {"expected": None, "actual": None, "remedy": REMEDIES.get(problem, "")}
        return {"nodes": {}, "findings": [finding], "problem": problem}
    replies = {m: r if isinstance(r, list) else [r] for m, r in reply["replies"].items()}
    found = judge(replies, expect)
    result: dict[str, Any] = {
        "nodes": fold_replies(replies),
        "findings": [finding.as_dict() for finding in found[:MOST_FINDINGS]],
        "problem": main_problem(found),
        "seconds": like(reply.get("seconds"), 0.0),
        "held": like(reply.get("held"), None),
        "restarted": like(reply.get("restarted"), None),
        "unreadable": _unreadable(reply.get("unreadable")),
    }
    if len(found) > MOST_FINDINGS:
        result["findings"].append(_more(len(found) - MOST_FINDINGS))
    if canary_nodes is not None:
        canary = reply.get("canary")
        canary = canary if isinstance(canary, Mapping) else {}
        result["canary"] = report_canaries(canary, canary_nodes)
        explain_canaries(result)
    return result


def _unreadable(reply: Any) -> str:
    """Return which key has a wrong type, with the command that removes it; or empty."""
    parts = like(reply, [""])[:2]
    return printable(REMOVAL.join(parts), FINDING_WIDTH) if any(parts) else ""


def explain_canaries(result: dict[str, Any]) -> None:
    """Name a key of a wrong type as the cause why no worker took the canaries.

    Their own remedies (a restart of the worker, a longer timeout) would not help.
    """
    canary, text = result["canary"], f"Workers take no task: {result['unreadable']}"
    if result["unreadable"] and canary["problem"] == UNREADABLE:
        canary["findings"][0]["message"] = text  # with the command, which was cut
        return
    untaken = {queue for queue, each in canary["queues"].items() if each["state"] in PENDING}
    if not result["unreadable"] or not untaken:
        return
    result["findings"].insert(0, Finding(UNREADABLE, text).as_dict())
    result["problem"] = result["problem"] or UNREADABLE
    for finding in canary["findings"]:
        if finding["queue"] in untaken:
            finding["message"] = f"The canary in queue {finding['queue']} did not come back."
            finding["remedy"] = "This follows from the key of a wrong type: remove that first."


def key_warnings(result: Any) -> list[str]:
    """Return the warning of a key of a wrong type in Redis; none where it is a finding already.

    Args:
        result: of M(celery_inspect), or whatever its failure left.
    """
    shape = {"unreadable": "", "findings": [{"code": ""}], "canary": {"problem": ""}}
    found = like(result, shape)
    codes = {found["canary"]["problem"], *(each["code"] for each in found["findings"])}
    if not found["unreadable"] or UNREADABLE in codes:
        return []
    return [f"Workers may take no task: {found['unreadable']} (docs/CHECKLIST.md, {UNREADABLE})"]


def _more(count: int) -> dict[str, Any]:
    """Return what stands for findings that are left out."""
    text = f"{count} more findings are not listed."
    return {"code": "malformed_reply", "message": text, "node": "", "expected": None} | {
        "actual": None,
        "remedy": "Mend those that are, and run again.",
    }
