"""Backup sets of a stack on its server: made, checked, put back, expired, copied elsewhere."""

from __future__ import annotations

import contextlib
import gzip
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

from ..files import make_folder
from ..process import capture_bytes
from ..text import quote_output
from . import backends as data
from .archive import LINK_TO_LINK, Expected, copy_safely
from .cipher import measured, opened, written
from .manifest import (
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
    misplaced,
    newer_than_code,
    newest,
    parse_manifest,
    set_id,
    to_expire,
)
from .restore_mark import BEGUN, RESTORED, Mark, parts_told, read_mark, refusal
from .signature import (
    OTHER_KEY,
    SIGNATURE,
    UNSIGNED,
    judge,
    key_name,
    key_named,
    key_of,
    signed,
)

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
    "mariadb": data.restore_mariadb,
    "qdrant": data.restore_qdrant,
}
# What PostgreSQL knows the session of a restore by: one that outlived its module is ended by it.
SESSION = "crisper-restore"
# Larger manifests than any set has are not read into memory.
LARGEST_MANIFEST = 64 * 2**20
# Bytes of the messages of a tool that copies.
MOST_SAID = 16 << 20
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
    # File with the key that signs the sets; empty for secrets.json of the stack.
    key_file: str = ""

    @property
    def docker(self) -> data.Docker:
        """The Docker client."""
        return data.Docker(self.docker_cli, self.timeout)

    @property
    def folder(self) -> Path:
        """Where the sets are."""
        return self.root / "backups"


Note = Callable[[str], None]


