"""Questions to the server about a stack at the start of a run: the I/O edge of ``deploy.begin``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..docker.client import DockerClient
from ..images.moving import images_on_host
from ..images.registry import Comparison, Registries, compare
from ..journal import Journal
from ..release.store import ReleaseStore
from .acquire import check_link
from .begin import Stack, interrupted_run, read_manifest


def observe(journal: Journal, docker: DockerClient, purpose: str) -> Stack:
    """Return the state of the stack.

    Args:
        journal: of the stack, for the run that asks.
        docker: the engine of the host; one that does not answer has no containers.
        purpose: of the run.

    Raises:
        RefusedError: the run is a deploy, and proved releases run that are not the current one.
    """
    root = journal.root
    manifest = read_manifest(root)
    if not manifest and purpose == "deploy":
        check_link(root, _running_releases(root, docker))
    entries = journal.entries()
    return Stack(
        manifest=manifest,
        containers=docker.containers() if manifest and docker.available() else [],
        entries=entries,
        interrupted=interrupted_run(entries, journal.run),
        staged=(root / "next").is_symlink(),
    )


def _running_releases(root: Path, docker: DockerClient) -> list[str]:
    """Return the proved releases of which containers run, sorted."""
    if not (root / "releases").is_dir() or not docker.available():
        return []
    running = (c.release for c in docker.containers() if c.state == "running")
    return ReleaseStore(root).proved(running)


def compare_images(
    stack: Stack,
    stages: Mapping[str, str],
    references: Sequence[str],
    docker: DockerClient,
    registries: Registries,
) -> Comparison:
    """Return which references of the wanted release name another image in their registry now.

    No registry is asked where the stage ``images`` has something to do anyhow.

    Args:
        stack: its state.
        stages: digests of what the stages of the wanted release are made from.
        references: without digest, of the wanted release.
        docker: the engine of the host.
        registries: those that it reaches.
    """
    if not stack.containers or not stack.has_image_inputs(stages.get("images", "")):
        return Comparison()
    return compare(images_on_host(references, stack.images, docker.call), registries.ask)
