"""A set restored into throwaway containers, and what is in them compared with what it promises."""

from __future__ import annotations

import gzip
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..docker.exec import HARDENED
from ..text import quoted_lines
from .archive import Expected
from .backends import mariadb, postgres, qdrant, redis, uploads
from .cipher import opened
from .manifest import BackupError, differences
from .restore import extensions, without
from .set import Settings, explain_errors, services
from .throwaway import service_folder, service_options, service_user

READY = {
    "postgres": 'pg_isready --quiet --host 127.0.0.1 --username "$POSTGRES_USER"',
    "mariadb": "healthcheck.sh --connect --innodb_initialized",
    "redis": 'redis-cli ping 2>&1 | grep -qE "PONG|LOADING"',
}
# What a throwaway database takes over from the one that serves; never a password.
KEPT = ("POSTGRES_USER", "POSTGRES_DB", "MARIADB_DATABASE", "PGDATA")


class Throwaway:
    """Containers of a drill: on no network, with no more rights than the stack's, gone afterwards.

    An internal network would not do: its containers reach the host at the address of the bridge,
    and the rules of the stack's firewall are for its own networks.
    """

    def __init__(self, settings: Settings, live: dict[str, str]) -> None:
        self.docker = settings.docker
        self.name = f"{settings.project}-drill"
        self.label = f"crisper.drill={settings.project}"
        self.live = live

    @contextmanager
    def room(self) -> Iterator[None]:
        """Make room for the containers; everything is gone when it is left."""
        self.remove()  # what a drill that was killed left behind
        try:
            yield
        finally:
            self.remove()

    def remove(self) -> None:
        """Remove whatever carries the label."""
        for kind, listing, removal in (
            ("container", ("ps", "--all", "--quiet"), ("rm", "--force", "--volumes")),
            ("volume", ("volume", "ls", "--quiet"), ("volume", "rm", "--force")),
            # Of an older edition.
            ("network", ("network", "ls", "--quiet"), ("network", "rm")),
        ):
            found = self.docker.run(*listing, "--filter", f"label={self.label}").split()
            if found:
                try:
                    self.docker.run(*removal, *found)
                except BackupError as error:
                    raise BackupError(f"A {kind} of the drill stays behind: {error}") from error

    def inspect_service(self, service: str) -> dict[str, Any]:
        """Return what the engine knows of the container that serves."""
        return self.docker.inspect(self.live[service])

    def volume(self, service: str) -> tuple[str, ...]:
        """Make the volume of a service, its user's; the options that mount it."""
        name, record = f"{self.name}-{service}", self.inspect_service(service)
        self.docker.run("volume", "create", "--label", self.label, name)
        user, folder = service_user(service, record), service_folder(service, record)
        self.docker.run(
            *("run", "--rm", *HARDENED, "--cap-add", "CHOWN", "--user", "0:0"),
            *("--label", self.label, "--volume", f"{name}:/data:nocopy"),
            *("--entrypoint", "chown", record["Image"], user, "/data"),
        )
        return ("--volume", f"{name}:{folder}:nocopy")

    def start(self, service: str, *command: str, options: tuple[str, ...] = ()) -> str:
        """Run a container of the service's own image; its id.

        Args:
            options: mount its data; empty for a new volume.
        """
        options = options or self.volume(service)
        record = self.inspect_service(service)
        environment = [item for item in record["Config"]["Env"] if item.split("=")[0] in KEPT]
        if service == "postgres":
            environment.append("POSTGRES_HOST_AUTH_METHOD=trust")  # nobody else reaches it
        if service == "mariadb":
            environment.append(f"MARIADB_ROOT_PASSWORD={secrets.token_urlsafe(24)}")
        variables = [piece for item in environment for piece in ("--env", item)]
        return self.docker.run(
            *("run", "--detach", "--label", self.label, "--name", f"{self.name}-{service}"),
            *service_options(service, record),
            *variables,
            *options,
            *(record["Image"], *command),
        ).strip()

    def ready(self, service: str, container: str) -> None:
        """Wait until a service answers over TCP: while a database is set up, only its socket does.

        Raises:
            BackupError: it has ended, or does not answer in time; with the end of its log.
        """
        deadline = time.monotonic() + 180
        while True:
            try:
                self.docker.text("not ready", self.docker.inside(container, READY[service]))
                return
            except BackupError as error:
                state = self.docker.inspect(container)["State"]["Status"]
                if state != "running" or time.monotonic() > deadline:
                    output = self.docker.run("logs", "--tail", "5", container).strip()
                    logs = "\n" + quoted_lines(output[-5000:])
                    raise BackupError(
                        f"{service} of the drill is not ready ({state}): {logs}"
                    ) from error
                time.sleep(0.5)


