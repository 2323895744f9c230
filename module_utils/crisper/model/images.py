"""References of images: of the application and of the platform, and their registries (no I/O)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from ..images.digests import digest_of, find_digest_problems
from .defaults import IMAGE_REFS, image_references, unknown_keys
from .validators import IMAGE, REGISTRY, as_mapping, quoted

PINNED = re.compile(r"@sha256:[0-9a-f]{64}\Z")
# Keys of registry_logins, and what each holds.
LOGIN = {
    "registry": "a host name",
    "username": "the name of the account",
    "password": "its password or access token, from the vault",
}


def database_images(references: Mapping[str, str], mariadb: bool) -> dict[str, str]:
    """Return the references of the databases' images by name.

    Args:
        references: image_refs.
        mariadb: whether the stack has one.
    """
    names = ("postgres", *(("mariadb",) if mariadb else ()))
    return {name: references[name] for name in names if name in references}


def registry_references(values: Mapping[str, Any], sources: Collection[str]) -> dict[str, str]:
    """Return the references that come from a registry, by the variable that holds each.

    Args:
        values: the shared variables of role ``stack`` by name.
        sources: values of image_source with which image_refs count; what stack_app.build builds
            never counts.
    """
    app = as_mapping(values.get("stack_app"))
    found = {
        "stack_app.image": app.get("image"),
        "stack_app.frontend.image": as_mapping(app.get("frontend")).get("image"),
    }
    if values.get("image_source", "auto") in sources:
        images = image_references(values)
        names = [
            name
            for name in _platform_images(values)
            if name != "python" or not found["stack_app.image"]
        ]
        found |= {f"image_refs.{name}": images.get(name) for name in names}
    return {name: ref for name, ref in found.items() if ref and isinstance(ref, str)}


def moving_references(values: Mapping[str, Any]) -> list[str]:
    """Return the references without digest whose registry a deploy asks, sorted, unique."""
    references = registry_references(values, ("auto", "registry")).values()
    digests = as_mapping(values.get("image_digests"))
    return sorted({reference for reference in references if not digest_of(reference, digests)})


def _platform_images(values: Mapping[str, Any]) -> list[str]:
    """Return the names in image_refs that a stack needs."""
    needed = ["nginx", "postgres", "redis", "qdrant", "python"]
    return [*needed, *(["mariadb"] if values.get("mariadb_enabled") else [])]


def validate_references(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the references of the platform images."""
    references = values.get("image_refs", {})
    if not isinstance(references, Mapping):
        yield f"image_refs is {quoted(references)}: give a mapping of names to references."
        return
    yield from unknown_keys("image_refs", references, IMAGE_REFS)
    images = image_references(values)
    for name in _platform_images(values):
        if not images[name] or not IMAGE.matches(images[name]):
            yield f"image_refs.{name} is {quoted(images[name])}: {IMAGE.remedy}"


def validate_pinning(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with image_digests, and what image_pinning misses in it."""
    yield from find_digest_problems(values.get("image_digests", {}))
    if values.get("image_pinning") != "strict":
        return
    digests = as_mapping(values.get("image_digests"))
    for name, reference in registry_references(values, ("registry",)).items():
        if not PINNED.search(f"{reference.partition('@')[0]}@{digest_of(reference, digests)}"):
            yield (
                f"{name} is {quoted(reference)}, which has no digest, and image_pinning is"
                " 'strict': let playbooks/digests.yml write it into image_digests, add"
                " @sha256:… yourself, or set image_pinning to follow."
            )


def validate_logins(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with registry_logins; names only, for a misplaced value may be secret."""
    logins = values.get("registry_logins") or []
    if isinstance(logins, (str, Mapping)) or not isinstance(logins, Sequence):
        yield f"registry_logins is no list: give a list of mappings with {', '.join(LOGIN)}."
        return
    for index, login in enumerate(logins):
        where = f"registry_logins[{index}]"
        if isinstance(login, Mapping):
            yield from _login_problems(where, login)
        else:
            yield f"{where} is no mapping: give one with {', '.join(LOGIN)}."
    names = Counter(str(login.get("registry")) for login in logins if isinstance(login, Mapping))
    for name, count in names.items():
        if count > 1:
            yield (
                f"registry_logins: {quoted(name)} is listed {count} times: Docker keeps one"
                " login per registry; remove the others."
            )


def _login_problems(where: str, login: Mapping[str, Any]) -> Iterator[str]:
    if any(key not in LOGIN for key in login):
        yield f"{where} has a key that nothing reads: give {', '.join(LOGIN)}, and no other."
    registry = login.get("registry")
    if not isinstance(registry, str) or not REGISTRY.match(registry):
        fault = "holds a login" if "@" in str(registry) else f"is {quoted(registry)}"
        yield (
            f"{where}.registry {fault}: give a host name such as"
            " registry.example.com or registry.example.com:5000, without https:// and path."
        )
    for key in ("username", "password"):
        value = login.get(key)
        if value is None or value == "":
            yield f"{where}.{key} is empty: give {LOGIN[key]}."
        elif not isinstance(value, str):
            yield f"{where}.{key} is no text: quote it (YAML reads 0123 as 83)."
        elif not value.isprintable():
            yield f"{where}.{key} holds a control character: use printable characters only."
