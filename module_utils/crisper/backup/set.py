"""Backup sets of a stack on its server: made, listed, expired, copied elsewhere."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..docker.exec import Docker
from ..files import make_folder
from ..process import capture_bytes
from ..text import quote_output
from .backends import mariadb, postgres, qdrant, redis, uploads
from .backends.versions import service_version
from .cipher import measured, written
from .manifest import (
    FILES,
    FORMAT,
    MANIFEST,
    RELEASE,
    SET_ID,
    SUFFIXES,
    BackupError,
    set_id,
    to_expire,
)
from .restore_mark import read_mark, refusal
from .signature import SIGNATURE, key_of, signed

SUMS = "SHA256SUMS"
DUMP = {
    "redis": redis.dump_redis,
    "postgres": postgres.dump_postgres,
    "mariadb": mariadb.dump_mariadb,
    "qdrant": qdrant.dump_qdrant,
    "uploads": uploads.dump_uploads,
}
# Bytes of the messages of a tool that copies.
MOST_SAID = 16 << 20


@dataclass(frozen=True)
class Settings:
    """The stack whose backups are made, and how."""

    root: Path
    project: str
    who: str = ""
    host: str = ""
    keep: int = 7
    keep_days: float = 0
    encryption: str = ""
    recipient: str = ""
    remote_tool: str = ""
    remote_target: str = ""
    remote_options: list[str] = field(default_factory=list)
    timeout: int = 3600
    docker_cli: str = "docker"
    # File with the key that signs the sets; empty for secrets.json of the stack.
    key_file: str = ""

    @property
    def docker(self) -> Docker:
        """The Docker client."""
        return Docker(self.docker_cli, self.timeout)

    @property
    def folder(self) -> Path:
        """The folder of the sets."""
        return self.root / "backups"


Note = Callable[[str], None]


@contextlib.contextmanager
def explain_errors(what: str) -> Iterator[None]:
    """Raise BackupError at errors of the system and of damaged contents."""
    try:
        yield
    except (
        *(OSError, EOFError, ValueError, LookupError, zlib.error),
        *(TypeError, AttributeError),  # what is read from a set is not of the kind it should be
    ) as error:
        raise BackupError(f"{what}: {type(error).__name__}: {error}") from error


def current_release(root: Path) -> dict[str, Any]:
    """Return the manifest of the release that serves; empty when there is none."""
    try:
        release: dict[str, Any] = json.loads((root / "current" / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return release


def services(settings: Settings) -> dict[str, str]:
    """Return data service -> id of its running container.

    `uploads` are reached by PostgreSQL's image.

    Raises:
        BackupError: one that the release has does not run.
    """
    release = current_release(settings.root)
    if not release:
        raise BackupError(
            f"No release serves in {settings.root}: deploy first (ansible-playbook deploy.yml)."
        )
    wanted = release.get("model", {}).get("data_services", [])
    found = {name: settings.docker.container(settings.project, name) for name in wanted}
    away = [name for name, container in found.items() if not container]
    if away:
        raise BackupError(
            f"{', '.join(away)} of {settings.project} does not run: start it"
            f" (cd {settings.root}/current && docker compose up -d) and run again."
        )
    if release.get("model", {}).get("uploads"):
        found["uploads"] = found["postgres"]
    return {name: container for name, container in found.items() if name in FILES}


def names(settings: Settings) -> list[str]:
    """Return the ids of the sets that are there, oldest first."""
    if not settings.folder.is_dir():
        return []
    return sorted(p.name for p in settings.folder.iterdir() if SET_ID.match(p.name) and p.is_dir())


def make(settings: Settings, note: Note) -> dict[str, Any]:
    """Make a set, whole or not at all, while the stack serves.

    Args:
        note: called with every step before it is taken.

    Returns:
        Its manifest, with ``path``.
    """
    if problem := refusal(settings.root, read_mark(settings.root)):
        raise BackupError(f"No set was made. {problem}")
    running = services(settings)
    key = signing_key(settings)
    moment = datetime.now(timezone.utc)
    name = set_id(moment)
    draft, final = settings.folder / f".draft-{name}", settings.folder / name
    make_folder(settings.folder, 0o700)
    _forget_drafts(settings)
    release = current_release(settings.root)
    manifest = _empty_manifest(settings, moment, release["id"])
    with explain_errors(f"The set {name} could not be written"):
        draft.mkdir(mode=0o700)
        try:
            manifest["parts"] = _write_parts(settings, running, draft, note)
            _write_release(settings, release, draft)
            _seal(draft, manifest, key)
            _sync(draft)
            draft.rename(final)
            _sync(settings.folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return {**manifest, "path": str(final)}


def _empty_manifest(settings: Settings, moment: datetime, release: str) -> dict[str, Any]:
    """Return the manifest of a set that is begun, without its parts and files."""
    return {
        "format": FORMAT,
        "set": set_id(moment),
        "stack": settings.project,
        "host": settings.host,
        "made_at": moment.isoformat(timespec="seconds"),
        "made_by": settings.who,
        "release": release,
        "encryption": settings.encryption,
        "parts": {},
        "files": {},
    }


def _write_parts(
    settings: Settings, running: dict[str, str], draft: Path, note: Note
) -> dict[str, Any]:
    """Write the data of each service into a draft; return the parts of the manifest."""
    parts = {}
    for service, name in FILES.items():
        if service not in running:
            continue
        note(f"back up {service}")
        file = name + SUFFIXES[settings.encryption]
        began = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with written(draft / file, settings.encryption, settings.recipient) as target:
            facts = DUMP[service](settings.docker, running[service], target)
        version = service_version(settings.docker, service, running[service])
        parts[service] = {**{"file": file, "version": version, "taken_at": began}, **facts}
    return parts


def _write_release(settings: Settings, release: dict[str, Any], draft: Path) -> None:
    """Write the manifest of the release that serves into a draft."""
    path = draft / f"{RELEASE}{SUFFIXES[settings.encryption]}"
    with written(path, settings.encryption, settings.recipient) as target:
        target.write(json.dumps(release, indent=2, sort_keys=True).encode() + b"\n")


def _seal(draft: Path, manifest: dict[str, Any], key: str) -> None:
    """List the files of a draft in its manifest; write that, its signature and all checksums."""
    for path in sorted(draft.iterdir()):
        size, digest = measured(path) or (0, "")
        manifest["files"][path.name] = {"bytes": size, "sha256": digest}
    content = json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n"
    with written(draft / MANIFEST, "", "") as target:
        target.write(content)
    with written(draft / SIGNATURE, "", "") as target:
        target.write(signed(content, key))
    with written(draft / SUMS, "", "") as target:
        for path in sorted(draft.iterdir()):
            if path.name != SUMS:
                target.write(f"{measured(path)[1]}  {path.name}\n".encode())  # type: ignore[index]


def signing_key(settings: Settings) -> str:
    """Return the key that signs the sets of this stack.

    Raises:
        BackupError: there is none.
    """
    path = Path(settings.key_file or settings.root / "secrets.json")
    try:
        return key_of(path.read_text(), str(path))
    except (OSError, ValueError) as error:
        raise BackupError(
            f"The key that signs backup sets cannot be read ({path}: {type(error).__name__})."
            " playbooks/backup.yml makes it, and gives it to the timer."
        ) from error


def _forget_drafts(settings: Settings) -> None:
    # Who has the lock makes sets; what an earlier one left unfinished is nobody's.
    for path in settings.folder.glob(".draft-*"):
        shutil.rmtree(path, ignore_errors=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def expire(settings: Settings) -> list[str]:
    """Remove the sets that retention does not keep; their ids."""
    expired = to_expire(
        names(settings), settings.keep, settings.keep_days, datetime.now(timezone.utc)
    )
    with explain_errors("Old sets could not be removed"):
        for name in expired:
            shutil.rmtree(settings.folder / name)
    return expired


def copy_away(settings: Settings, name: str) -> list[str]:
    """Copy a set to the remote; the command that did.

    Raises:
        BackupError: the tool is missing or failed; the set on the server is whole all the same.
    """
    if not settings.remote_tool:
        return []
    source, target = settings.folder / name, settings.remote_target.rstrip("/")
    command = {
        "rsync": ["rsync", "--archive", *settings.remote_options, str(source), f"{target}/"],
        "rclone": ["rclone", "copy", *settings.remote_options, str(source), f"{target}/{name}"],
    }[settings.remote_tool]
    failed = f"The set {name} was made, but not copied to {settings.remote_target}"
    try:
        # What the remote says is not this server's.
        code, out, err, cut = capture_bytes(command, b"", settings.timeout, most=MOST_SAID)
    except FileNotFoundError as error:
        tool = settings.remote_tool
        raise BackupError(f"{failed}: {tool} is not installed: apt-get install {tool}") from error
    except subprocess.TimeoutExpired as error:
        raise BackupError(f"{failed} within {settings.timeout} s.") from error
    if cut:
        raise BackupError(f"{failed}: it printed more than {MOST_SAID >> 20} MiB, and was ended")
    if code != 0:
        output = quote_output((err or out).decode(errors="replace").strip()[-1000:])
        raise BackupError(f"{failed}: {output}")
    return command
