"""Bring what a probe answered about all workers into the form that modules return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..shapes import like
from .canaries import report_canaries
from .findings import MOST_FINDINGS, REMEDIES, main_problem
from .judge import fold_replies, judge


def report_inspection(
    reply: Mapping[str, Any], expect: Mapping[str, Any], canary_nodes: Sequence[str] | None
) -> dict[str, Any]:
    """Return what M(celery_inspect) returns of a reply.

    That is ``{nodes, findings, problem, seconds, held, restarted, canary}``.

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
    }
    if len(found) > MOST_FINDINGS:
        result["findings"].append(_more(len(found) - MOST_FINDINGS))
    if canary_nodes is not None:
        canary = reply.get("canary")
        canary = canary if isinstance(canary, Mapping) else {}
        result["canary"] = report_canaries(canary, canary_nodes)
    return result


def _more(count: int) -> dict[str, Any]:
    """Return what stands for findings that are left out."""
    text = f"{count} more findings are not listed."
    return {"code": "malformed_reply", "message": text, "node": "", "expected": None} | {
        "actual": None,
        "remedy": "Mend those that are, and run again.",
    }
