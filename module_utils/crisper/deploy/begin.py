"""A stack at the start of a run: what serves, what an earlier run left, and what is up to date.

Pure functions of what the server tells; ``library/deploy_begin.py`` asks it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..journal import UnfinishedRun, last_host, unfinished
from ..release.manifest import MANIFEST
from ..release.model import read_model
from ..rollout.plan import KEEP, Container, decide, node_name


@dataclass(frozen=True)
class Stack:
    """A stack as its files, its journal and its engine show it.

    Attributes:
        manifest: of the release that serves; empty when there is none.
        containers: those of the stack; empty when no release serves, or no engine answers.
        entries: of the journal.
        interrupted: the last run, when it was cut off or could not be undone; empty otherwise.
        staged: whether a release is staged.
    """

    manifest: Mapping[str, Any]
    containers: Sequence[Container]
    entries: Sequence[Mapping[str, Any]]
    interrupted: UnfinishedRun
    staged: bool

    @property
    def current(self) -> str:
        """Id of the release that serves; empty when there is none."""
        return str(self.manifest.get("id", ""))

    @property
    def images(self) -> Mapping[str, Mapping[str, str]]:
        """Name to ``{ref, id}`` of the images of the release that serves."""
        images: Mapping[str, Mapping[str, str]] = self.manifest.get("images", {})
        return images

    @property
    def healthy(self) -> bool:
        """True when every container of the release that serves is there and healthy."""
        services = read_model(self.manifest).get("rollout", {})
        steps = decide(services, self.containers, self.current, ())
        return bool(services) and all(step.action == KEEP for step in steps)

    @property
    def database_behind(self) -> str:
        """The backup whose migrations are missing, of a rollback that was cut off; or empty."""
        return str(self.manifest.get("database_behind", ""))

    @property
    def settled(self) -> bool:
        """True when all is healthy, and no earlier run has left anything to do."""
        pending = self.database_behind or self.manifest.get("roles_postponed")
        return self.healthy and not self.staged and not self.interrupted and not pending

    def has_inputs(self, inputs: str) -> bool:
        """Return whether the release that serves was made from these inputs."""
        return bool(inputs) and self.manifest.get("inputs") == inputs

    def has_image_inputs(self, inputs: str) -> bool:
        """Return whether the images of the release that serves were made from these inputs."""
        return bool(inputs) and self.manifest.get("images_inputs") == inputs

    def done_stages(
        self, stages: Mapping[str, str], has_images: Callable[[list[str]], bool]
    ) -> dict[str, bool]:
        """Return which stages have nothing to do: none when no release serves.

        Args:
            stages: digests of what they are made from, by name.
            has_images: tells whether all images of these ids are on the host.
        """
        # What a deploy did to the host outlives its release, so the last one counts that was begun.
        docker = stages.get("docker", "")
        return {
            "docker": bool(docker and self.images)
            and last_host(self.entries) == docker
            and bool(self.manifest.get("docker_cli")),
            "images": bool(self.images)
            and self.has_image_inputs(stages.get("images", ""))
            and has_images(sorted({image["id"] for image in self.images.values()})),
        }

    def describe(self, host: str) -> dict[str, Any]:
        """Return what M(deploy_begin) returns of the stack itself."""
        return {
            "intact": self.healthy and not self.interrupted,
            "images": self.images,
            "docker_cli": self.manifest.get("docker_cli", ""),
            "unfinished": self.interrupted,
            "database_behind": self.database_behind,
            "current": self.current,
            "queues": self.worker_queues(host) if self.interrupted else {},
        }

    def worker_queues(self, host: str) -> dict[str, list[str]]:
        """Return the queues that the running workers of the release consume, by node name."""
        pools = {p["name"]: p["queues"] for p in read_model(self.manifest).get("pools", [])}
        return {
            node_name(container, host): list(pools[container.pool])
            for container in self.containers
            if container.state == "running"
            and container.release == self.manifest.get("id")
            and container.pool in pools
        }


def read_manifest(root: Path) -> dict[str, Any]:
    """Return the manifest of the release that serves; empty when there is none."""
    try:
        manifest: dict[str, Any] = json.loads((root / "current" / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return manifest


def interrupted_run(entries: Iterable[Mapping[str, Any]], run: str) -> UnfinishedRun:
    """Return the last run when it was cut off or could not be undone, unless it is `run` itself."""
    last = unfinished(entries)
    return {} if last.get("run") == run else last
