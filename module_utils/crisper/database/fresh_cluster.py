"""A new cluster of an image, for comparison: made in a container that is thrown away.

What is read of it is kept by image and extensions: an image never changes. Python 3.9+.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..backup.backends.postgres_sql import FIND_SUPERUSER
from ..backup.cipher import written
from ..backup.drill import READY
from ..backup.manifest import BackupError
from ..backup.throwaway import service_options, service_user
from ..docker.exec import Docker
from ..text import quoted_lines
from .catalog import identifier, read_catalog
from .measure import Measure, access, measure, roles_of

FILE = "postgres-measure.json"
# Counts up when what is kept has another form.
EDITION = 2
SECONDS = 120
# A cluster of initdb's has 40 MB, and 16 of its log.
SIZE = "size=512m,mode=0700"
Extension = tuple[str, str, str]  # name, version, schema
EXTEND = FIND_SUPERUSER + (
    ' exec env PGCLIENTENCODING=UTF8 psql --quiet --no-psqlrc --username "$superuser"'
    " --set ON_ERROR_STOP=1 --file -"
)


def key_of(extensions: Iterable[Extension]) -> str:
    """Return what the measure of a database with these extensions is kept under."""
    return json.dumps([EDITION, [*map(list, sorted(extensions))]])


class FreshClusters:
    """New clusters of one image, and their measures.

    Args:
        container: that of the stack's PostgreSQL, whose image is taken.
        folder: where measures are stored; None stores nothing.
    """

    def __init__(self, docker: Docker, container: str, project: str, folder: Path | None) -> None:
        self.docker, self.project, self.folder = docker, project, folder
        self.record = docker.inspect(container)
        self.label = f"crisper.measure={project}"

    def measures(self, wanted: Iterable[Iterable[Extension]]) -> dict[str, dict[str, Any]]:
        """Return the measure of each set of extensions, by :func:`key_of`.

        Returns:
            ``{measure, hba, roles, unknown}``, the last one the extensions that the image does not
            make in the wanted version.

        Raises:
            BackupError: no cluster could be made.
        """
        known = self.stored()
        sets = {key_of(each): sorted(each) for each in wanted}
        if missing := {key: each for key, each in sets.items() if key not in known}:
            known |= self.made(missing)
            self.store({key: known[key] for key in known if key in sets})
        return {key: {**known[key], "measure": Measure(**known[key]["measure"])} for key in sets}

    # --- Stored --------------------------------------------------------------------------------
    def stored(self) -> dict[str, Any]:
        """Return the measures that are stored of the image."""
        try:
            measured = json.loads((self.folder / FILE).read_text()) if self.folder else {}
            return measured["measures"] if measured.get("image") == self.record["Image"] else {}
        except (OSError, ValueError, KeyError, AttributeError):
            return {}

    def store(self, measures: dict[str, Any]) -> None:
        """Store measures; without them the next call makes them again."""
        if not self.folder:
            return
        draft = self.folder / f".{FILE}"
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
            with written(draft, "", "") as target:
                measured = {"image": self.record["Image"], "measures": measures}
                target.write(json.dumps(measured).encode())
            draft.replace(self.folder / FILE)

    # --- Made --------------------------------------------------------------------------------
    def made(self, sets: dict[str, list[Extension]]) -> dict[str, Any]:
        """Return the measures of a new cluster, which is gone afterwards."""
        found = {}
        with self.cluster() as container:
            for number, (key, extensions) in enumerate(sets.items()):
                database = f"crisper_{number}"
                self.sql(container, "postgres", f"CREATE DATABASE {database} TEMPLATE template0;")
                unknown = [
                    name
                    for name, version, schema in extensions
                    if not self.extended(container, database, name, version, schema)
                ]
                catalog = read_catalog(self.docker, container, database)
                found[key] = {
                    "measure": asdict(measure(catalog)),
                    "hba": access(catalog),
                    "roles": roles_of(catalog),
                    "unknown": unknown,
                }
        return found

    def extended(self, container: str, database: str, name: str, version: str, schema: str) -> bool:
        """Make an extension as the stack has it; return whether that was possible."""
        if name == "plpgsql":
            return True
        place = (
            "" if schema == "pg_catalog" else f"CREATE SCHEMA IF NOT EXISTS {identifier(schema)};"
        )
        try:
            self.sql(
                container,
                database,
                f"{place} CREATE EXTENSION IF NOT EXISTS {identifier(name)}"
                f" WITH SCHEMA {identifier(schema)} VERSION {identifier(version)} CASCADE;",
            )
        except BackupError:
            return False
        return True

    def sql(self, container: str, database: str, script: str) -> None:
        """Run statements as superuser of the new cluster."""
        command = self.docker.inside(container, EXTEND, PGDATABASE=database)
        self.docker.answer("A new cluster was not prepared", command, script.encode())

    @contextlib.contextmanager
    def cluster(self) -> Iterator[str]:
        """Yield a running server of the image with a new cluster in memory, and on no network."""
        self.remove()  # what a run that was killed left behind
        user, record = service_user("postgres", self.record), self.record
        image = record["Image"]
        names = [item.partition("=")[::2] for item in record["Config"]["Env"]]
        folder = dict(names).get("PGDATA") or "/var/lib/postgresql/data"
        uid, _, gid = user.partition(":")
        environment = {
            "POSTGRES_USER": "postgres",
            "POSTGRES_PASSWORD": secrets.token_urlsafe(24),
            "PGDATA": folder,
            "POSTGRES_DB": "postgres",
        }
        options = service_options("postgres", record)
        place = options.index("--memory")
        limit = max(int(options[place + 1]), 768 << 20) if int(options[place + 1]) else 0
        options[place + 1] = str(limit)  # the cluster is in memory, too
        try:
            container = self.docker.run(
                *("run", "--detach", "--label", self.label, *options),
                *("--tmpfs", f"{folder}:{SIZE},uid={uid},gid={gid or uid}"),
                *(
                    piece
                    for name in environment
                    for piece in ("--env", f"{name}={environment[name]}")
                ),
                *(image, "postgres", "-c", "fsync=off", "-c", "listen_addresses=127.0.0.1"),
            ).strip()
            self.wait(container)
            yield container
        finally:
            self.remove()

    def wait(self, container: str) -> None:
        """Wait until it answers over TCP: while it is set up, only its socket does."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                self.docker.text("not ready", self.docker.inside(container, READY["postgres"]))
                return
            except BackupError as error:
                state = self.docker.inspect(container)["State"]["Status"]
                if state != "running" or time.monotonic() > deadline:
                    output = quoted_lines(self.docker.run("logs", "--tail", "5", container)[-2000:])
                    raise BackupError(f"a new cluster did not start ({state}): {output}") from error
                time.sleep(0.2)

    def remove(self) -> None:
        """Remove whatever carries the label."""
        found = self.docker.run("ps", "--all", "--quiet", "--filter", f"label={self.label}").split()
        if found:
            self.docker.run("rm", "--force", "--volumes", *found)
