"""Check whether a backup set is this stack's, is whole, and can be put back."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

from .archive import Expected, copy_safely
from .backends import postgres
from .backends.versions import service_version
from .cipher import measured, opened
from .manifest import (
    MANIFEST,
    RELEASE,
    SUFFIXES,
    BackupError,
    damage,
    misfits,
    misplaced,
    newer_than_code,
    newest,
    parse_manifest,
)
from .set import Settings, current_release, explain_errors, names, services, signing_key
from .signature import OTHER_KEY, SIGNATURE, UNSIGNED, judge, key_name, key_named

# Larger manifests than any set has are not read into memory.
LARGEST_MANIFEST = 64 * 2**20


def read(settings: Settings, wanted: str) -> tuple[Path, bytes]:
    """Return folder and bytes of the manifest of a set; of the newest one without a name."""
    there = names(settings)
    name = wanted or newest(there)
    if name not in there:
        listed = ", ".join(reversed(there)) or "none"
        raise BackupError(
            f"There is no backup set {wanted or 'at all'} in {settings.folder}. There: {listed}."
            " Choose one with -e backup=<set>, or make one: ansible-playbook playbooks/backup.yml"
        )
    folder = settings.folder / name
    with explain_errors(f"The set {name} cannot be read"):
        return folder, _content(folder / MANIFEST, LARGEST_MANIFEST)


def _content(path: Path, largest: int) -> bytes:
    """Return the bytes of a small file."""
    if not path.is_file():
        raise BackupError(f"{path} is missing, or no regular file. Nothing was touched.")
    with path.open("rb") as stream:
        found = stream.read(largest + 1)
    if len(found) > largest:
        raise BackupError(f"{path} is larger than {largest} bytes. Nothing was touched.")
    return found


def foreign(settings: Settings, folder: Path, content: bytes, manifest: dict[str, Any]) -> str:
    """Return why a set is not one of this stack; empty when it is.

    Raises:
        BackupError: it was altered since this stack signed it.
    """
    try:
        key = signing_key(settings)
    except BackupError:
        key = ""  # a stack that has never made a set
    path = folder / SIGNATURE
    # Whatever lies there is no reason to take the set for an unsigned one.
    signature = _content(path, 4096) if os.path.lexists(path) else None
    set_told = f"The set {folder.name} of {manifest.get('stack')}, made {manifest.get('made_at')},"
    try:
        judged = judge(content, signature, key)
    except BackupError as error:
        raise BackupError(
            f"{set_told} is refused: {error}. Nothing was touched. Copy the set anew from where you"
            " keep it, or choose another with -e backup=<set>."
        ) from error
    if judged == UNSIGNED:
        return (
            f"{set_told} has no signature ({SIGNATURE} is missing): an edition of before signatures"
            " made it, or somebody has taken the signature away"
        )
    if judged == OTHER_KEY:
        ours = f"the key of this stack is {key_name(key)}" if key else "this stack has none"
        return (
            f"{set_told} is signed with the key {key_named(signature)}, and {ours}: it was made"
            " with another key, or somebody has altered and signed it. Give the key of that time:"
            " -e signing_key=<file>, its secrets.json or a file with its backup_signing_key"
        )
    if manifest.get("stack") != settings.project:
        return f"{set_told} is not a set of {settings.project}"
    return ""


def check(
    settings: Settings, wanted: str, identity: str = "", accept_foreign: bool = False
) -> dict[str, Any]:
    """Return the manifest of a set that is this stack's, is whole and can be decrypted.

    Args:
        settings: whose sets.
        wanted: its id; empty for the newest.
        identity: file with the private key, for an encrypted set.
        accept_foreign: whether a set is taken that no signature proves to be this stack's.

    Returns:
        The manifest, with ``path``, and ``foreign``: why it is not this stack's, empty when it is.

    Raises:
        BackupError: with everything that is wrong. Nothing was touched.
    """
    folder, content = read(settings, wanted)
    with explain_errors(f"The set {folder.name} cannot be read"):
        manifest = parse_manifest(content.decode(), str(folder / MANIFEST))
        if problem := misplaced(manifest, folder.name):
            raise BackupError(f"{problem} Nothing was touched.")
        strange = foreign(settings, folder, content, manifest)
        if strange and not accept_foreign:
            raise BackupError(
                f"{strange}. Nothing was touched. If you know where the set comes from and trust"
                " it, -e foreign=true takes it: its database dump is run as it is."
            )
        problems = _content_problems(folder, manifest, identity)
    if problems:
        raise BackupError(
            f"The set {folder.name} is damaged or was altered: {'; '.join(problems)}. Nothing was"
            " touched. Copy it anew, or choose another with -e backup=<set>."
        )
    return {**manifest, "path": str(folder), "foreign": strange}


def _content_problems(folder: Path, manifest: dict[str, Any], identity: str) -> list[str]:
    """Return what is wrong with the files of a set, by its manifest.

    Raises:
        BackupError: they cannot be decrypted.
    """
    tool = manifest["encryption"]
    release = f"{RELEASE}{SUFFIXES[tool]}"
    problems = damage(manifest, {name: _measured(folder / name) for name in manifest["files"]})
    if release not in manifest["files"]:
        problems.append(f"{release} is not listed")
    if not problems:
        with opened(folder / release, tool, identity) as stream:
            json.load(stream)
        problems += _archive_problems(folder, manifest, identity)
    return problems


def _measured(path: Path) -> tuple[int, str] | None:
    """Return size and SHA-256 of a regular file; None of anything else, which is not opened."""
    return measured(path) if path.is_file() else None


def _archive_problems(folder: Path, manifest: dict[str, Any], identity: str) -> list[str]:
    """Return what the archive of uploads has that it must not: before anything is replaced."""
    part = manifest["parts"].get("uploads")
    if not part:
        return []
    try:
        with (
            opened(folder / part["file"], manifest["encryption"], identity) as source,
            gzip.GzipFile(fileobj=source) as plain,
            open(os.devnull, "wb") as nowhere,
        ):
            copy_safely(plain, nowhere, Expected.of(part))  # type: ignore[arg-type]
    except BackupError as error:
        return [f"{part['file']}: {error}"]
    return []


def check_fit(settings: Settings, manifest: dict[str, Any]) -> None:
    """Check that the set can be put back into the stack that runs.

    Raises:
        BackupError: with every reason why not. Nothing was touched.
    """
    running = services(settings)
    docker = settings.docker
    versions = {
        name: service_version(docker, name, container) for name, container in running.items()
    }
    problems = misfits(manifest, versions)
    if "postgres" in running and postgres.has_postgres_database(docker, running["postgres"]):
        head = postgres.postgres_state(docker, running["postgres"])["migration_head"]
        release = current_release(settings.root)["id"]
        problems += newer_than_code(manifest, release, head)
    if problems:
        raise BackupError(
            f"The set {manifest['set']} does not fit {settings.project}: {'; '.join(problems)}."
            " Nothing was touched."
        )
