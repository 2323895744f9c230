"""The releases that a server keeps: what there is, and what of it goes.

``<root>/releases/<id>/manifest.json`` describes each; the symlinks ``current`` and ``next`` name
the one that serves and the one that is staged.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files import sync_folder
from ..images.identity import identity
from .manifest import DRAFT, MANIFEST, RELEASE_ID, listing, to_prune

UNITS = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}


def linked(root: Path, link: str) -> str:
    """Id that a symlink names; empty when there is no such link."""
    path = root / link
    return path.resolve().name if path.is_symlink() else ""


def proved(root: Path, releases: Iterable[str]) -> list[str]:
    """Return those of the releases that were proved to work, by what the server keeps."""
    kept = manifests(root)
    return sorted({name for name in releases if kept.get(name, {}).get("verified")})


def manifests(root: Path) -> dict[str, dict[str, Any]]:
    """Manifests by id; folders that are no releases are nobody's business."""
    found = {}
    for path in sorted((root / "releases").glob(f"*/{MANIFEST}")):
        if RELEASE_ID.match(path.parent.name):
            try:
                found[path.parent.name] = json.loads(path.read_text())
            except (OSError, ValueError):
                continue
    return found


def annotate(root: Path, release: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Add facts to a release's manifest, atomically and on the disk; return the whole.

    Raises:
        OSError: it cannot be read or written.
        ValueError: it is damaged.
    """
    path = root / "releases" / release / MANIFEST
    manifest = {**json.loads(path.read_text(encoding="utf-8")), **facts}
    draft = path.with_name(f".{MANIFEST}")
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(draft, flags, 0o600), "w", encoding="utf-8") as stream:
        stream.write(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)
    sync_folder(path.parent)
    return manifest


def prune(
    root: Path, stack: str, keep: int, docker: Callable[..., tuple[int, str, str]], look_only: bool
) -> dict[str, Any]:
    """Remove old releases, their backups and image names, and untagged images of this stack.

    Args:
        root: folder of the stack.
        stack: its name.
        keep: how many proved releases stay.
        docker: runs a Docker command; exit code, output and errors.
        look_only: tell only what would go.

    Returns:
        ``{changed, pruned, freed_bytes}``.
    """
    kept, current = manifests(root), linked(root, "current")
    releases = listing(kept.values(), current)
    lasting = [name for name, manifest in kept.items() if manifest.get("irreversible")]
    gone = to_prune(releases, current, keep, linked(root, "next"), lasting)
    if not gone or look_only:
        return {"changed": bool(gone), "pruned": gone, "freed_bytes": 0}
    stays = [manifest for name, manifest in kept.items() if name not in gone]
    used = {identity(image) for m in stays for image in m.get("images", {}).values()}
    for release in gone:
        # Under another name first: killed in between, it leaves no half release.
        aside = root / "releases" / f"{DRAFT}{release}"
        shutil.rmtree(aside, ignore_errors=True)
        (root / "releases" / release).rename(aside)
        shutil.rmtree(aside)
        # The older ones go too, or first: nothing could go back by these backups any more.
        for dump in (root / "backups").glob(f"{release}.*dump"):
            dump.unlink(missing_ok=True)
        images = kept[release].get("images", {})
        names = [f"{stack}/{name}:{release}" for name in images]
        # Names of sources are this stack's own; platform images may be anybody's.
        mine = (images[name] for name in images if name in ("backend", "frontend"))
        names += [image["ref"] for image in mine if identity(image) not in used]
        docker("image", "rm", *names)
    _, out, _ = docker("image", "prune", "--force", "--filter", f"label=crisper.stack={stack}")
    return {"changed": True, "pruned": gone, "freed_bytes": freed(out)}


def freed(output: str) -> int:
    """Bytes from Docker's line ``Total reclaimed space: 412MB``."""
    match = re.search(r"reclaimed space: ([\d.]+)\s*([kMGT]?B)", output)
    return int(float(match[1]) * UNITS[match[2]]) if match else 0
