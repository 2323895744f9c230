"""Backup sets of a stack on its server: made, checked, put back, expired, copied elsewhere."""

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

from . import crisper_backup_data as data
from .crisper_backup import (
    FILES,
    FORMAT,
    MANIFEST,
    RELEASE,
    SET_ID,
    SUFFIXES,
    BackupError,
    damage,
    differences,
    misfits,
    newer_than_code,
    newest,
    parse_manifest,
    set_id,
    to_expire,
)
from .crisper_backup_cipher import measured, opened, written
from .crisper_files import make_folder
from .crisper_text import printable_lines

SUMS = "SHA256SUMS"
DUMP = {
    "redis": data.dump_redis,
    "postgres": data.dump_postgres,
    "mariadb": data.dump_mariadb,
    "qdrant": data.dump_qdrant,
    "uploads": data.dump_uploads,
}
STATE = {
    "postgres": data.postgres_state,
    "mariadb": data.mariadb_state,
    "qdrant": data.qdrant_state,
    "uploads": data.uploads_state,
}
RESTORE = {
    "postgres": data.restore_postgres,
    "mariadb": data.restore_mariadb,
    "qdrant": data.restore_qdrant,
    "uploads": data.restore_uploads,
}
# Redis last: tasks wait in it for data that is there by then.
RESTORE_ORDER = ("postgres", "mariadb", "qdrant", "uploads", "redis")


@dataclass(frozen=True)
class Settings:
    """Whose backups, and how they are made."""

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

    @property
    def docker(self) -> data.Docker:
        """The Docker client."""
        return data.Docker(self.docker_cli, self.timeout)

    @property
    def folder(self) -> Path:
        """Where the sets are."""
        return self.root / "backups"


