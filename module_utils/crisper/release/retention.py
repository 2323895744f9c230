"""Remove the releases that a server need not keep, with their backups and images."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..images.identity import identity
from .manifest import to_prune
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


def freed(output: str) -> int:
    """Return the bytes of Docker's line ``Total reclaimed space: 412MB``."""
    match = re.search(r"reclaimed space: ([\d.]+)\s*([kMGT]?B)", output)
    return int(float(match[1]) * UNITS[match[2]]) if match else 0
