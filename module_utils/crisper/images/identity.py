"""The digest of an image's configuration, which is the same in every image store of the engine.

With a graph driver the engine's id of an image is this digest. With containerd's store the id is
the digest of the manifest, or of an index of manifests, as the image was built, pulled or loaded:
the same image has another one after it was moved from one store to the other. Engine 26 does not
tell the configuration's digest there; it stands in the manifest, in containerd's content store.

Runs on the target's Python (3.8 or newer).
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Read = Callable[[str], str]

# Where containerd keeps content, run by its own unit or by dockerd; its sockets, likewise.
BLOBS = (
    "/var/lib/containerd/io.containerd.content.v1.content/blobs",
    "/var/lib/docker/containerd/daemon/io.containerd.content.v1.content/blobs",
)
SOCKETS = ("/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock")
NAMESPACE = "moby"
CTR_SECONDS = 10
# Manifests and indexes are a few kB.
MOST_BYTES = 4 << 20
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def identity(image: Mapping[str, Any]) -> str:
    """Return what tells an image ``{ref, id, config}`` of a release from another one.

    ``config`` is there only where it is not the id. Releases of older editions have the id alone.
    """
    return str(image.get("config") or image.get("id") or "")


def is_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two images of releases are one: by configuration, or by the engine's id."""
    first, second = identity(one), identity(other)
    return bool(first) and (first == second or one.get("id") == other.get("id"))


def in_containerd(image_id: str, repo_digests: Iterable[str]) -> bool:
    """Return whether an image's id is a manifest's digest: it is in its names by digest, then."""
    return any(name.endswith(f"@{image_id}") for name in repo_digests)


def config_digest(
    image_id: str, repo_digests: Iterable[str], read: Read | None = None, machine: str = ""
) -> str:
    """Return the digest of an image's configuration; '' where nothing tells it.

    Args:
        image_id: the engine's id of the image.
        repo_digests: its names by digest.
        read: gives the text of what a digest names in containerd's content store; '' without.
        machine: the machine type of the images in question, this one's by default.
    """
    if not in_containerd(image_id, repo_digests):
        return image_id
    read = read or read_content
    architecture = machine or platform.machine()
    architecture = ARCHITECTURES.get(architecture, architecture)
    digest = image_id
    for _ in range(4):  # an index may name another one
        try:
            content = json.loads(read(digest) or "{}")
        except ValueError:
            return ""
        if not isinstance(content, dict):
            return ""
        config = content.get("config")
        if isinstance(config, Mapping):
            return str(config.get("digest") or "")
        digest = _chosen(content.get("manifests"), architecture)
        if not digest:
            return ""
    return ""


def _chosen(manifests: Any, architecture: str) -> str:
    """Return the manifest of an index that runs here; '' without one."""
    entries = [entry for entry in manifests or () if isinstance(entry, Mapping)]
    images = [e for e in entries if (e.get("platform") or {}).get("os") != "unknown"]
    mine = [e for e in images if (e.get("platform") or {}).get("architecture") == architecture]
    for entry in (*mine, *(images if len(images) == 1 else ())):
        return str(entry.get("digest") or "")
    return ""


def read_content(digest: str) -> str:
    """Return a manifest or an index of containerd's content store; '' where it cannot be had."""
    algorithm, _, name = digest.partition(":")
    if not name.isalnum():
        return ""
    for folder in BLOBS:
        path = os.path.join(folder, algorithm, name)
        try:
            if os.path.getsize(path) <= MOST_BYTES:
                with open(path, encoding="utf-8") as file:
                    return file.read()
        except (OSError, UnicodeError):
            continue
    ctr = shutil.which("ctr", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin")
    for socket in SOCKETS if ctr else ():
        if not os.path.exists(socket):
            continue
        command = [str(ctr), "--address", socket, "--namespace", NAMESPACE, "content", "get"]
        try:
            done = subprocess.run(
                [*command, digest], capture_output=True, timeout=CTR_SECONDS, check=False
            )
            if done.returncode == 0 and len(done.stdout) <= MOST_BYTES:
                return done.stdout.decode()
        except (OSError, UnicodeError, subprocess.SubprocessError):
            continue
    return ""
