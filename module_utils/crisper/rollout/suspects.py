"""Choose the workers of a release that give way because of what was answered in their name.

A worker that was there before this run may have been taken over: it answers nonsense, or in the
name of others. When its release is put back, such a worker must not keep it from being so. A worker
that this run has started is never replaced: what is wrong with it is wrong with the release.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

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


def replacement_warning(
    replaced: Sequence[Container], findings: Sequence[Mapping[str, Any]], release: str
) -> str:
    """Return what is told when workers were replaced.

    Args:
        replaced: these workers.
        findings: why.
        release: its id.
    """
    reasons = [str(finding["message"]) for finding in findings[:MOST_REASONS]]
    more = len(findings) - len(reasons)
    reasons += [f"And {more} more findings."] if more > 0 else []
    why = " ".join(reasons) or "They were not healthy."
    return (
        f"{listed(sorted(c.name for c in replaced))} of release {release} ran before this run began"
        f" and did not answer as workers of it do. {why} New containers of the same image take"
        " their place. Look at what ran there, and whether somebody else can write into Redis."
    )
