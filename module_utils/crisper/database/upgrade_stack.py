"""A stack whose PostgreSQL is brought into a new cluster: names, images, versions of its data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..backup.manifest import BackupError
from ..docker.exec import Docker
from .versions import Misfit, data_version, find_misfits, text_of, volume_name, wanted_version

MANIFEST = "manifest.json"
Note = Callable[[str], None]


def read_manifest(release: Path) -> dict[str, Any]:
    """Return the manifest of a release; empty when there is none."""
    try:
        manifest: dict[str, Any] = json.loads((release / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return manifest


@dataclass(frozen=True)
class Stack:
    """A stack on this server, and the release that its data is to fit.

    Args:
        root: folder of the stack.
        project: Compose project.
        release: folder of the release.
        docker: the Docker client.
        note: writes a step into the journal before it begins.
    """

    root: Path
    project: str
    release: Path
    docker: Docker
    note: Note

    @property
    def volume(self) -> str:
        """The volume that the stack has its data in."""
        return volume_name(self.project, "postgres")

    @property
    def scratch(self) -> str:
        """The volume, and the container, that a new cluster is made in."""
        return f"{self.project}_postgres_upgrade"

    @property
    def label(self) -> str:
        """The label of everything that only an upgrade under way needs."""
        return f"crisper.upgrade={self.project}"

    def call(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, output and errors of a Docker command."""
        try:
            return 0, self.docker.run(*arguments), ""
        except BackupError as error:
            return 1, "", str(error)

    def images(self) -> dict[str, dict[str, str]]:
        """Return ``{ref, id}`` of the release's images by service."""
        images: dict[str, dict[str, str]] = read_manifest(self.release).get("images", {})
        return images

    def misfits(self) -> list[Misfit]:
        """Return every database whose data the release's image cannot open."""
        return find_misfits(self.call, self.project, self.images())

    def version(self) -> str:
        """Return the major version of PostgreSQL that wrote the data; empty without data."""
        return text_of(data_version(self.call, "postgres", self.volume)[:1])

    def versions(self) -> tuple[str, str]:
        """Return the major versions of PostgreSQL's data and of the release's image."""
        image = self.images()["postgres"]
        wanted = wanted_version(self.call, "postgres", image["ref"], image["id"])
        return self.version(), text_of(wanted[:1])
