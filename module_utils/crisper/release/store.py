"""The releases on a server: their folders, their manifests, and which of them serves.

``<root>/releases/<id>/manifest.json`` describes each; the symlinks ``current`` and ``next`` name
the one that serves and the one that is staged.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files import make_folder, sync_folder
from .manifest import (
    DRAFT,
    MANIFEST,
    RELEASE_ID,
    checksums,
    irreversible_after,
    listing,
    previous,
    same_parts,
)

# What containers mount, and who may enter it: nginx is another user than root.
LIVE = {".": 0o700, "nginx": 0o755}


class ReleaseError(RuntimeError):
    """Missing release, or a manifest that cannot be read."""


class ReleaseStore:
    """The releases of the stack in `root`."""

    def __init__(self, root: Path) -> None:
        """Read nothing yet: what is on the disk may change while a deploy runs."""
        self.root = root
        self.folder = root / "releases"

    @property
    def current(self) -> str:
        """Return the id of the release that serves; empty when there is none."""
        return linked(self.root, "current")

    @property
    def staged(self) -> str:
        """Return the id of the release that is staged; empty when there is none."""
        return linked(self.root, "next")

    @property
    def manifests(self) -> dict[str, dict[str, Any]]:
        """Return all manifests that can be read, by id. Ignore folders that are not releases."""
        found = {}
        for path in sorted(self.folder.glob(f"*/{MANIFEST}")):
            if RELEASE_ID.match(path.parent.name):
                try:
                    found[path.parent.name] = json.loads(path.read_text())
                except (OSError, ValueError):
                    continue
        return found

    @property
    def releases(self) -> list[dict[str, Any]]:
        """Return the releases, newest first, as operators see them."""
        return listing(self.manifests.values(), self.current)

    def proved(self, releases: Iterable[str]) -> list[str]:
        """Return those of the releases that were proved to work."""
        manifests = self.manifests
        return sorted({name for name in releases if manifests.get(name, {}).get("verified")})

    def names(self) -> str:
        """Return the proved releases that do not serve, for messages."""
        names = [r["id"] for r in self.releases if r["verified"] and not r["current"]]
        return ", ".join(names) or "none"

    def find(self, wanted: str = "") -> dict[str, Any]:
        """Return a release, by default the newest proved one before the current.

        Raises:
            ReleaseError: there is none.
        """
        wanted = wanted or previous(self.releases, self.current)
        if not wanted:
            raise ReleaseError(
                f"There is no verified release before {self.current or 'the first deploy'}"
                f" to go back to. Kept: {self.names()}."
            )
        manifests = self.manifests
        if wanted not in manifests:
            raise ReleaseError(
                f"Release {wanted} is not kept on this server. Kept: {self.names()}."
                " Choose one with -e release=<id>."
            )
        manifest = manifests[wanted]
        serving = manifests.get(self.current, {})
        data = manifest.get("model", {}).get("data_services", [])
        return {
            "id": wanted,
            "path": str(self.folder / wanted),
            "images": manifest.get("images", {}),
            "model": manifest.get("model", {}),
            "tasks": (manifest.get("verified") or {}).get("tasks", []),
            "irreversible": irreversible_after(manifests.values(), wanted),
            "same": same_parts(manifest, serving, data),
        }

    def linked_manifest(self, link: str) -> dict[str, Any]:
        """Return the manifest of the release that the symlink names; empty when there is none.

        Raises:
            ReleaseError: it cannot be read.
        """
        path = self.root / link
        if not path.is_symlink():
            return {}
        folder = path.resolve()
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ReleaseError(
                f"{path} names {folder}, but its {MANIFEST} cannot be read: {error}."
                " Put the folder back, or remove the symlink to deploy anew."
            ) from error
        return {**manifest, "path": str(folder)}

    def link(self, link: str, release: str) -> None:
        """Point the symlink at a release, atomically and on the disk."""
        temporary = self.root / f".{link}.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(f"releases/{release}")
        temporary.replace(self.root / link)
        sync_folder(self.root)

    def unstage(self) -> None:
        """Have no release staged."""
        (self.root / "next").unlink()

    def annotate(self, release: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Add facts to a release's manifest, atomically and on the disk; return the whole.

        Raises:
            OSError: it cannot be read or written.
            ValueError: it is damaged.
        """
        path = self.folder / release / MANIFEST
        manifest = {**json.loads(path.read_text(encoding="utf-8")), **facts}
        draft = path.with_name(f".{MANIFEST}")
        draft.unlink(missing_ok=True)
        try:
            write_file(draft, to_text(manifest), "0600", 0)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        sync_folder(path.parent)
        return manifest

    def add(
        self,
        manifest: Mapping[str, Any],
        files: Iterable[Mapping[str, Any]],
        accept: Callable[[Path], None],
    ) -> dict[str, Any]:
        """Write a release's folder, whole or not at all; return its manifest.

        Args:
            manifest: without ``checksums``, which are added.
            files: each with ``path``, ``content``, ``mode`` and ``owner``.
            accept: called with the folder while it has another name; raises to refuse it.

        Raises:
            OSError: it cannot be written.
        """
        self.prepare()
        rendered = [dict(item) for item in files]
        for item in rendered:
            if item["path"] == ".env":
                item["content"] += f"RELEASE={manifest['id']}\n"
        whole = {**manifest, "checksums": checksums(rendered)}
        draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=self.folder))
        try:
            draft.chmod(0o755)
            for item in rendered:
                write_file(draft / item["path"], item["content"], item["mode"], item["owner"])
            write_file(draft / MANIFEST, to_text(whole), "0600", 0)
            accept(draft)
            for path in (draft, *(path for path in draft.rglob("*") if path.is_dir())):
                sync_folder(path)
            # Whole, of the same second, of a deploy that was killed then.
            self.remove(whole["id"])
            draft.rename(self.folder / whole["id"])
            sync_folder(self.folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return whole

    def prepare(self) -> None:
        """Make the folders that releases need; remove drafts of deploys that were killed.

        Raises:
            OSError: one cannot be made, or removed.
        """
        make_folder(self.folder)
        for draft in self.folder.glob(f"{DRAFT}*"):  # of a deploy that was killed while it wrote
            shutil.rmtree(draft)
        # What containers mount: files in it belong to their users, whose uids others may have here.
        for name, mode in LIVE.items():
            make_folder(self.root / "live" / name, mode)
            (self.root / "live" / name).chmod(mode)  # earlier revisions left it to the umask

    def take_back(self, release: str) -> None:
        """Remove the files of a release that nothing serves."""
        if self.staged == release:
            self.unstage()
        self.remove(release)

    def remove(self, release: str) -> None:
        """Remove a release's folder; at no moment is a half one there under its name."""
        folder = self.folder / release
        if not folder.exists():
            return
        draft = folder.with_name(f"{DRAFT}{release}")
        shutil.rmtree(draft, ignore_errors=True)
        folder.rename(draft)
        shutil.rmtree(draft)


def linked(root: Path, link: str) -> str:
    """Return the id that a symlink names; empty when there is no such link."""
    path = root / link
    return path.resolve().name if path.is_symlink() else ""


def to_text(manifest: Mapping[str, Any]) -> str:
    """Return a manifest as its file has it."""
    return json.dumps(manifest, indent=2, sort_keys=True) + "\n"


def write_file(path: Path, content: str, mode: str, owner: int) -> None:
    """Write a new file that is never readable by more than its mode allows, to the disk."""
    private = mode.endswith("00")
    make_folder(path.parent, 0o700 if private else 0o755)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    # UTF-8 and as it is, whatever the locale of this host says.
    with os.fdopen(os.open(path, flags, 0o600), "wb") as stream:
        stream.write(content.encode())
        stream.flush()
        os.fsync(stream.fileno())
    if os.geteuid() == 0:
        os.chown(path, owner, -1)
    path.chmod(int(mode, 8))
