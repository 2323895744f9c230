"""A backup set put back into the data services of a stack."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..database.roles import Roles
from ..docker.exec import Docker
from .archive import LINK_TO_LINK, Expected
from .backends import mariadb, postgres, psql, qdrant, redis, uploads
from .cipher import opened
from .manifest import FILES, BackupError, differences
from .restore_mark import BEGUN, RESTORED, Mark, parts_told, read_mark
from .set import Note, Settings, current_release, explain_errors, services

STATE = {
    "postgres": postgres.postgres_state,
    "mariadb": mariadb.mariadb_state,
    "qdrant": qdrant.qdrant_state,
    "uploads": uploads.uploads_state,
}
RESTORE = {
    "mariadb": mariadb.restore_mariadb,
    "qdrant": qdrant.restore_qdrant,
}
# What PostgreSQL knows the session of a restore by: one that outlived its module is ended by it.
SESSION = "crisper-restore"
# Redis last: tasks wait in it for data that is there by then.
RESTORE_ORDER = ("postgres", "mariadb", "qdrant", "uploads", "redis")


class UntouchedError(BackupError):
    """A restore failed, and every part of the data is as it was before."""


def missing_database(settings: Settings) -> str:
    """Return that a restore makes the application's database; empty where it is there.

    Raises:
        BackupError: PostgreSQL does not answer.
    """
    container = services(settings).get("postgres")
    if not container or postgres.has_postgres_database(settings.docker, container):
        return ""
    return (
        f"PostgreSQL of {settings.project} does not have the application's database: somebody with"
        " the application's rights may have dropped it. The restore makes it, empty, before it"
        " reads the set."
    )


def order_roles(settings: Settings) -> list[str]:
    """Put the database's roles in order, as a deploy does; return what was done, a sentence each.

    The application's role can keep itself out of its database, and it is that role that restores.

    Raises:
        BackupError: PostgreSQL does not answer, or refused.
    """
    container = services(settings).get("postgres")
    if not container or not postgres.has_postgres_database(settings.docker, container):
        return []
    folder = settings.root / "current" / "secrets"
    try:
        superuser, own = (
            (folder / name).read_text(encoding="utf-8").rstrip("\n")
            for name in ("postgres_superuser_password", "postgres_password")
        )
    except (OSError, UnicodeError):
        return []  # a release of an earlier edition
    roles = Roles(settings.docker, container, settings.project.replace("-", "_"))
    if roles.state().unmoved:
        return []  # its next deploy does it
    done: list[str] = roles.apply(superuser, own, [])["done"]
    return [f"PostgreSQL: {sentence}." for sentence in done]


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
    leftovers = docker.run(
        *("ps", "--all", "--quiet", "--filter", f"label={label(settings)}")
    ).split()
    if leftovers:
        docker.run("rm", "--force", "--volumes", *leftovers)
        done.append(f"{len(leftovers)} container(s) of it are removed.")
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
    result: dict[str, Any] = {"left_out": {}}
    result["database_made"] = _make_database(settings, running, manifest, note)
    if result["database_made"]:
        try:
            order_roles(settings)
        except BackupError as error:
            raise UntouchedError(str(error)) from error
    parts = [service for service in RESTORE_ORDER if service in manifest["parts"]]
    # What a restore that was cut off had begun to replace is not as before.
    earlier = read_mark(settings.root)
    mark = Mark(settings.root, manifest["set"], str(manifest.get("made_at", "")), parts, earlier)
    first = parts[0] if parts and not earlier else ""
    schema = _schema(settings, running) if first == "postgres" else ""
    job = _Restore(settings, running, manifest, identity, mark, first, schema)
    try:
        for service in parts:
            note(f"restore {service}")
            result |= job.put_back(service)
        job.compare(parts, result["left_out"])
    except UntouchedError:
        raise
    except BackupError as error:
        raise BackupError(f"{error} The data now: {parts_told(mark.content)}.") from error
    with explain_errors(f"That the restore has ended cannot be written down, remove {mark.path}"):
        mark.remove()
    return result


def _make_database(
    settings: Settings, running: dict[str, str], manifest: dict[str, Any], note: Note
) -> bool:
    """Make the application's database and template1 where they are missing.

    Returns:
        Whether the application's was.

    Raises:
        UntouchedError: PostgreSQL refused.
    """
    if "postgres" not in manifest["parts"]:
        return False
    missing = bool(missing_database(settings))
    if missing:
        note("make the database")
    try:
        if "postgres" in running:
            postgres.make_template_database(settings.docker, running["postgres"])
        if not missing:
            return False
        postgres.make_postgres_database(settings.docker, running["postgres"])
    except BackupError as error:
        raise UntouchedError(str(error)) from error
    return True


@dataclass(frozen=True)
class _Restore:
    """A restore under way.

    `first` is the part before which nothing was touched, empty after a restore that was cut off;
    `schema` names the database as it was before, where that part is PostgreSQL.
    """

    settings: Settings
    running: dict[str, str]
    manifest: dict[str, Any]
    identity: str
    mark: Mark
    first: str
    schema: str

    def put_back(self, service: str) -> dict[str, Any]:
        """Restore one part, and write down that it is begun and ended; return what to tell of it.

        Raises:
            UntouchedError: nothing was restored.
            BackupError: this part was not restored.
        """
        try:
            with explain_errors(f"{service} was not restored"):
                self.mark.write(service, BEGUN)
        except BackupError as error:  # a full disk
            if service == self.first:
                raise UntouchedError(str(error)) from error
            raise
        try:
            with explain_errors(f"{service} was not restored"):
                result = _restore(
                    self.settings, self.running, self.manifest, self.identity, service
                )
        except BackupError as error:
            if service == self.first == "postgres" and _same_schema(
                self.settings, self.running, self.schema
            ):
                self.mark.remove()
                raise UntouchedError(str(error)) from error
            raise
        with explain_errors(f"That {service} is restored cannot be written down"):
            self.mark.write(service, RESTORED)
        return result

    def compare(self, parts: list[str], left_out: dict[str, int]) -> None:
        """Raise BackupError when the services do not have what the manifest says."""
        problems = [
            f"{service}: {text}"
            for service, state in STATE.items()
            if service in parts
            for text in differences(
                without(self.manifest["parts"][service], left_out),
                state(self.settings.docker, self.running[service]),
            )
        ]
        if problems:
            raise BackupError(f"What was restored is not what the set says: {'; '.join(problems)}.")


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
        psql.postgres_session(settings.docker, running["postgres"]) as session,
    ):
        return "".join(session.ask(statement))
    return ""


def _same_schema(settings: Settings, running: dict[str, str], before: str) -> bool:
    """Return whether the database was not replaced; one that may still be is waited for."""
    try:
        if not psql.end_postgres_sessions(settings.docker, running["postgres"], [SESSION]):
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
            left_out = uploads.restore_uploads(docker, container, source, expected, label(settings))
            return {"left_out": left_out}
        elif service == "postgres":
            rows = part.get("rows")
            arguments = (SESSION, extensions(part), str(part.get("version", "")))
            counted = rows if isinstance(rows, dict) else None
            postgres.restore_postgres(docker, running[service], source, *arguments, counted)
        else:
            RESTORE[service](docker, running[service], source)
    return {}


def extensions(part: dict[str, Any]) -> list[str] | None:
    """Return the extensions that a set lists; None of one that an older edition made."""
    listed = part.get("extensions")
    return [str(name) for name in listed if name != "*"] if isinstance(listed, list) else None


def _restore_redis(docker: Docker, container: str, source: Any, mine: str) -> None:
    """Stop Redis, give it the snapshot, start it and wait until it has read it."""
    record = docker.inspect(container)
    volume = next(m["Name"] for m in record["Mounts"] if m["Destination"] == "/data")
    docker.run("stop", container)
    try:
        redis.restore_redis(docker, record["Image"], volume, source, mine)
    finally:
        docker.run("start", container)
    redis.redis_keys(docker, container)