Note = Callable[[str], None]


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Errors of the system and of damaged contents are told as such."""
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
        raise BackupError(f"{what}: {type(error).__name__}: {error}") from error


def current_release(root: Path) -> dict[str, Any]:
    """Manifest of the release that serves; empty when there is none."""
    try:
        return json.loads((root / "current" / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}


def services(settings: Settings) -> dict[str, str]:
    """Data service -> id of its running container; `uploads` are reached by PostgreSQL's image.

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
    """Ids of the sets that are there, oldest first."""
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
    running = services(settings)
    moment = datetime.now(timezone.utc)
    name = set_id(moment)
    draft, final = settings.folder / f".draft-{name}", settings.folder / name
    make_folder(settings.folder, 0o700)
    _forget_drafts(settings)
    release = current_release(settings.root)
    suffix = SUFFIXES[settings.encryption]
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "set": name,
        "stack": settings.project,
        "host": settings.host,
        "made_at": moment.isoformat(timespec="seconds"),
        "made_by": settings.who,
        "release": release["id"],
        "encryption": settings.encryption,
        "parts": {},
        "files": {},
    }
    with told(f"The set {name} could not be written"):
        draft.mkdir(mode=0o700)
        try:
            for service, file in FILES.items():
                if service not in running:
                    continue
                note(f"back up {service}")
                file += suffix
                began = datetime.now(timezone.utc).isoformat(timespec="seconds")
                with written(draft / file, settings.encryption, settings.recipient) as target:
                    facts = DUMP[service](settings.docker, running[service], target)
                version = settings.docker.version(service, running[service])
                manifest["parts"][service] = {
                    **{"file": file, "version": version, "taken_at": began},
                    **facts,
                }
            with written(
                draft / f"{RELEASE}{suffix}", settings.encryption, settings.recipient
            ) as target:
                target.write(json.dumps(release, indent=2, sort_keys=True).encode() + b"\n")
            for path in sorted(draft.iterdir()):
                size, digest = measured(path) or (0, "")
                manifest["files"][path.name] = {"bytes": size, "sha256": digest}
            with written(draft / MANIFEST, "", "") as target:
                target.write(json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n")
            with written(draft / SUMS, "", "") as target:
                for path in sorted(draft.iterdir()):
                    if path.name != SUMS:
                        target.write(f"{measured(path)[1]}  {path.name}\n".encode())  # type: ignore[index]
            _sync(draft)
            draft.rename(final)
            _sync(settings.folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return {**manifest, "path": str(final)}


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
    gone = to_expire(names(settings), settings.keep, settings.keep_days, datetime.now(timezone.utc))
    with told("Old sets could not be removed"):
        for name in gone:
            shutil.rmtree(settings.folder / name)
    return gone


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
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=settings.timeout
        )
    except FileNotFoundError as error:
        tool = settings.remote_tool
        raise BackupError(f"{failed}: {tool} is not installed: apt-get install {tool}") from error
    except subprocess.TimeoutExpired as error:
        raise BackupError(f"{failed} within {settings.timeout} s.") from error
    if done.returncode != 0:
        raise BackupError(
            f"{failed}: {printable_lines((done.stderr or done.stdout).strip()[-1000:])}"
        )
    return command


def read(settings: Settings, wanted: str) -> tuple[Path, dict[str, Any]]:
    """Folder and manifest of a set; the newest one without a name."""
    there = names(settings)
    name = wanted or newest(there)
    if name not in there:
        listed = ", ".join(reversed(there)) or "none"
        raise BackupError(
            f"There is no backup set {wanted or 'at all'} in {settings.folder}. There: {listed}."
            " Choose one with -e backup=<set>, or make one: ansible-playbook playbooks/backup.yml"
        )
    folder = settings.folder / name
    with told(f"The set {name} cannot be read"):
        manifest = parse_manifest((folder / MANIFEST).read_text(), str(folder / MANIFEST))
    return folder, {**manifest, "path": str(folder)}


def check(settings: Settings, wanted: str, identity: str = "") -> dict[str, Any]:
    """The manifest of a set that is whole and can be decrypted.

    Args:
        identity: file with the private key, for an encrypted set.

    Raises:
        BackupError: with everything that is wrong. Nothing was touched.
    """
    folder, manifest = read(settings, wanted)
    with told(f"The set {folder.name} cannot be read"):
        problems = damage(manifest, {name: measured(folder / name) for name in manifest["files"]})
        if not problems:
            tool = manifest["encryption"]
            with opened(folder / f"{RELEASE}{SUFFIXES[tool]}", tool, identity) as stream:
                json.load(stream)
    if problems:
        raise BackupError(
            f"The set {folder.name} is damaged: {'; '.join(problems)}. Nothing was touched."
            " Copy it anew, or choose another with -e backup=<set>."
        )
    return manifest


def fits(settings: Settings, manifest: dict[str, Any]) -> None:
    """Whether the set can be put back into the stack that runs.

    Raises:
        BackupError: with every reason why not. Nothing was touched.
    """
    running = services(settings)
    docker = settings.docker
    versions = {name: docker.version(name, container) for name, container in running.items()}
    problems = misfits(manifest, versions)
    if "postgres" in running:
        head = data.postgres_state(docker, running["postgres"])["migration_head"]
        release = current_release(settings.root)["id"]
        problems += newer_than_code(manifest, release, head)
    if problems:
        raise BackupError(
            f"The set {manifest['set']} does not fit {settings.project}: {'; '.join(problems)}."
            " Nothing was touched."
        )


def restore(settings: Settings, manifest: dict[str, Any], identity: str, note: Note) -> None:
    """Put a set that was checked back into the running data services.

    Raises:
        BackupError: something was not restored, or is not what the manifest says.
    """
    running = services(settings)
    docker, folder, tool = settings.docker, Path(manifest["path"]), manifest["encryption"]
    for service in RESTORE_ORDER:
        if service not in manifest["parts"]:
            continue
        note(f"restore {service}")
        with (
            told(f"{service} was not restored"),
            opened(folder / manifest["parts"][service]["file"], tool, identity) as source,
        ):
            if service == "redis":
                _restore_redis(docker, running["redis"], source)
            else:
                RESTORE[service](docker, running[service], source)
    problems = [
        f"{service}: {text}"
        for service, state in STATE.items()
        if service in manifest["parts"]
        for text in differences(manifest["parts"][service], state(docker, running[service]))
    ]
    if problems:
        raise BackupError(f"What was restored is not what the set says: {'; '.join(problems)}.")


def _restore_redis(docker: data.Docker, container: str, source: Any) -> None:
    """Stop Redis, give it the snapshot, start it and wait until it has read it."""
    seen = docker.inspect(container)
    volume = next(m["Name"] for m in seen["Mounts"] if m["Destination"] == "/data")
    docker.run("stop", container)
    try:
        data.restore_redis(docker, seen["Image"], volume, source)
    finally:
        docker.run("start", container)
    data.redis_keys(docker, container)
