"""A new cluster of PostgreSQL: dump of the old one, restore, comparison, passwords."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..backup.backends import postgres
from ..backup.backends.postgres_sql import ASK_APPLICATION
from ..backup.backends.versions import service_version
from ..backup.cipher import written
from ..backup.drill import READY
from ..backup.manifest import BackupError, differences
from ..backup.throwaway import tmpfs_options
from ..docker.exec import HARDENED
from ..text import quote_output
from .roles import Roles
from .upgrade_checks import application_of
from .upgrade_stack import Stack
from .versions import loose_psql

READY_SECONDS = 180


def wait_until_ready(stack: Stack, container: str) -> None:
    """Wait until a server answers over TCP: while it is set up, only its socket does.

    Raises:
        BackupError: it has ended, or does not answer within READY_SECONDS.
    """
    deadline = time.monotonic() + READY_SECONDS
    while True:
        code, _out, _err = stack.call(*stack.docker.inside(container, READY["postgres"])[1:])
        if code == 0:
            return
        state = stack.docker.inspect(container)["State"]["Status"]
        if state != "running" or time.monotonic() > deadline:
            _code, out, err = stack.call("logs", "--tail", "10", container)
            output = quote_output((out + err).strip()[-5000:])
            raise BackupError(f"PostgreSQL did not start ({state}): {output}.")
        time.sleep(0.3)


def dump_database(stack: Stack, running: str, path: Path) -> dict[str, Any]:
    """Dump the database into a file, whole or not at all; return what was counted in it.

    Raises:
        BackupError: it failed.
    """
    stack.note("upgrade: dump the database")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    try:
        with written(draft, "", "") as target:
            facts = postgres.dump_postgres(stack.docker, running, target)
        draft.replace(path)
    except OSError as error:
        raise BackupError(f"The dump {path} was not written: {error}.") from error
    finally:
        draft.unlink(missing_ok=True)
    return facts


class NewCluster:
    """A cluster of the release's image, in the scratch volume of a stack.

    Args:
        running: container of the old server.
    """

    def __init__(self, stack: Stack, running: str) -> None:
        self.stack, self.docker, self.running = stack, stack.docker, running

    def fill(self, dump: Path, facts: Mapping[str, Any], distrusted: bool) -> None:
        """Make the cluster, restore a dump, and compare what is in it.

        Args:
            dump: the file.
            facts: what was counted in the dump.
            distrusted: whether the old server may have been taken over.

        Raises:
            BackupError: it failed, or the content differs.
        """
        self.stack.note("upgrade: restore into a new cluster")
        docker = self.docker
        with self.server() as container:
            if distrusted:
                self.refuse_loose_psql(container)
            with dump.open("rb") as source:
                # Besides, no extension is made but those that PostgreSQL trusts.
                postgres.restore_postgres(docker, container, source, "", facts["extensions"])
            found = postgres.postgres_state(docker, container)
            if problems := differences(facts, found):
                raise BackupError(f"The new cluster differs from the old: {'; '.join(problems)}.")
            # It evaluates expressions of indexes, which are the application's.
            analyze = docker.inside(container, f"{ASK_APPLICATION} --command ANALYZE")
            docker.text("Statistics were not gathered", analyze)
            self.apply_roles(container)

    def refuse_loose_psql(self, container: str) -> None:
        """Refuse a psql that a dump can tell to run programs.

        Raises:
            BackupError: the image is older than that.
        """
        if problem := loose_psql(service_version(self.docker, "postgres", container)):
            raise BackupError(f"{problem}.")

    def apply_roles(self, container: str) -> None:
        """Give the roles of a new cluster their passwords, as the deploy does.

        A release of the same version can be put back over it: the application must be able to log
        in whatever comes next.
        """
        folder = self.stack.release / "secrets"
        try:
            superuser, own = (
                (folder / name).read_text(encoding="utf-8").rstrip("\n")
                for name in ("postgres_superuser_password", "postgres_password")
            )
        except (OSError, UnicodeError):
            return  # a release of an earlier edition, whose deploy does it
        application = application_of(self.docker, container)
        Roles(self.docker, container, application).apply(superuser, own, [])

    @contextlib.contextmanager
    def server(self) -> Iterator[str]:
        """Yield a server on the scratch volume, which is stopped and removed afterwards."""
        stack, docker = self.stack, self.docker
        service = self.definition()
        docker.run("volume", "create", "--label", stack.label, stack.scratch)
        mount = next(v["target"] for v in service["volumes"] if v.get("source") == "postgres")
        limits = str(docker.inspect(self.running)["HostConfig"]["Memory"])
        # The deploy gives the superuser his own when the new cluster has its place.
        pairs = {
            **(service.get("environment") or {}),
            "POSTGRES_PASSWORD": secrets.token_urlsafe(24),
        }
        pairs.pop("POSTGRES_PASSWORD_FILE", None)
        folders = dict(each.partition(":")[::2] for each in service.get("tmpfs") or [])
        container = docker.run(
            *("run", "--detach", *HARDENED, "--label", stack.label, "--init"),
            *("--name", stack.scratch, "--memory", limits),
            *("--user", str(service.get("user", "999:999"))),
            *tmpfs_options("postgres", folders),
            *(piece for name in pairs for piece in ("--env", f"{name}={pairs[name]}")),
            *("--volume", f"{stack.scratch}:{mount}"),
            stack.images()["postgres"]["id"],
        ).strip()
        try:
            wait_until_ready(stack, container)
            yield container
        finally:
            docker.run("stop", "--time", "120", container)
            docker.run("rm", "--force", "--volumes", container)

    def definition(self) -> dict[str, Any]:
        """Return the service postgres as the release's compose file defines it."""
        release = self.stack.release
        path = release / "docker-compose.prod.yml"
        folder = ("--project-directory", str(release), "--file", str(path))
        project = ("--project-name", self.stack.project)
        output = self.docker.run("compose", *project, *folder, "config", "--format", "json")
        service: dict[str, Any] = json.loads(output)["services"]["postgres"]
        return service
