"""Remove the releases that a server need not keep, with their backups and images."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..images.identity import identity
from .store import ReleaseStore

UNITS = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}


def prune(
    store: ReleaseStore,
    stack: str,
    keep: int,
    docker: Callable[..., tuple[int, str, str]],
    look_only: bool,
) -> dict[str, Any]:
    """Remove old releases, their backups and image names, and untagged images of this stack.

    Args:
        store: the releases of the stack.
        stack: its name.
        keep: how many proved releases stay.
        docker: runs a Docker command; exit code, output and errors.
        look_only: tell only what would go.

    Returns:
        ``{changed, pruned, freed_bytes}``.
    """
    manifests, current = store.manifests, store.current
    lasting = [name for name, manifest in manifests.items() if manifest.get("irreversible")]
    obsolete = to_prune(store.releases, current, keep, store.staged, lasting)
    if not obsolete or look_only:
        return {"changed": bool(obsolete), "pruned": obsolete, "freed_bytes": 0}
    stays = [manifest for name, manifest in manifests.items() if name not in obsolete]
    used = {identity(image) for m in stays for image in m.get("images", {}).values()}
    for release in obsolete:
        store.remove(release)
        # The older ones go too, or first: nothing could go back by these backups any more.
        for dump in (store.root / "backups").glob(f"{release}.*dump"):
            dump.unlink(missing_ok=True)
        images = manifests[release].get("images", {})
        names = [f"{stack}/{name}:{release}" for name in images]
        # Names of sources are this stack's own; platform images may be anybody's.
        mine = (images[name] for name in images if name in ("backend", "frontend"))
        names += [image["ref"] for image in mine if identity(image) not in used]
        docker("image", "rm", *names)
    _, out, _ = docker("image", "prune", "--force", "--filter", f"label=crisper.stack={stack}")
    return {"changed": True, "pruned": obsolete, "freed_bytes": freed(out)}


def to_prune(
    releases: Iterable[Mapping[str, Any]],
    current: str,
    keep: int,
    staged: str = "",
    irreversible: Iterable[str] = (),
) -> list[str]:
    """Return the ids that may go: all but `current`, `staged`, and the newest `keep` proved ones.

    Args:
        releases: as `listing` returns them.
        current: the release that serves.
        keep: how many proved releases stay.
        staged: the release that is being deployed.
        irreversible: releases whose migrations cannot be undone. They stay while an older release
            does: its way back leads over their dumps, also over those of failed releases.
    """
    releases = list(releases)
    proved = sorted((r["id"] for r in releases if r["verified"]), reverse=True)
    retained = {current, staged, *proved[:keep]} - {""}
    oldest = min(retained, default="")
    retained |= {name for name in irreversible if oldest and name > oldest}
    return sorted(r["id"] for r in releases if r["id"] not in retained)


def freed(output: str) -> int:
    """Return the bytes of Docker's line ``Total reclaimed space: 412MB``."""
    match = re.search(r"reclaimed space: ([\d.]+)\s*([kMGT]?B)", output)
    return int(float(match[1]) * UNITS[match[2]]) if match else 0
