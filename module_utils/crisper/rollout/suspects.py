"""Choose the workers of a release that give way because of what was answered in their name.

A worker that was there before this run may have been taken over: it answers nonsense, or in the
name of others. When its release is put back, such a worker must not keep it from being so. What is
wrong with a worker that this run has started is wrong with the release, unless somebody changed it
by remote control while old containers still ran: then it is replaced once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..celery.canaries import PENDING
from ..text import listed
from .plan import Container, node_name

# Kinds of trouble of which no worker is the cause.
ELSEWHERE = frozenset(
    {
        "app_not_importable",
        "broker_unreachable",
        "container_not_running",
        "docker_unavailable",
        "no_result_backend",
        "result_backend_unreachable",
        "unreadable_data",
    }
)
# What remote control of Celery changes in a worker until that ends (pool_shrink, cancel_consumer,
# time_limit), and states of a canary that a rate limit or a cancelled consumer holds up.
CHANGEABLE = frozenset({"wrong_concurrency", "wrong_queues", "wrong_time_limits"})
# Findings whose sentences a warning has.
MOST_REASONS = 3


def older_workers(containers: Iterable[Container], release: str, began: float) -> list[Container]:
    """Return the workers of a release that were made before a run began.

    Args:
        containers: of the stack.
        release: its id.
        began: Unix seconds; 0 where it is not known, and then there are none.
    """
    return [c for c in containers if c.pool and c.release == release and 0 < c.created < began]


def newer_workers(containers: Iterable[Container], release: str, began: float) -> list[Container]:
    """Return the workers of a release that a run has started; the arguments are `older_workers`'s.

    Where it is not known when the run began, there are none.
    """
    if began <= 0:
        return []
    return [c for c in containers if c.pool and c.release == release and c.created >= began]


def suspects(
    findings: Sequence[Mapping[str, Any]],
    older: Sequence[Container],
    host: str,
    *,
    everyone: bool = False,
) -> list[Container]:
    """Return which of the older workers are to be replaced.

    Those that findings name, and those that are not healthy. Where findings name none of them, any
    of them may have answered in the name of others: then all.

    Args:
        findings: each with ``node``, of what workers answered; of canaries without one.
        older: of `older_workers`.
        host: name of this host in Celery node names.
        everyone: whether all are to be replaced as soon as there is a finding.
    """
    named = {str(finding.get("node") or "") for finding in findings}
    chosen = [c for c in older if not c.is_healthy or node_name(c, host) in named]
    return list(older) if findings and (everyone or not chosen) else chosen


def worker_findings(proof: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the findings of a proof that a worker may be the cause of.

    Args:
        proof: as M(celery_inspect) returns it.
    """
    canary = proof.get("canary") or {}
    found = [] if proof.get("problem") in ELSEWHERE else list(proof.get("findings") or [])
    if canary.get("problem") not in ELSEWHERE:
        found += canary.get("findings") or []
    return found


def changed_by_others(proof: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the findings of a proof that remote control of a worker by somebody else explains.

    Args:
        proof: as M(celery_inspect) returns it.
    """
    canaries = (proof.get("canary") or {}).get("queues") or {}
    return [
        finding
        for finding in worker_findings(proof)
        if finding.get("code") in CHANGEABLE
        or canaries.get(finding.get("queue"), {}).get("state") in PENDING
    ]


def renewal_warning(
    replaced: Sequence[Container], findings: Sequence[Mapping[str, Any]], release: str
) -> str:
    """Return what is told when workers that this run has started were replaced.

    Args:
        replaced: these workers.
        findings: why.
        release: its id.
    """
    return (
        f"{listed(sorted(c.name for c in replaced))} of release {release} did not work as the"
        f" inventory says after the old containers had stopped. {_reasons(findings)} Somebody may"
        " have told these workers so by remote control of Celery (rate_limit, cancel_consumer,"
        " pool_shrink, time_limit) while the old containers still ran. New containers of the same"
        " image take their place, once. Look at what ran in the old containers, and whether"
        " somebody else can write into Redis."
    )


def replacement_warning(
    replaced: Sequence[Container], findings: Sequence[Mapping[str, Any]], release: str
) -> str:
    """Return what is told when workers were replaced.

    Args:
        replaced: these workers.
        findings: why.
        release: its id.
    """
    why = _reasons(findings) or "They were not healthy."
    return (
        f"{listed(sorted(c.name for c in replaced))} of release {release} ran before this run began"
        f" and did not answer as workers of it do. {why} New containers of the same image take"
        " their place. Look at what ran there, and whether somebody else can write into Redis."
    )


def _reasons(findings: Sequence[Mapping[str, Any]]) -> str:
    """Return the sentences of the first findings, and how many more there are."""
    reasons = [str(finding["message"]) for finding in findings[:MOST_REASONS]]
    more = len(findings) - len(reasons)
    return " ".join([*reasons, *([f"And {more} more findings."] if more > 0 else [])])
