"""The fact `deploy` of a run: always the same keys (docs/CONTRIBUTING.md, "The fact deploy")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What M(deploy_begin) returns, where it was not asked: nothing is known to be as it should be.
STATE: Mapping[str, Any] = {
    "unchanged": False,
    "intact": False,
    "same": {"docker": False, "images": False},
    "images": {},
    "docker_cli": "",
    "inputs": "",
    "stages": {"docker": "", "images": ""},
    "fitness": {},
    "put_back": {},
    "locked": False,
    "held": {},
    "database_behind": "",
    "unfinished": {},
    "current": "",
    "page": False,
    "queues": {},
    "containers": [],
}
# What role release has staged; nothing yet.
RELEASE: Mapping[str, Any] = {
    "id": "",
    "path": "",
    "staged": False,
    "before": "",
    "resumed": False,
    "differs": {"facts": [], "images": [], "env": [], "secrets": []},
    "sbom": {},
}
LOCK: Mapping[str, Any] = {"held": False, "passed": False}
KEYS = ("run", "lock", "state", "docker_cli", "release")
DOCKER_CLI = "docker"


def updated_fact(fact: Mapping[str, Any], news: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fact with what is new.

    Args:
        fact: the fact until now, or a part of it; empty before it was set.
        news: some of its keys. A new ``run`` begins anew: it has no lock, and knows no state.

    Raises:
        ValueError: `news` has a key that the fact does not have.
    """
    if foreign := sorted(set(news) - set(KEYS)):
        raise ValueError(
            f"the fact deploy has no key {', '.join(foreign)}: it has {', '.join(KEYS)}."
        )
    known = {} if "run" in news else fact
    lock = {**LOCK, **known.get("lock", {}), **news.get("lock", {})}
    state = {**STATE, **known.get("state", {})}
    docker_cli = news.get("docker_cli") or fact.get("docker_cli") or DOCKER_CLI
    if report := news.get("state"):
        state = {**STATE, **{key: report[key] for key in STATE if key in report}}
        lock["held"] = bool(state["locked"])
        if state["same"]["docker"] and state["docker_cli"]:  # role docker has nothing to do then
            docker_cli = state["docker_cli"]
    return {
        "run": news["run"] if "run" in news else fact.get("run"),
        "lock": lock,
        "state": state,
        "docker_cli": docker_cli,
        "release": {**RELEASE, **known.get("release", {}), **news.get("release", {})},
    }


def staged_release(staged: Mapping[str, Any], sbom: Mapping[str, Any]) -> dict[str, Any]:
    """Return the key ``release`` of the fact.

    Args:
        staged: what M(release) returned when it staged a release.
        sbom: what M(release_sbom) returned; empty when it was not asked.
    """
    return {
        **(staged.get("release") or {}),
        "before": staged.get("current", ""),
        "resumed": bool(staged.get("resumed")),
        "differs": {name: list(staged.get(f"{name}_changed", [])) for name in RELEASE["differs"]},
        "sbom": (sbom.get("sbom") or {}) if sbom.get("changed") else {},
    }
