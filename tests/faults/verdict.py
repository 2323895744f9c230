"""What may not be in any cell; pure."""

from __future__ import annotations

from typing import Any

from faults.faults import Fault

AGAIN = 60.0  # seconds after the fault's end until an interrupted task runs again


def complaints(cell: dict[str, Any], fault: Fault) -> list[str]:
    """What of a cell breaks a promise, as sentences; none of a cell that could not be run."""
    if "cannot" in cell:
        return []
    if cell["error"]:
        return [f"it was not measured to its end: {cell['error']}"]
    found = []
    if cell["recovered"] > fault.bound:
        found.append(f"it recovered after {cell['recovered']} s, not {fault.bound:g} s")
    tasks, embeddings = cell.get("tasks", {}), cell.get("embeddings", {})
    for key in ("lost", "doubled"):
        if tasks.get(key):
            found.append(f"tasks {key}: {tasks[key]} of {tasks['accepted']}")
    if embeddings.get("lost"):
        told = "; ".join(embeddings["errors"])
        found.append(f"embeddings lost: {embeddings['lost']} of {embeddings['accepted']}: {told}")
    if (cell.get("again_after") or 0) > cell["lasted"] + AGAIN:
        found.append(f"an interrupted task ran again after {cell['again_after']} s")
    requests = cell.get("requests", {})
    if requests.get("failed") and not fault.requests_fail:
        found.append(f"requests failed: {requests['failed']} of {requests['sent']}")
    deploy = cell.get("deploy", {})
    if deploy and (deploy["next"] or not deploy["next_whole"]):
        found.append(f"the next deploy did not put it in order: {deploy['told'][-500:]}")
    return found