def _postgres(away: Throwaway, source: Any, part: dict[str, Any] | None = None) -> dict[str, Any]:
    container = away.start("postgres")
    away.ready("postgres", container)
    part = part or {}
    arguments = ("", extensions(part), str(part.get("version", "")))
    postgres.restore_postgres(away.docker, container, source, *arguments)
    return postgres.postgres_state(away.docker, container)


def _mariadb(away: Throwaway, source: Any) -> dict[str, Any]:
    container = away.start("mariadb")
    away.ready("mariadb", container)
    mariadb.restore_mariadb(away.docker, container, source)
    return mariadb.mariadb_state(away.docker, container)


def _qdrant(away: Throwaway, source: Any) -> dict[str, Any]:
    container = away.start("qdrant")
    qdrant.Qdrant(away.docker, container).wait()
    qdrant.restore_qdrant(away.docker, container, source)
    return qdrant.qdrant_state(away.docker, container)


def _redis(away: Throwaway, source: Any) -> dict[str, Any]:
    options = away.volume("redis")
    redis.restore_redis(
        away.docker, away.inspect_service("redis")["Image"], f"{away.name}-redis", source
    )
    command = ("redis-server", "--appendonly", "yes", "--dir", "/data")
    container = away.start("redis", *command, options=options)
    away.ready("redis", container)
    return {"keys": redis.redis_keys(away.docker, container)}


def _uploads(away: Throwaway, source: Any, part: dict[str, Any]) -> dict[str, Any]:
    volume = f"{away.name}-uploads"
    away.docker.run("volume", "create", "--label", away.label, volume)
    files = uploads.Uploads(
        away.docker, away.inspect_service("uploads")["Image"], volume, away.label
    )
    with gzip.GzipFile(fileobj=source) as plain, open(os.devnull, "wb") as nowhere:
        left_out = files.restore(plain, Expected.of(part))  # type: ignore[arg-type]
        return {**files.dump(nowhere), "left_out": left_out}


RESTORE = {
    "postgres": _postgres,
    "mariadb": _mariadb,
    "qdrant": _qdrant,
    "redis": _redis,
}
# Those that need to know more than the file.
WITH_PART = {"postgres": _postgres, "uploads": _uploads}


@contextmanager
def _timed(report: dict[str, Any]) -> Iterator[None]:
    began = time.monotonic()
    yield
    report["seconds"] = round(time.monotonic() - began, 1)


def drill(
    settings: Settings, manifest: dict[str, Any], identity: str, note: Callable[[str], None]
) -> dict[str, Any]:
    """Restore a set that was checked into throwaway containers and judge what is in them.

    Returns:
        Service -> ``{seconds, ...}`` with what was counted.

    Raises:
        BackupError: something is not what the manifest says. The stack was not touched.
    """
    running = services(settings)
    report: dict[str, Any] = {}
    problems: list[str] = []
    away = Throwaway(settings, running)
    with away.room():
        for service, part in manifest["parts"].items():
            if service not in running:
                problems.append(f"{service}: this stack does not run it, so it was not tried")
                continue
            note(f"drill {service}")
            path = Path(manifest["path"]) / part["file"]
            report[service] = {}
            with (
                _timed(report[service]),
                explain_errors(f"{service} was not restored"),
                opened(path, manifest["encryption"], identity) as source,
            ):
                if service in WITH_PART:
                    report[service].update(WITH_PART[service](away, source, part))
                else:
                    report[service].update(RESTORE[service](away, source))
            wanted = without(part, report[service].get("left_out", {}))
            problems += [f"{service}: {text}" for text in differences(wanted, report[service])]
    if problems:
        raise BackupError(
            f"The set {manifest['set']} restores, but it is not what it says:"
            f" {'; '.join(problems)}. Make a new one: ansible-playbook playbooks/backup.yml"
        )
    return report
