"""Define a release: its fingerprint, its name, its manifest, and what differs between two.

Pure functions of plain data; ``release.store`` does the reading and writing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

from ..images.identity import identity

RELEASE_ID = re.compile(r"\d{8}t\d{6}z-[0-9a-f]{8}\Z")
MANIFEST = "manifest.json"
DRAFT = ".draft-"  # begins the name of a folder that is no release, or none any more
REDACTED = "<redacted>"
PARTS = ("nginx", "data")  # digests in a manifest


def file_options(mode: str, no_log: bool) -> dict[str, Any]:
    """Return the argument spec of one rendered file of a release."""
    return {
        "path": {"type": "str", "required": True},
        "content": {"type": "str", "required": True, "no_log": no_log},
        "encoding": {"type": "str", "choices": ["text", "base64"], "default": "text"},
        "mode": {"type": "str", "default": mode},
        "owner": {"type": "int", "default": 0},
    }


def decoded_files(files: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rendered files with their contents as texts."""
    return [
        {**item, "content": base64.b64decode(item["content"]).decode()}
        if item.get("encoding") == "base64"
        else dict(item)
        for item in files
    ]


def fingerprint(
    files: Iterable[Mapping[str, Any]],
    images: Mapping[str, Mapping[str, str]],
    migrate: Iterable[str] = (),
) -> str:
    """Return the SHA-256 (hex) of what a release is made of: equal means the same release.

    Args:
        files: each with ``path``, ``mode`` and ``content``; the order does not matter.
        images: name -> ``{ref, id}``, with ``config`` where that is another digest than the id.
        migrate: the migration command. It is in no file, and another one must run: the dump taken
            before it and what it did belong to a release of their own.
    """
    digest = hashlib.sha256()
    for item in sorted(files, key=lambda item: item["path"]):
        record = [item["path"], item["mode"], item["content"]]
        digest.update(json.dumps(record).encode() + b"\n")
    for name in sorted(images):
        digest.update(json.dumps([name, identity(images[name])]).encode() + b"\n")
    if command := list(migrate):
        digest.update(json.dumps(["migrate", *command]).encode() + b"\n")
    return digest.hexdigest()


def release_id(moment: datetime, print_: str) -> str:
    """Return ``<UTC time>-<fingerprint>``, lower case because it is an image tag too."""
    return f"{moment.astimezone(timezone.utc):%Y%m%dt%H%M%Sz}-{print_[:8]}"


def checksums(files: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the SHA-256 (hex) of every file of a release, by its path in the release folder."""
    return {
        item["path"]: hashlib.sha256(item["content"].encode()).hexdigest()
        for item in sorted(files, key=lambda item: item["path"])
    }


def env_names_changed(before: str, after: str) -> list[str]:
    """Return the names (never values) that differ between two env files.

    ``+NAME``, ``-NAME`` or ``~NAME``. An empty proxy variable counts as none: each release has all
    of them, only so that the Docker client adds no values of its own.
    """
    old, new = (
        {name: value for name, value in _env(text).items() if not _no_proxy(name, value)}
        for text in (before, after)
    )
    marks = []
    for name in sorted({*old, *new}):
        if name not in old:
            marks.append(f"+{name}")
        elif name not in new:
            marks.append(f"-{name}")
        elif old[name] != new[name]:
            marks.append(f"~{name}")
    return marks


def redacted_env(text: str, other: str, mark: str = " (differs)") -> str:
    """Return an env file for a diff against `other`: values hidden, `mark` behind changed ones.

    Give the two sides of a diff different marks, or the lines are equal.
    """
    mine, theirs = _env(text), _env(other)
    lines = []
    for name in sorted(mine):
        differs = name in theirs and theirs[name] != mine[name]
        lines.append(f"{name}={REDACTED}{mark if differs else ''}")
    return "".join(f"{line}\n" for line in lines)


def _no_proxy(name: str, value: str) -> bool:
    return name.lower().endswith("_proxy") and value in ("", '""')


def _env(text: str) -> dict[str, str]:
    # Lines end with \n alone: what else str.splitlines takes for an end stands in values.
    pairs = (line.split("=", 1) for line in text.split("\n") if "=" in line and line[0] != "#")
    return {name: value for name, value in pairs}


def listing(manifests: Iterable[Mapping[str, Any]], current: str) -> list[dict[str, Any]]:
    """Return kept releases, newest first, as operators see them.

    Returns:
        Each with ``id, created, operator, revision, verified, failed, current``.
    """
    return [
        {
            "id": manifest["id"],
            "created": manifest.get("created", ""),
            "operator": manifest.get("operator", ""),
            "revision": manifest.get("revision", ""),
            "verified": bool(manifest.get("verified")),
            "failed": manifest.get("failed", ""),
            "current": manifest["id"] == current,
        }
        for manifest in sorted(manifests, key=lambda manifest: manifest["id"], reverse=True)
    ]


def previous(releases: Iterable[Mapping[str, Any]], current: str) -> str:
    """Return the newest proved release before `current`; empty when there is none.

    Going back twice goes back two releases: it never toggles.
    """
    older = [r["id"] for r in releases if r["verified"] and r["id"] < current]
    return max(older, default="")


def irreversible_after(
    manifests: Iterable[Mapping[str, Any]], release: str
) -> list[dict[str, Any]]:
    """Return releases after `release` whose migrations cannot be undone, oldest first.

    Failed ones count too: their migrations ran. So do those of which nobody knows what they did.

    Returns:
        Each with ``id``, ``backup`` (path of the dump from before it), ``dump`` (all that the
        manifest has of that file: ``path``, ``bytes``, ``sha256``) and ``unknown``.
    """
    found = [m for m in manifests if m["id"] > release and m.get("irreversible")]
    return [
        {
            "id": m["id"],
            "backup": str((m.get("backup") or {}).get("path", "")),
            "dump": dict(m.get("backup") or {}),
            "unknown": is_uncertain(m.get("migration") or {}),
        }
        for m in sorted(found, key=lambda m: m["id"])
    ]


def is_uncertain(migration: Mapping[str, Any]) -> bool:
    """Return whether nobody knows all that a migration did: it was cut off, or still runs."""
    return bool(migration.get("uncertain")) or migration.get("state") in ("started", "unknown")


def same_parts(
    one: Mapping[str, Any], other: Mapping[str, Any], data_services: Iterable[str]
) -> dict[str, bool]:
    """Return whether two releases (manifests) have the same nginx configuration, and same data.

    ``data`` is what the data services run: definitions, images and files that they read.
    """

    def ids(manifest: Mapping[str, Any]) -> list[Any]:
        images = manifest.get("images", {})
        return [identity(images.get(name, {})) for name in data_services]

    def read(manifest: Mapping[str, Any]) -> dict[str, str]:
        sums = manifest.get("checksums", {})
        return {k: v for k, v in sums.items() if k.startswith("secrets/") or k == ".env.qdrant"}

    alike = {name: bool(one.get(name)) and one.get(name) == other.get(name) for name in PARTS}
    alike["data"] = alike["data"] and ids(one) == ids(other) and read(one) == read(other)
    return alike
