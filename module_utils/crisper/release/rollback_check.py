"""Judge whether a kept release can be put back: folder, checksums, images and the database."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..database.versions import DATABASES, find_misfits
from ..images.identity import config_digest, identity
from ..output import first_line
from .store import ReleaseError, ReleaseStore

UPGRADE = "upgrade.json"  # as database.upgrade_record has it
Docker = Callable[..., tuple[int, str, str]]


def check_rollback(
    store: ReleaseStore, stack: str, wanted: str, restore_database: bool, docker: Docker
) -> tuple[dict[str, Any], str]:
    """Return a release that can be put back, with C(named), else why it cannot.

    Args:
        store: the releases of the stack.
        stack: its name.
        wanted: id of the release; empty takes the newest proved one before the current.
        restore_database: whether the database is put back too.
        docker: runs a Docker command; exit code, output and errors.
    """
    try:
        release = store.find(wanted)
    except ReleaseError as error:
        return {}, str(error)
    names = image_names(stack, release)
    ids = [image["id"] for image in release["images"].values()]
    known = known_images(docker, [*ids, *(reference for reference, _ in names)])
    problems = [
        *unproved(store.manifests[release["id"]]),
        *damaged(Path(release["path"]), store.manifests[release["id"]].get("checksums", {})),
        *missing_images(release["images"], known),
        *database_problems(release["irreversible"], restore_database),
        # An upgrade that was cut off has kept the old data, which is put back first.
        *([] if (store.root / UPGRADE).exists() else misfits(docker, stack, release["images"])),
    ]
    if problems:
        return {}, (
            f"Release {release['id']} cannot be put back: {'; '.join(problems)}."
            f" Kept: {store.names()}. Choose another with -e release=<id>."
        )
    named = all(
        reference in known and {image["id"], identity(image)} & set(known[reference])
        for reference, image in names
    )
    return {**release, "named": named}, ""


def missing_images(
    images: Mapping[str, Mapping[str, Any]], known: Mapping[str, tuple[str, str]]
) -> list[str]:
    """Return which images are not on this server any more; `known` is of `known_images`."""
    here = {digest for image in known.values() for digest in image}
    return [
        f"the image of {name} ({image['id'][:19]}) is gone"
        for name, image in images.items()
        if not here & {image["id"], identity(image)}
    ]


def unproved(manifest: Mapping[str, Any]) -> list[str]:
    """Return why a release that was never proved is not put back."""
    if manifest.get("verified"):
        return []
    failed = first_line(str(manifest.get("failed") or "")).rstrip(".")
    return [f"it was never verified{': ' + failed if failed else ''}"]


def misfits(docker: Docker, stack: str, images: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return which databases of the release cannot open the data that is there."""
    found = find_misfits(docker, stack, {n: dict(images[n]) for n in DATABASES if n in images})
    return [
        f"{each.message}; restore a backup set of that version (docs/UPGRADE.md, docs/BACKUP.md)"
        for each in found
    ]


def damaged(folder: Path, sums: Mapping[str, str]) -> list[str]:
    """Return files that are missing or differ from their SHA-256."""
    found = []
    for name, expected in sums.items():
        try:
            actual = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError:
            found.append(f"{name} is missing")
            continue
        if actual != expected:
            found.append(f"{name} was altered")
    return found


def database_problems(blocking: list[dict[str, Any]], restore_database: bool) -> list[str]:
    """Return the database's reasons against it; `blocking` is of `irreversible_after`."""
    if not blocking:
        return []
    first = blocking[0]
    unknown = first.get("unknown", False)
    if not restore_database:
        what = (
            f"a migration of release {first['id']} was cut off since, and what it did to the"
            " database is unknown. Deploy instead of going back"
            if unknown
            else f"the database has an irreversible migration since (release {first['id']})"
        )
        return [
            f"{what}{'; or' if unknown else '.'} -e restore_database=true puts back the backup"
            f" taken before it, {first['backup'] or 'which is missing'}, and loses what was written"
            " since"
        ]
    if not Path(first["backup"]).is_file():
        which = "migration that was cut off, of" if unknown else "irreversible migration of"
        return [
            f"the backup before the {which} release {first['id']}"
            f" is gone ({first['backup'] or 'none was taken'})"
        ]
    return dump_problems(Path(first["backup"]), first.get("dump") or {})


def dump_problems(path: Path, record: Mapping[str, Any]) -> list[str]:
    """Return whether a dump is not the file that was written before a migration.

    Only root reads and writes it, and it never leaves the server: its checksum, in a file of root's
    too, tells of a damaged disk. Dumps whose checksum an older edition has lost are taken as they
    are.
    """
    if not record.get("sha256"):
        return []
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            for piece in iter(lambda: stream.read(1 << 20), b""):
                digest.update(piece)
    except OSError as error:
        return [f"the backup {path} cannot be read: {error.strerror}"]
    if digest.hexdigest() == record["sha256"]:
        return []
    return [f"the backup {path} is not the one that was made: its SHA-256 differs"]


def image_names(stack: str, release: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the name of every image, as the compose file of the release has it, and the image."""
    found = []
    for name, image in release["images"].items():
        own = f"{stack}/{name}:{release['id']}"
        reference = own if name in ("backend", "frontend") else image["ref"]
        found.append((reference, image))
    return found


def known_images(docker: Docker, references: list[str]) -> dict[str, tuple[str, str]]:
    """Return id and digest of the configuration of images that are here, by their reference."""
    form = "{{.Id}}{{range .RepoTags}} {{.}}{{end}}{{range .RepoDigests}} {{.}}{{end}}"
    _, out, _ = docker("image", "inspect", "--format", form, *references)
    found: dict[str, tuple[str, str]] = {}
    for line in out.splitlines():
        identifier, *names = line.split()
        digests = [name for name in names if "@" in name]
        image = (identifier, config_digest(identifier, digests) or identifier)
        found.update(dict.fromkeys((identifier, *names), image))
    # The engine tells tags without what Docker takes for granted.
    short = {name: name.removeprefix("docker.io/").removeprefix("library/") for name in references}
    return {name: found[short[name]] for name in references if short[name] in found}
