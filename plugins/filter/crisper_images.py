"""Images of a host: which are missing, in which order they are made, and how they are named."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.images.digests import (
    by_tag,
    describe_refresh,
    pulls_by_digest,
    pulls_by_name,
    refresh,
    without_digest,
)

PLATFORM = "crisper.platform"
RECIPE = "crisper.recipe"

Found = Mapping[str, Mapping[str, Any]]


def is_fit(image: Mapping[str, Any] | None, recipe: str | None, source: str) -> bool:
    """Return whether an image on the host is what the source would give.

    A locally built image carries the digest of its recipe, a pulled one does not. ``auto`` keeps
    either, so that a host does not change its images because a registry came or went. One whose
    registry has another image behind the same reference (``moved``) is outdated.
    """
    if image is None or image.get("moved"):
        return False
    labels = image["labels"]
    pulled = PLATFORM not in labels
    current = labels.get(RECIPE) == recipe
    return {"registry": pulled, "local": current and not pulled, "auto": pulled or current}[source]


def crisper_images_missing(
    needed: Sequence[str],
    found: Found,
    refs: Mapping[str, str],
    recipes: Mapping[str, str],
    source: str,
) -> list[str]:
    """List the needed images that are absent, outdated or of the wrong origin."""
    return [name for name in needed if not is_fit(found.get(refs[name]), recipes.get(name), source)]


def crisper_apps_missing(refs: Mapping[str, str], found: Found) -> list[str]:
    """List the application's images that are absent, or another in their registry by now."""
    return [name for name, ref in refs.items() if ref not in found or found[ref].get("moved")]


def crisper_images_order(
    missing: Collection[str],
    cached: Collection[str],
    parents: Mapping[str, str],
    found: Found,
    refs: Mapping[str, str],
    recipes: Mapping[str, str],
) -> list[str]:
    """List what has to be loaded or built for the missing ones, parents first."""
    order: list[str] = []

    def add(name: str) -> None:
        if name in order:
            return
        parent = parents.get(name)
        # What is loaded from an archive needs no parent on the host.
        if parent and name not in cached:
            image = found.get(refs[parent])
            if parent in missing or not is_fit(image, recipes[parent], "local"):
                add(parent)
        order.append(name)

    for name in sorted(missing):
        add(name)
    return order


def crisper_image_result(reference: str, found: Found) -> dict[str, str]:
    """Return an image by reference and id; one that is yet to come has no id (check mode).

    With ``config``, the digest of its configuration, where that is not the id.
    """
    image = found.get(reference, {})
    if image.get("moved"):
        image = {}
    # A local build that stands for a reference with a digest is known by its tag.
    result = {"ref": image.get("ref") or reference, "id": image.get("id", "")}
    return {**result, "config": image["config"]} if image.get("config") else result


def crisper_image_identity(reference: str, found: Found) -> str:
    """Return what tells an image from another one in every image store; empty if it is not here."""
    image = found.get(reference, {})
    return str(image.get("config") or image.get("id", ""))


def crisper_app_tags(
    names: Sequence[str], contexts: Mapping[str, Mapping[str, Any]], bases: Mapping[str, str]
) -> dict[str, str]:
    """Return the tags of application images that are built, by name: SHA-256, hex.

    Args:
        names: of backend and frontend those that are built.
        contexts: name -> ``{digest}`` of its sources, as of M(build_context).
        bases: name -> identity of the image that it is built on.
    """
    return {
        name: hashlib.sha256((contexts[name]["digest"] + bases[name]).encode()).hexdigest()
        for name in names
    }


def crisper_app_references(
    app: Mapping[str, Any], stack: str, tags: Mapping[str, str]
) -> dict[str, str]:
    """Return the reference of each image of an application: its own, or that of the build.

    Args:
        app: stack_app.
        stack: name of the stack.
        tags: see `crisper_app_tags`.
    """
    sections = {"backend": app, **({"frontend": app["frontend"]} if "frontend" in app else {})}
    return {
        name: f"{stack}/{name}:src-{tags[name][:12]}" if name in tags else str(section["image"])
        for name, section in sections.items()
    }


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        """Return the functions by filter name."""
        return {
            "crisper_app_references": crisper_app_references,
            "crisper_app_tags": crisper_app_tags,
            "crisper_apps_missing": crisper_apps_missing,
            "crisper_by_tag": by_tag,
            "crisper_digest_lines": describe_refresh,
            "crisper_digests": refresh,
            "crisper_image_identity": crisper_image_identity,
            "crisper_image_result": crisper_image_result,
            "crisper_images_missing": crisper_images_missing,
            "crisper_images_order": crisper_images_order,
            "crisper_pulls_by_digest": pulls_by_digest,
            "crisper_pulls_by_name": pulls_by_name,
            "crisper_without_digest": without_digest,
        }
