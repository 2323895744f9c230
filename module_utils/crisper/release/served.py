"""Compare the release that serves with what the inventory wants: it is verified by its own model.

After a rollback, or before a change is deployed, the two differ. Pure functions of plain data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..model.names import CANARY
from ..text import printable

# Differences that a warning names.
MOST = 8
# Keys of the model that have no difference of their own: they follow from pools and services.
DERIVED = frozenset({"pools", "celery", "rollout", "queues", "services", "limits", "memory_bytes"})
# Keys of a pool that follow from others: its limit of processes, and what its workers answer.
FOLLOWING = frozenset({"pids", "expected", "adopts"})
WORDS = {
    "proxy": "entry point",
    "probes": "health checks",
    "registry_references": "images",
    "moving_references": "images",
    "data_services": "data services",
    "service_options": "options of services",
    "own_volumes": "volumes",
    "shared_paths": "options of services",
}


def unapplied(release: str, own: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Return a warning of what the inventory wants and the release that serves has not; or empty.

    Args:
        release: id of the release that serves.
        own: its model; empty for one that an edition without models has made.
        wanted: the model of the inventory.
    """
    # Of a manifest it is JSON: tuples are lists there.
    found = model_differences(own, adopted(own, json.loads(json.dumps(wanted, default=str))))
    if not own or not found:
        return ""
    more = [f"{len(found) - MOST} more"] if len(found) > MOST else []
    return (
        f"The inventory wants something else than release {release}, which serves:"
        f" {'; '.join([*found[:MOST], *more])}. The release is verified as it was deployed. To"
        " apply the inventory: ansible-playbook deploy.yml"
    )


def adopted(own: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Return a wanted model whose pools have the queues that the application has named so far.

    Without an image the inventory does not know them: it leaves them to the application.
    """
    queues = {pool.get("name"): pool.get("queues") for pool in own.get("pools") or []}
    pools = [
        {**pool, "queues": queues.get(pool["name"], pool["queues"])} if pool.get("adopts") else pool
        for pool in wanted.get("pools") or []
    ]
    found = {**wanted, "pools": pools} if pools else dict(wanted)
    canaries = [(model.get("celery") or {}).get("canary_task") for model in (own, wanted)]
    if canaries == ["", CANARY]:  # the application has no results that come back
        found["celery"] = {**wanted["celery"], "canary_task": ""}
    return found


def model_differences(own: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Return how two models differ, in words: ``pool default: concurrency 3 instead of 2``.

    Only keys that both have are compared: an older edition has others.
    """
    others = [
        WORDS.get(key, key)
        for key in own
        if key in wanted and key not in DERIVED and _unlike(own[key], wanted[key])
    ]
    pools = [{str(p.get("name")): p for p in m.get("pools") or []} for m in (own, wanted)]
    workers = {str(pool.get("service")) for found in pools for pool in found.values()}
    services = [
        {name: each for name, each in (m.get("rollout") or {}).items() if name not in workers}
        for m in (own, wanted)
    ]
    return [
        *_named("pool", *pools),
        *_fields("celery", own.get("celery") or {}, wanted.get("celery") or {}),
        *_named("service", *services),
        *dict.fromkeys(others),
    ]


def _named(kind: str, own: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """Yield differences of mappings by name."""
    for name in sorted({*own, *wanted}):
        what = f"{kind} {printable(name)}"
        if name not in own:
            yield f"{what} is new"
        elif name not in wanted:
            yield f"{what} is to go"
        else:
            yield from _fields(what, own[name], wanted[name])


def _fields(what: str, own: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """Yield the fields that differ, each with both values."""
    for key in own:
        if key in wanted and key not in FOLLOWING and _unlike(own[key], wanted[key]):
            values = [_value(each[key]) for each in (wanted, own)]
            both = f" {values[0]} instead of {values[1]}" if all(values) else ""
            yield f"{what}: {printable(key)}{both}"


def _value(value: Any) -> str:
    """Return a short value as a sentence has it; empty for a long one."""
    parts = value if isinstance(value, list) else [value]
    if any(isinstance(part, (dict, list)) for part in parts):
        return ""
    text = ", ".join(map(str, parts)) or "none"
    return printable(text) if len(text) <= 60 else ""


def _unlike(own: Any, wanted: Any) -> bool:
    """Return whether two values differ in what both have."""
    if isinstance(own, dict) and isinstance(wanted, dict):
        return any(_unlike(own[key], wanted[key]) for key in own.keys() & wanted.keys())
    if isinstance(own, list) and isinstance(wanted, list):
        pairs = zip(own, wanted, strict=False)
        return len(own) != len(wanted) or any(_unlike(one, other) for one, other in pairs)
    return bool(own != wanted)