class UntouchedError(BackupError):
    """A restore failed, and every part of the data is as it was before."""


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Errors of the system and of damaged contents are told as such."""
    try:
        yield
    except (
        *(OSError, EOFError, ValueError, LookupError, zlib.error),
        *(TypeError, AttributeError),  # what is read from a set is not of the kind it should be
    ) as error:
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
            content = json.dumps(manifest, indent=2, sort_keys=True).encode() + b"\n"
            with written(draft / MANIFEST, "", "") as target:
                target.write(content)
            with written(draft / SIGNATURE, "", "") as target:
                target.write(signed(content, key))
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
        said = quote_output((err or out).decode(errors="replace").strip()[-1000:])
        raise BackupError(f"{failed}: {said}")
    return command


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
    with told(f"The set {name} cannot be read"):
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
    with told(f"The set {folder.name} cannot be read"):
        manifest = parse_manifest(content.decode(), str(folder / MANIFEST))
        if problem := misplaced(manifest, folder.name):
            raise BackupError(f"{problem} Nothing was touched.")
        strange = foreign(settings, folder, content, manifest)
        if strange and not accept_foreign:
            raise BackupError(
                f"{strange}. Nothing was touched. If you know where the set comes from and trust"
                " it, -e foreign=true takes it: its database dump is run as it is."
            )
        tool = manifest["encryption"]
        release = f"{RELEASE}{SUFFIXES[tool]}"
        problems = damage(manifest, {name: _measured(folder / name) for name in manifest["files"]})
        if release not in manifest["files"]:
            problems.append(f"{release} is not listed")
        if not problems:
            with opened(folder / release, tool, identity) as stream:
                json.load(stream)
            problems += _archive_problems(folder, manifest, identity)
    if problems:
        raise BackupError(
            f"The set {folder.name} is damaged or was altered: {'; '.join(problems)}. Nothing was"
            " touched. Copy it anew, or choose another with -e backup=<set>."
        )
    return {**manifest, "path": str(folder), "foreign": strange}


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


def fits(settings: Settings, manifest: dict[str, Any]) -> None:
    """Whether the set can be put back into the stack that runs.

    Raises:
        BackupError: with every reason why not. Nothing was touched.
    """
    running = services(settings)
    docker = settings.docker
    versions = {name: docker.version(name, container) for name, container in running.items()}
    problems = misfits(manifest, versions)
    if "postgres" in running and data.has_postgres_database(docker, running["postgres"]):
        head = data.postgres_state(docker, running["postgres"])["migration_head"]
        release = current_release(settings.root)["id"]
        problems += newer_than_code(manifest, release, head)
    if problems:
        raise BackupError(
            f"The set {manifest['set']} does not fit {settings.project}: {'; '.join(problems)}."
            " Nothing was touched."
        )


def missing_database(settings: Settings) -> str:
    """Return that a restore makes the application's database; empty where it is there.

    Raises:
        BackupError: PostgreSQL does not answer.
    """
    container = services(settings).get("postgres")
    if not container or data.has_postgres_database(settings.docker, container):
        return ""
    return (
        f"PostgreSQL of {settings.project} does not have the application's database: somebody with"
        " the application's rights may have dropped it. The restore makes it, empty, before it"
        " reads the set."
    )


def label(settings: Settings) -> str:
    """Return the label of the containers that a restore makes."""
    return f"crisper.restore={settings.project}"


def clean_up(settings: Settings, note: Note) -> list[str]:
    """Put in order what a restore that was killed has left; return what was done, a sentence each.

    Its containers go, and data services that it had stopped run again. Its folders in the volumes
    are removed by the restore that begins anew.
    """
    mark, docker = read_mark(settings.root), settings.docker
    if not mark:
        return []
    done = [f"An earlier restore of {mark['set'] or 'a set'} was cut off: {parts_told(mark)}."]
    left = docker.run(*("ps", "--all", "--quiet", "--filter", f"label={label(settings)}")).split()
    if left:
        docker.run("rm", "--force", "--volumes", *left)
        done.append(f"{len(left)} container(s) of it are removed.")
    for service in current_release(settings.root).get("model", {}).get("data_services", []):
        if service not in FILES or docker.container(settings.project, service):
            continue
        compose = "label=com.docker.compose"
        stopped = docker.run(
            *("ps", "--all", "--quiet", "--filter", f"{compose}.oneoff=False"),
            *("--filter", f"{compose}.project={settings.project}"),
            *("--filter", f"{compose}.service={service}"),
        ).split()
        if stopped:
            note(f"start {service}")
            docker.run("start", stopped[0])
            done.append(f"{service}, which it had stopped, runs again.")
    return done


def restore(
    settings: Settings, manifest: dict[str, Any], identity: str, note: Note
) -> dict[str, Any]:
    """Put a set that was checked back into the running data services.

    Returns:
        ``{left_out: {what: number}, database_made}``: of the uploaded files, and whether the
        application's database was missing.

    Raises:
        UntouchedError: nothing was restored.
        BackupError: something was not restored, or is not what the manifest says. The mark stays.
    """
    running = services(settings)
    made = False
    if "postgres" in manifest["parts"] and missing_database(settings):
        note("make the database")
        try:
            data.make_postgres_database(settings.docker, running["postgres"])
        except BackupError as error:
            raise UntouchedError(str(error)) from error
        made = True
    parts = [service for service in RESTORE_ORDER if service in manifest["parts"]]
    # What a restore that was cut off had begun to replace is not as before.
    earlier = read_mark(settings.root)
    mark = Mark(settings.root, manifest["set"], str(manifest.get("made_at", "")), parts, earlier)
    first = parts[0] if parts and not earlier else ""
    restored: dict[str, Any] = {"left_out": {}, "database_made": made}
    schema = _schema(settings, running) if first == "postgres" else ""
    try:
        for service in parts:
            note(f"restore {service}")
            try:
                with told(f"{service} was not restored"):
                    mark.write(service, BEGUN)
            except BackupError as error:  # a full disk
                if service == first:
                    raise UntouchedError(str(error)) from error
                raise
            try:
                with told(f"{service} was not restored"):
                    restored |= _restore(settings, running, manifest, identity, service)
            except BackupError as error:
                if service == first == "postgres" and _same_schema(settings, running, schema):
                    mark.remove()
                    raise UntouchedError(str(error)) from error
                raise
            with told(f"That {service} is restored cannot be written down"):
                mark.write(service, RESTORED)
        problems = [
            f"{service}: {text}"
            for service, state in STATE.items()
            if service in parts
            for text in differences(
                without(manifest["parts"][service], restored["left_out"]),
                state(settings.docker, running[service]),
            )
        ]
        if problems:
            raise BackupError(f"What was restored is not what the set says: {'; '.join(problems)}.")
    except UntouchedError:
        raise
    except BackupError as error:
        raise BackupError(f"{error} The data now: {parts_told(mark.content)}.") from error
    with told(f"That the restore has ended cannot be written down, remove {mark.path}"):
        mark.remove()
    return restored


def without(part: dict[str, Any], left_out: dict[str, int]) -> dict[str, Any]:
    """Return what a manifest tells of a part, less the files that a restore leaves out."""
    if "uploads" not in part:
        return part
    files = part["uploads"]["files"] - left_out.get(LINK_TO_LINK, 0)
    return {**part, "uploads": {**part["uploads"], "files": files}}


def _schema(settings: Settings, running: dict[str, str]) -> str:
    """Return what names database and schema, which a restore makes anew; empty when unknown."""
    statement = (
        "SELECT d.oid, n.oid FROM pg_database d, pg_namespace n"
        " WHERE d.datname = current_database() AND n.nspname = 'public'"
    )
    with (
        contextlib.suppress(BackupError),
        data.postgres_session(settings.docker, running["postgres"]) as session,
    ):
        return "".join(session.ask(statement))
    return ""


def _same_schema(settings: Settings, running: dict[str, str], before: str) -> bool:
    """Return whether the database was not replaced; one that may still be is waited for."""
    try:
        if not data.end_postgres_sessions(settings.docker, running["postgres"], [SESSION]):
            return False
    except BackupError:
        return False
    return bool(before) and _schema(settings, running) == before


def _restore(
    settings: Settings,
    running: dict[str, str],
    manifest: dict[str, Any],
    identity: str,
    service: str,
) -> dict[str, Any]:
    """Restore one part; return what is to be told of it."""
    docker, part = settings.docker, manifest["parts"][service]
    path = Path(manifest["path"]) / part["file"]
    with opened(path, manifest["encryption"], identity) as source:
        if service == "redis":
            _restore_redis(docker, running["redis"], source, label(settings))
        elif service == "uploads":
            expected, container = Expected.of(part), running["uploads"]
            left = data.restore_uploads(docker, container, source, expected, label(settings))
            return {"left_out": left}
        elif service == "postgres":
            asked = (SESSION, extensions(part), str(part.get("version", "")))
            data.restore_postgres(docker, running[service], source, *asked)
        else:
            RESTORE[service](docker, running[service], source)
    return {}


def extensions(part: dict[str, Any]) -> list[str] | None:
    """Return the extensions that a set lists; None of one that an older edition made."""
    listed = part.get("extensions")
    return [str(name) for name in listed if name != "*"] if isinstance(listed, list) else None


def _restore_redis(docker: data.Docker, container: str, source: Any, mine: str) -> None:
    """Stop Redis, give it the snapshot, start it and wait until it has read it."""
    seen = docker.inspect(container)
    volume = next(m["Name"] for m in seen["Mounts"] if m["Destination"] == "/data")
    docker.run("stop", container)
    try:
        data.restore_redis(docker, seen["Image"], volume, source, mine)
    finally:
        docker.run("start", container)
    data.redis_keys(docker, container)
