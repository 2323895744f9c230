"""PostgreSQL's data brought into a new cluster: dump, restore, comparison, exchange.

Of another major version, or of the same one, where nothing that a former superuser has planted in
the old cluster comes along. The old data is copied into a volume of its own before its place is
taken. It is put back from there when the release that needed another version is given up; a new
cluster of the same version fits every release, and stays.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..backup.backends import postgres
from ..backup.backends.postgres_sql import ASK_APPLICATION
from ..backup.backends.versions import service_version
from ..backup.cipher import written
from ..backup.drill import READY
from ..backup.manifest import BackupError, differences, set_id
from ..backup.throwaway import TMPFS_OPTIONS, tmpfs_options
from ..docker.exec import HARDENED, Docker
from ..text import printable, quote_output, sql_identifier
from .catalog import Catalog, builtin, parse_array, read_catalog
from .planted import not_restorable
from .role_state import SUFFIX
from .roles import Roles
from .versions import (
    Misfit,
    data_version,
    find_misfits,
    loose_psql,
    text_of,
    volume_name,
    wanted_version,
)

RECORD = "upgrade.json"
# Findings that are named in a refusal.
MOST = 10
MANIFEST = "manifest.json"
COPYING, REPLACING, REPLACED = "copying", "replacing", "replaced"
READY_SECONDS = 180
FILES = "find . -type f ! -name upgrade-in-progress -printf '%s %P\\n' | LC_ALL=C sort | sha256sum"
COPY = (
    f"set -e; cp -a /from/. /to/; sync; cd /from; one=$({FILES}); cd /to; other=$({FILES});"
    ' [ "$one" = "$other" ] || { echo "the copy differs from its source" >&2; exit 1; }'
)
# A server that starts meanwhile finds neither a cluster nor an empty folder, and makes none.
REPLACE = (
    "set -e; touch /to/upgrade-in-progress;"
    " find /to -mindepth 1 -maxdepth 1 ! -name upgrade-in-progress -exec rm -rf {} +; "
    + COPY
    + "; rm /to/upgrade-in-progress; sync"
)
Note = Callable[[str], None]


def sentence(error: object) -> str:
    """Return an error as a sentence that another one can follow."""
    return f"{str(error).rstrip().rstrip('.')}."


def settings_of(catalog: Catalog, own: str) -> list[str]:
    """Return the settings that a dump of a database does not have, as people write them.

    Args:
        own: name of the application's role and database.
    """
    found = [
        f"{row['name']} = {row['setting']}"
        for row in catalog.rows["file_settings"]
        if (row["sourcefile"] or "").endswith("postgresql.auto.conf")
    ]
    databases = {row["oid"]: row["datname"] for row in catalog.rows["pg_database"]}
    for row in catalog.rows["pg_db_role_setting"]:
        database, role = databases.get(row["setdatabase"]), catalog.roles.get(row["setrole"])
        if database not in (None, own):
            continue
        whose = f"role {role}" if role else "every role"
        where = f" in database {database}" if database else ""
        found += [f"{each} ({whose}{where})" for each in parse_array(row["setconfig"])]
    return sorted(found)


def _split(tmpfs: str) -> tuple[str, str]:
    """Return folder and options of a tmpfs as a compose file has it."""
    folder, _, options = tmpfs.partition(":")
    return folder, options


@dataclass
class Record:
    """What an upgrade has done so far, as ``<root>/upgrade.json`` keeps it."""

    old: str  # major versions
    new: str
    release: str  # id of the release that needed it
    kept: str  # volume with the old data
    dump: str
    step: str


class Upgrade:
    """The databases of one stack, made to fit a release."""

    def __init__(self, root: Path, project: str, release: Path, docker: Docker, note: Note) -> None:
        self.root, self.project, self.release = root, project, release
        self.docker, self.note = docker, note
        self.volume = volume_name(project, "postgres")
        self.label = f"crisper.upgrade={project}"
        self.scratch = f"{project}_postgres_upgrade"

    # --- What there is ---------------------------------------------------------------------
    def call(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output and errors of a Docker command."""
        try:
            return 0, self.docker.run(*arguments), ""
        except BackupError as error:
            return 1, "", str(error)

    def images(self) -> dict[str, dict[str, str]]:
        """Return ``{ref, id}`` of the release's images by service."""
        return self.manifest(self.release).get("images", {})

    @staticmethod
    def manifest(release: Path) -> dict[str, Any]:
        """Return the manifest of a release; empty when there is none."""
        try:
            return json.loads((release / MANIFEST).read_text())
        except (OSError, ValueError):
            return {}

    def record(self) -> Record | None:
        """Return what an upgrade that is not proved has done; None when there is none."""
        try:
            record = Record(**json.loads((self.root / RECORD).read_text()))
        except (OSError, ValueError, TypeError):
            return None
        folder = self.root / "releases" / record.release
        proved = "verified" in self.manifest(folder) or not folder.is_dir()
        current = self.root / "current"
        serves = current.is_symlink() and current.resolve().name == record.release
        return None if record.step == REPLACED and (proved or serves) else record

    def write(self, record: Record) -> None:
        """Keep a record, before what it says is done."""
        draft = self.root / f".{RECORD}"
        draft.unlink(missing_ok=True)
        with written(draft, "", "") as target:
            target.write(json.dumps(asdict(record)).encode())
        draft.replace(self.root / RECORD)

    def forget(self) -> None:
        """Remove the record."""
        (self.root / RECORD).unlink(missing_ok=True)

    def misfits(self) -> list[Misfit]:
        """Return every database whose data the release's image cannot open."""
        return find_misfits(self.call, self.project, self.images())

    def versions(self) -> tuple[str, str]:
        """Return the major versions of PostgreSQL's data and of the release's image."""
        image = self.images()["postgres"]
        wanted = wanted_version(self.call, "postgres", image["ref"], image["id"])
        return text_of(data_version(self.call, "postgres", self.volume)[:1]), text_of(wanted[:1])

    # --- Making the data fit ---------------------------------------------------------------
    def fit(self, upgrade: bool, rebuild: bool = False) -> dict[str, Any]:
        """Put back what an upgrade that was given up has replaced, and compare versions.

        Args:
            upgrade: whether PostgreSQL's data may be upgraded; then a need is returned.
            rebuild: whether data of the same version gets a new cluster, too.

        Returns:
            ``{changed, needed, from, to, put_back}``.

        Raises:
            BackupError: the data cannot be opened by the release's image.
        """
        result = {"changed": False, "needed": False, "put_back": "", "from": "", "to": ""}
        record = self.record()
        if "postgres" not in self.images():
            return result
        if record and (record.step != REPLACED or self.versions()[1] == record.old):
            if record.step != COPYING:
                self.put_back(record)
                result |= {"changed": True, "put_back": record.kept}
            self.clean(record.kept)
            self.forget()
        elif record and record.release != self.release.name:
            record.release = self.release.name
            self.write(record)
        misfits = self.misfits()
        old, new = self.versions()
        result |= {"from": old, "to": new}
        if upgrade and [each.service for each in misfits] == ["postgres"] and int(old) < int(new):
            self.refuse_early()
            return {**result, "needed": True}
        if misfits:
            told = "; ".join(f"{each.message}: {each.remedy}" for each in misfits)
            raise BackupError(f"{told}. The data was not touched.")
        if upgrade and rebuild and old and old == new:
            self.refuse_early()
            return {**result, "needed": True}
        return result

    def refuse_early(self) -> None:
        """Raise BackupError for what would refuse an upgrade, before anything stands still."""
        if running := self.docker.container(self.project, "postgres"):
            self.refuse_what_a_dump_lacks(running)
            self.refuse_without_room(running)

    def put_back(self, record: Record) -> None:
        """Give the old data its place again; whoever has it open is stopped first."""
        self.note("upgrade: put the old data back")
        if container := self.docker.container(self.project, "postgres"):
            self.docker.run("stop", container)
        self.between(record.kept, self.volume, REPLACE, "The old data was not put back")

    def upgrade(self) -> dict[str, Any]:
        """Bring the data into a new cluster of the release's image.

        Returns:
            ``{changed, from, to, kept, dump, rows, settings}``.

        Raises:
            BackupError: it failed; the message says what state the data is in.
        """
        docker, (old, new) = self.docker, self.versions()
        running = self.start_old()
        if not running:
            raise BackupError(
                f"PostgreSQL {old} of {self.project} does not run, so its data cannot be dumped:"
                " set image_refs.postgres back, deploy, and run the upgrade again."
                " The data was not touched."
            )
        settings = self.refuse_what_a_dump_lacks(running)
        self.refuse_without_room(running)
        stamp = set_id(datetime.now(timezone.utc))
        what = f"rebuild-{old}" if old == new else f"upgrade-{old}-to-{new}"
        dump = self.root / "backups" / f"{what}-{stamp}.dump"
        kept = f"{self.project}_postgres_{old}_{stamp}"
        record = Record(old, new, self.release.name, kept, str(dump), COPYING)
        self.clean("")
        self.write(record)
        try:
            facts = self.dump(running, dump)
            self.rebuild(running, dump, facts, old == new)
            self.note("upgrade: keep the old data")
            docker.run("stop", running)
            docker.run("volume", "create", "--label", f"crisper.stack={self.project}", kept)
            self.between(self.volume, kept, COPY, "The old data was not copied")
        except BaseException as error:
            problem = ""
            try:
                docker.run("start", running)
            except BackupError as second:
                problem = str(second)
            self.clean(kept)
            self.forget()
            if isinstance(error, BackupError):
                state = f"It does not run: {sentence(problem)}" if problem else "It runs."
                raise BackupError(
                    f"{sentence(error)} The data is PostgreSQL {old}, as it was, in the volume"
                    f" {self.volume}. {state}{self.dump_words(dump)}"
                ) from error
            raise
        self.exchange(record, running)
        self.clean("")
        told = {"kept": kept, "dump": str(dump), "rows": facts["rows"], "settings": settings}
        return {"changed": True, "from": old, "to": new, **told}

    @staticmethod
    def dump_words(dump: Path) -> str:
        """Return that a dump is kept, as the end of a message; empty when it is not there."""
        return f" Its dump is {dump}." if dump.is_file() else ""

    def look(self, kept: str, dump: str) -> dict[str, Any]:
        """Return what there is after an upgrade whose release failed, in words.

        Args:
            kept: the volume with the old data that the upgrade made.
            dump: its dump.

        Returns:
            ``{changed, words}``.
        """
        now = text_of(data_version(self.call, "postgres", self.volume)[:1]) or "unknown"
        there, _out, _err = self.call("volume", "inspect", "--format", "{{.Name}}", kept)
        words = [
            f"the volume {self.volume} has data of PostgreSQL {now}",
            f"the data from before the upgrade is kept in the volume {kept}"
            if there == 0
            else f"there is no volume {kept} any more",
            f"its dump is {dump}" if Path(dump).is_file() else f"its dump {dump} is not there",
        ]
        return {"changed": False, "words": "; ".join(words)}

    def start_old(self) -> str:
        """Return the container with the old data, started when it does not run; empty without."""
        if running := self.docker.container(self.project, "postgres"):
            return running
        label = "label=com.docker.compose"
        stopped = self.docker.run(
            *("ps", "--all", "--quiet", "--no-trunc", "--filter", f"{label}.oneoff=False"),
            *("--filter", f"{label}.project={self.project}"),
            *("--filter", f"{label}.service=postgres"),
        ).split()
        if not stopped:
            return ""
        self.docker.run("start", stopped[0])
        self.wait(stopped[0])
        return stopped[0]

    def refuse_what_a_dump_lacks(self, running: str) -> list[str]:
        """Refuse what is not the stack's or a superuser's alone; return settings that get lost.

        Raises:
            BackupError: there is such a database, role or object.
        """
        environment = self.docker.inspect(running)["Config"]["Env"]
        own = dict(item.partition("=")[::2] for item in environment)["POSTGRES_DB"]
        catalog = read_catalog(self.docker, running, own)
        databases = [
            printable(row["datname"])
            for row in catalog.rows["pg_database"]
            if row["datistemplate"] != "t" and row["datname"] not in ("postgres", own)
        ]
        roles = [
            printable(row["rolname"])
            for row in catalog.rows["pg_authid"]
            if not builtin(row["oid"]) and row["rolname"] not in (own, f"{own}{SUFFIX}")
        ]
        if databases or roles:
            raise BackupError(
                "The upgrade moves the stack's own database alone, and there is more:"
                f" databases {', '.join(sorted(databases)) or 'none'},"
                f" roles {', '.join(sorted(roles)) or 'none'}."
                " Dump and drop them (pg_dump, pg_dumpall --roles-only), run the upgrade again,"
                " and restore what is yours afterwards. The data was not touched."
            )
        misplaced = [
            f"the extension {printable(name)} is in the schema {printable(schema)} of PostgreSQL's"
            f" own. To move it: ALTER EXTENSION {sql_identifier(name)} SET SCHEMA public"
            for name, schema in postgres.misplaced_extensions(self.docker, running)
        ]
        if left := [*misplaced, *not_restorable(catalog)]:
            raise BackupError(
                "The upgrade restores the data by the application's role, which may not make what a"
                f" superuser has made: {'; '.join(left[:MOST])}. Drop or move it, run the upgrade"
                " again, and make what is yours afterwards. The data was not touched."
            )
        return [printable(each) for each in settings_of(catalog, own)]

    def refuse_without_room(self, running: str) -> None:
        """Refuse when the disk has no room for the new cluster beside the kept one."""
        command = self.docker.inside(running, 'du -sk "$PGDATA" | cut -f1')
        size = int(self.docker.text("The size of the data was not told", command)) * 1024
        folder = json.loads(
            self.docker.run("volume", "inspect", "--format", "{{json .Mountpoint}}", self.volume)
        )
        free = shutil.disk_usage(folder).free
        if free < 2 * size:
            raise BackupError(
                f"The upgrade needs {2 * size / 1e9:.1f} GB free in {folder} (a copy of the old"
                f" data and the new cluster), and {free / 1e9:.1f} GB are: free space, then run it"
                " again. The data was not touched."
            )

    def dump(self, running: str, path: Path) -> dict[str, Any]:
        """Dump the database into a file, whole or not at all; what was counted in it."""
        self.note("upgrade: dump the database")
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}")
        draft.unlink(missing_ok=True)
        try:
            with written(draft, "", "") as target:
                facts = postgres.dump_postgres(self.docker, running, target)
            draft.replace(path)
        except OSError as error:
            raise BackupError(f"The dump {path} was not written: {error}.") from error
        finally:
            draft.unlink(missing_ok=True)
        return facts

    def rebuild(self, running: str, dump: Path, facts: Mapping[str, Any], distrusted: bool) -> None:
        """Make a cluster of the new version in a volume of its own, and compare what is in it.

        Args:
            distrusted: whether the old server may have been taken over.
        """
        self.note("upgrade: restore into a new cluster")
        docker = self.docker
        with self.cluster(running) as container:
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
        folder = self.release / "secrets"
        try:
            superuser, own = (
                (folder / name).read_text(encoding="utf-8").rstrip("\n")
                for name in ("postgres_superuser_password", "postgres_password")
            )
        except (OSError, UnicodeError):
            return  # a release of an earlier edition, whose deploy does it
        environment = self.docker.inspect(container)["Config"]["Env"]
        application = dict(item.partition("=")[::2] for item in environment)["POSTGRES_DB"]
        Roles(self.docker, container, application).apply(superuser, own, [])

    @contextlib.contextmanager
    def cluster(self, running: str) -> Iterator[str]:
        """A server of the release's image on the scratch volume, stopped and removed afterwards."""
        docker = self.docker
        service = self.definition()
        docker.run("volume", "create", "--label", self.label, self.scratch)
        mount = next(v["target"] for v in service["volumes"] if v.get("source") == "postgres")
        limits = str(docker.inspect(running)["HostConfig"]["Memory"])
        # The deploy gives the superuser his own when the new cluster has its place.
        pairs = {
            **(service.get("environment") or {}),
            "POSTGRES_PASSWORD": secrets.token_urlsafe(24),
        }
        pairs.pop("POSTGRES_PASSWORD_FILE", None)
        container = docker.run(
            *("run", "--detach", *HARDENED, "--label", self.label, "--init"),
            *("--name", self.scratch, "--memory", limits),
            *("--user", str(service.get("user", "999:999"))),
            *tmpfs_options("postgres", dict(_split(each) for each in service.get("tmpfs") or [])),
            *(piece for name in pairs for piece in ("--env", f"{name}={pairs[name]}")),
            *("--volume", f"{self.scratch}:{mount}"),
            self.images()["postgres"]["id"],
        ).strip()
        try:
            self.wait(container)
            yield container
        finally:
            docker.run("stop", "--time", "120", container)
            docker.run("rm", "--force", "--volumes", container)

    def definition(self) -> dict[str, Any]:
        """Return the service postgres as the release's compose file defines it."""
        path = self.release / "docker-compose.prod.yml"
        folder = ("--project-directory", str(self.release), "--file", str(path))
        project = ("--project-name", self.project)
        told = self.docker.run("compose", *project, *folder, "config", "--format", "json")
        return json.loads(told)["services"]["postgres"]

    def wait(self, container: str) -> None:
        """Wait until a server answers over TCP: while it is set up, only its socket does."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            code, _out, _err = self.call(*self.docker.inside(container, READY["postgres"])[1:])
            if code == 0:
                return
            state = self.docker.inspect(container)["State"]["Status"]
            if state != "running" or time.monotonic() > deadline:
                _code, out, err = self.call("logs", "--tail", "10", container)
                said = quote_output((out + err).strip()[-5000:])
                raise BackupError(f"PostgreSQL did not start ({state}): {said}.")
            time.sleep(0.3)

    def exchange(self, record: Record, running: str) -> None:
        """Put the new cluster in the place of the old one; the old one stays in its own volume."""
        self.note("upgrade: exchange the data")
        record.step = REPLACING
        self.write(record)
        try:
            self.between(self.scratch, self.volume, REPLACE, "The new cluster was not put in place")
            record.step = REPLACED
            if record.old == record.new:
                # Every release fits it: what is written from now on is in it alone.
                self.forget()
            else:
                self.write(record)
        except BaseException as error:
            kept = f"It is whole in the volume {record.kept}."
            try:
                self.put_back(record)
                self.docker.run("start", running)
            except BackupError as second:
                raise BackupError(
                    f"{sentence(error)} The old data could not be put back either:"
                    f" {sentence(second)} {kept}"
                    " Run the upgrade again: it begins by putting the old data back."
                    f"{self.dump_words(Path(record.dump))}"
                ) from error
            self.clean(record.kept)
            self.forget()
            raise BackupError(
                f"{sentence(error)} The data is PostgreSQL {record.old}, put back in the volume"
                f" {self.volume}, and it runs.{self.dump_words(Path(record.dump))}"
            ) from error

    def between(self, source: str, target: str, script: str, what: str) -> None:
        """Run a script with one volume at /from and another at /to.

        Raises:
            BackupError: it failed.
        """
        image = self.images()["postgres"]["id"]
        # sort(1) keeps there what it has no memory for.
        room = f"/tmp:{TMPFS_OPTIONS}"  # noqa: S108
        arguments = ("run", "--rm", *HARDENED, "--user", "0:0", "--tmpfs", room)
        # Of root's capabilities those that files of another owner need.
        arguments += ("--cap-add", "CHOWN", "--cap-add", "DAC_OVERRIDE", "--cap-add", "FOWNER")
        volumes = ("--volume", f"{source}:/from:ro", "--volume", f"{target}:/to")
        command = ("--label", self.label, "--entrypoint", "sh", image, "-c", script)
        try:
            self.docker.run(*arguments, *volumes, *command)
        except BackupError as error:
            raise BackupError(f"{what}: {error}") from error

    def clean(self, kept: str) -> None:
        """Remove what only an upgrade under way needs, and the volume `kept`."""
        for listing, removal in (
            (("ps", "--all", "--quiet"), ("rm", "--force", "--volumes")),
            (("volume", "ls", "--quiet"), ("volume", "rm", "--force")),
        ):
            found = self.docker.run(*listing, "--filter", f"label={self.label}").split()
            if found:
                self.docker.run(*removal, *found)
        if kept:
            self.docker.run("volume", "rm", "--force", kept)
