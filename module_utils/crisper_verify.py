"""How verification words its findings: what is wrong, and what to do about it.

Pure functions of the modules' results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def step_finding(step: Mapping[str, Any]) -> str:
    """A service that is not as the release wants it; `step` is one of compose_rollout's."""
    return (
        f"Service {step['service']}: {step['reason']}."
        f" See `docker compose ps {step['service']}` and its logs; a deploy puts it right."
    )


def http_finding(result: Mapping[str, Any]) -> str:
    """Return the finding for an answer through nginx that was not 200.

    `result` is an answer of front_probe: ``{url, status, msg}``, status -1 without an answer.
    """
    status, logs = result.get("status", -1), "See `docker compose logs nginx backend frontend`."
    if status > 0:
        return f"{result.get('url')} answered {status}. {logs}"
    why = f" ({result['msg']})" if result.get("msg") else ""
    return (
        f"{result.get('url')} did not answer{why} from the controller. {logs} If a firewall or a"
        " jump host stands between, set verify_url to the address that browsers use."
    )


def celery_finding(finding: Mapping[str, Any]) -> str:
    """A finding of celery_inspect or celery_canary."""
    return f"{finding['message']} {finding.get('remedy', '')}".strip()


def port_finding(port: int, address: str) -> str:
    """A data port that answers from outside."""
    return (
        f"Port {port} of {address} answers from the controller. No service of the stack but nginx"
        " publishes a port: find who listens (`ss -ltnp`), and close it or take the port out of"
        " verify_closed_ports."
    )


def canary_seconds(queues: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """Seconds each queue's canary took; None for one that did not come back."""
    return {queue: entry.get("seconds") for queue, entry in queues.items()}


def registered_tasks(nodes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the tasks that every one of the workers registers, sorted."""
    each = [
        {str(name).partition(" ")[0] for name in replies.get("registered") or []}
        for replies in nodes.values()
    ]
    return sorted(set.intersection(*each)) if each else []


def worker_summary(node: str, nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A worker as the summary shows it: ``{node, pool, concurrency, queues}``."""
    replies = nodes.get(node) or {}
    pool = (replies.get("stats") or {}).get("pool") or {}
    queues = replies.get("active_queues") or []
    return {
        "node": node,
        "pool": node.partition("@")[0],
        "concurrency": pool.get("max-concurrency", 0),
        "queues": [queue["name"] for queue in queues],
    }
