"""State of a stack after a failed deploy: lock holder, changes, and what serves.

Nothing here changes anything, and nothing raises: who asks has a failure to tell already.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

from ..journal import Journal, steps_of
from ..proxy.upstream import Upstreams
from ..release.manifest import MANIFEST
from ..release.model import read_model
from ..release.store import ReleaseStore
from ..rollout.plan import ROLLED, Container, parse_inspect

# Seconds for one answer of the engine: one that hangs is no engine that serves.
ENGINE_SECONDS = 30
PAGE = "live/nginx/maintenance.on"


@dataclass(frozen=True)
class DeployState:
    """The state of a stack.

    `error` says why the engine could not be asked; `missing` names the services of the current
    release that are not whole, with what there is of each; `unlinked` the proved releases whose
    containers run though none is the current one.
    """

    current: str
    staged: str
    serving: str
    page: bool
    error: str = ""
    healthy: int = 0
    missing: list[str] = field(default_factory=list)
    unlinked: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """True if the current release serves, with every container of it healthy."""
        return bool(self.current) and not (self.error or self.missing or self._elsewhere)

    @property
    def _elsewhere(self) -> bool:
        return self.serving not in ("", self.current)

    def describe(self) -> str:
        """Return what serves, in words, and no more than was seen."""
        if self.unlinked:
            return (
                f"no release is the current one, but containers of {', '.join(self.unlinked)} run"
            )
        if not self.current:
            return "nothing; no release has been verified on this host"
        page = " Visitors see the maintenance page." if self.page else ""
        if self.error:
            return (
                f"could not be checked: {self.error}. Release {self.current} is the current"
                f" one.{page}"
            )
        if self.whole:
            return (
                f"release {self.current}: all {self.healthy} containers are"
                f" healthy{', behind the maintenance page' if self.page else ''}"
            )
        parts = [*self.missing]
        if self._elsewhere:
            parts.insert(0, f"nginx sends requests to release {self.serving}")
        return (
            f"release {self.current} is the current one, but not all of it serves:"
            f" {'; '.join(parts)}.{page}"
        )


class LockState(TypedDict):
    """The lock of a stack as a run sees it."""

    locked: bool
    lock: dict[str, Any]
    steps: list[str]


def find_missing(
    services: Mapping[str, Mapping[str, Any]], containers: Sequence[Container], release: str
) -> tuple[int, list[str]]:
    """Return how many containers of a release are healthy, and which services are not whole.

    Containers of other releases beside them do no harm to what serves.
    """
    healthy, missing = 0, []
    for name, service in services.items():
        wanted = int(service.get("replicas", 1))
        mine = [c for c in containers if c.service == name]
        if service["kind"] in (*ROLLED, "singleton"):
            mine = [c for c in mine if c.release == release]
        ready = [c for c in mine if c.is_healthy]
        healthy += len(ready)
        if len(ready) < wanted:
            states = ", ".join(
                f"{c.name} is {c.health if c.state == 'running' else c.state}"
                for c in mine
                if not c.is_healthy
            )
            details = f" ({states})" if states else ""
            missing.append(f"{name}: {len(ready)} of {wanted} containers are healthy{details}")
    return healthy, missing


def ask_engine(docker_cli: str, project: str) -> tuple[list[Container], str]:
    """Return the containers of a stack, or why the engine did not tell them."""
    label = f"label=com.docker.compose.project={project}"
    found: list[Container] = []
    try:
        ids = _docker(docker_cli, "ps", "--all", "--quiet", "--no-trunc", "--filter", label).split()
        if ids:
            found = parse_inspect(json.loads(_docker(docker_cli, "container", "inspect", *ids)))
    except subprocess.TimeoutExpired:
        return [], f"the engine did not answer within {ENGINE_SECONDS} s"
    except (OSError, ValueError, RuntimeError) as error:
        return [], f"the engine does not answer ({error})"
    return found, ""


def _docker(docker_cli: str, *arguments: str) -> str:
    done = subprocess.run(
        [docker_cli, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=ENGINE_SECONDS,
        check=False,
    )
    # One that went away between the two questions is no reason to know nothing.
    if done.returncode != 0 and not done.stdout.strip().startswith("[{"):
        output = (done.stderr or done.stdout).strip().splitlines() or [""]
        raise RuntimeError(output[-1][:300])
    return done.stdout


def gather_state(root: Path, project: str, docker_cli: str) -> DeployState:
    """Return what is there of the stack in `root`."""
    store = ReleaseStore(root)
    current = store.current
    state = DeployState(
        current=current,
        staged=store.staged,
        serving=Upstreams(str(root / "live" / "nginx"), {}).serving,
        page=(root / PAGE).exists(),
    )
    if not current:
        containers, _ = ask_engine(docker_cli, project)
        running = (c.release for c in containers if c.state == "running")
        return replace(state, unlinked=store.proved(running))
    try:
        manifest = json.loads((root / "current" / MANIFEST).read_text())
        services = read_model(manifest).get("rollout", {})
    except (OSError, ValueError, AttributeError) as error:
        return replace(state, error=f"the manifest of the release cannot be read ({error})")
    containers, problem = ask_engine(docker_cli, project)
    if problem:
        return replace(state, error=problem)
    if not services:  # a release of before its model was kept
        services = {c.service: {"kind": "stateful"} for c in containers}
    healthy, missing = find_missing(services, containers, current)
    if not containers:
        missing = ["the engine has no container of this stack"]
    return replace(state, healthy=healthy, missing=missing)


def ask_lock(root: Path, run: str) -> LockState:
    """Return ``{locked, lock, steps}``: whether `run` has the lock, the lock, what it changed."""
    journal = Journal(root, run)
    lock = journal.lock()
    return {
        "locked": bool(run) and lock.get("run") == run,
        "lock": lock,
        "steps": steps_of(journal.entries(), run),
    }
