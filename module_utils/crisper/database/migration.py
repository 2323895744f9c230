"""The steps of M(database_migrate), and what a killed one left behind."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..backup.backends.postgres import dump_postgres
from ..backup.backends.slots import explain_shortage
from ..backup.cipher import measured, written
from ..backup.manifest import BackupError
from ..controller import orphaned
from ..docker.exec import Docker
from ..docker.one_off import (
    CHECK,
    HOOK,
    MIGRATE,
    Command,
    CommandError,
    Commands,
    Outcome,
    join_words,
)
from ..files import make_folder, sync_folder
from ..journal import ROOT_MODE, Journal, NotOwnerError, note
from ..output import last_lines
from ..release.store import ReleaseStore
from .interrupted import DUMP_SESSION, collect, record, record_outcome
from .migration_plan import (
    BEGUN,
    CURRENT,
    DUMPING,
    PREPARING,
    STARTED,
    UNTOLD,
    begin,
    changed,
    dump_name,
    hook_key,
    valid_record,
    wants_check,
    wants_dump,
    wants_migration,
)

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule
CHECK_SECONDS = 120
# Until a client that a killed module has begun has handed its command to the engine.
QUIET_SECONDS = 30
# What PostgreSQL says to a role that is no superuser (commands/extension.c).
EXTENSION_REFUSED = re.compile("permission denied to create extension", re.IGNORECASE)
HOOK_SPEC: dict[str, Any] = {
    "type": "list",
    "elements": "dict",
    "default": [],
    "options": {
        "name": {"type": "str", "required": True},
        "command": {"type": "list", "elements": "str", "required": True},
        "timeout": {"type": "int", "required": True},
    },
}


class Steps:
    """One-off commands of a release, with the journal."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.root = Path(module.params["root"])
        self.release: str = module.params["release"] or ""
        self.folder = self.root / "releases" / self.release
        cli = module.params["docker_cli"]
        self.commands = Commands(cli, module.params["project"], self.root)
        self.docker = Docker(cli)
        self.acted = False  # whether anything was done that counts as a change

    def fail(self, message: str, **more: Any) -> NoReturn:
        """End with a message."""
        self.module.fail_json(msg=message, **more)
        raise AssertionError  # fail_json has ended the process

    def note(self, step: str, **facts: Any) -> None:
        """Write a step into the journal before anything of it is done.

        Nothing more is begun for a controller that is gone: nobody would undo what fails.
        """
        if orphaned():
            self.fail(f"The controller is gone; step {step} was not begun.")
        try:
            note(self.params, step, release=self.release, **facts)
        except NotOwnerError as error:
            self.fail(str(error))

    def collect(self) -> bool:
        """Wait for what a killed module left; return whether there was anything."""
        make_folder(self.root, ROOT_MODE)
        try:
            if not Journal(self.root, "").quiet(QUIET_SECONDS):
                self.fail(
                    "A process of an earlier step still acts on the server after"
                    f" {QUIET_SECONDS} s: find it (ps -ef), let it end or end it, and run again."
                )
            sentences = collect(self.commands, self.docker, self.note)
        except CommandError as error:
            self.fail(str(error))
        for sentence in sentences:
            self.module.warn(sentence)
        return bool(sentences)

    def run(self, command: Command, record: Callable[[Outcome], None]) -> Outcome:
        """Run a command to its end."""
        try:
            return self.commands.run(command, self.folder, record)
        except CommandError as error:
            self.fail(f"{join_words(command.argv)}: {error}")

    def hooks(
        self, point: str, hooks: Sequence[Mapping[str, Any]], succeeded: Iterable[str] = ()
    ) -> None:
        """Run the commands of a point, one after the other.

        The first one that fails ends the module. Those in `succeeded` do not run again.
        """
        for index, hook in enumerate(hooks):
            key = hook_key(point, index, hook["command"])
            if key in succeeded:
                continue
            limit = hook["timeout"]
            command = Command(HOOK, self.release, tuple(hook["command"]), limit, key)
            self.note("hook", point=point, hook=hook["name"])
            outcome = self.run(command, partial(record_outcome, self.root, command))
            self.acted = True
            action = (
                f"The hook '{hook['name']}' of rollout_hooks.{point} ({join_words(command.argv)})"
            )
            remedy = (
                "Correct its command or what it reports below; if it only needs longer, raise its"
                f" timeout (rollout_hooks.{point}, now {limit} s)."
            )
            if failure := outcome.failure(action, limit, remedy):
                self.fail(failure, rc=outcome.code)


class Migration(Steps):
    """Check, dump, commands before, migration, record and commands after, of one release."""

    def migrate(self) -> dict[str, Any]:
        """Take the steps that are still to be taken; the module's result."""
        params, release = self.params, self.release
        self.collect()
        manifest = ReleaseStore(self.root).manifests.get(release)
        if manifest is None:
            self.fail(f"Release {release} is not on this server ({self.folder}).")
        entry = valid_record(manifest, Journal(self.root, "").entries())
        first = not params["current"]
        result: dict[str, Any] = {"changed": False, "backup": {}, "output": ""}
        checked = None
        if wants_check(params["check_command"], first, params["command_changed"]):
            checked = self.check()
        migrates = wants_migration(entry, checked)
        result["pending"] = migrates
        if migrates:
            entry = self.prepare(entry, manifest, first)
            result |= self.apply(entry)
            entry = self.known()
        elif params["hooks"]["after_migrate"] and entry.get("state") not in BEGUN:
            # They run with each release: what they do need not depend on a migration.
            began = entry.get("started_at") or time.time()
            entry = self.write(begin(entry, manifest, CURRENT, started_at=began))
        self.hooks("after_migrate", params["hooks"]["after_migrate"], entry.get("hooks", []))
        result["changed"] |= self.acted
        return result

    def known(self) -> dict[str, Any]:
        """Return what the manifest has of the release's migration."""
        return dict(ReleaseStore(self.root).manifests[self.release].get("migration") or {})

    def write(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Add facts to the manifest of the release; return what it has of the migration."""
        try:
            return dict(record(self.root, self.release, facts)["migration"])
        except CommandError as error:
            self.fail(str(error))

    def check(self) -> int:
        """Ask the application whether migrations are pending; exit code of its answer."""
        argv = tuple(self.params["check_command"])
        self.note("check")
        command = Command(CHECK, self.release, argv, CHECK_SECONDS)
        outcome = self.run(command, lambda _outcome: None)
        # Any other exit code than 0 says that migrations are pending; these say that nobody knows.
        if not outcome.begun or outcome.code is None or outcome.code in UNTOLD:
            action = f"The check for pending migrations ({join_words(argv)})"
            remedy = "Correct stack_app.migrate.check_command, or leave it out."
            self.fail(outcome.failure(action, CHECK_SECONDS, remedy), rc=outcome.code)
        return outcome.code

    def prepare(
        self, entry: dict[str, Any], manifest: Mapping[str, Any], first: bool
    ) -> dict[str, Any]:
        """Dump the database and run the commands before the migration; its entry since then."""
        params = self.params
        entry |= {
            "command": list(params["command"]),
            "limit": params["timeout"],
            "changed_pattern": params["changed_pattern"] or "",
            "irreversible_pattern": params["irreversible_pattern"],
        }
        if wants_dump(entry, params["backup"], first):
            entry = self.dump(entry, manifest)
        elif path := (entry.get("backup") or {}).get("path"):
            self.compare(Path(path), entry["backup"]["sha256"])
        hooks = params["hooks"]["before_migrate"]
        if hooks:
            # What has come further is not set back by a resumed deploy.
            state = entry.get("state", DUMPING)
            state = PREPARING if state in (CURRENT, DUMPING) else state
            begun = {"started_at": entry.get("started_at") or time.time()}
            self.write(begin(entry, manifest, state, **begun))
            self.hooks("before_migrate", hooks, entry.get("hooks", []))
            entry = self.known()
        return entry

    def dump(self, entry: dict[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Dump the database into a file of its own; the entry, with it."""
        folder = self.root / "backups"
        files = {path.name for path in folder.glob("*.dump")}
        path = folder / dump_name(self.release, files, entry)
        self.note("dump", path=str(path))
        begun = {"started_at": time.time(), "dump": path.name, "backup": {}, "hooks": []}
        self.write(begin(entry, manifest, DUMPING, **begun))
        try:
            backup = self.dump_file(path)
        except (BackupError, OSError, ValueError) as error:
            self.fail(f"The database was not dumped ({path}): {error}")
        self.acted = True
        return self.write(begin(entry, manifest, DUMPING, **{**begun, "backup": backup}))

    def dump_file(self, path: Path) -> dict[str, Any]:
        """Dump the database into a file, whole or not at all; ``{path, bytes, sha256}``."""
        container = self.docker.container(self.params["project"], "postgres")
        if not container:
            raise BackupError(f"No container of postgres of {self.params['project']} runs.")
        make_folder(path.parent, 0o700)
        draft = path.with_name(f".{path.name}")
        try:
            with written(draft, "", "") as target:
                dump_postgres(self.docker, container, target, DUMP_SESSION)
            size, digest = measured(draft) or (0, "")
            draft.replace(path)
            sync_folder(path.parent)
        finally:
            draft.unlink(missing_ok=True)
        return {"path": str(path), "bytes": size, "sha256": digest}

    def compare(self, path: Path, digest: str) -> None:
        """End the module when the dump from before the migration is not what it was."""
        found = measured(path)
        if found and found[1] == digest:
            return
        what = "was altered (its SHA-256 is another one)" if found else "is gone"
        self.fail(
            f"The dump from before the migration of release {self.release}, {path}, {what}. Nothing"
            " was migrated: an attempt had begun, so that no new dump can take its place. Put"
            " the file back and deploy again; or change the inventory, which makes another release"
            " with a dump of its own, of the database as it is now."
        )

    def apply(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Run the migration and write down what came of it, at once: what is to be told of it."""
        params, argv = self.params, tuple(self.params["command"])
        manifest = ReleaseStore(self.root).manifests[self.release]
        self.note("migrate")
        self.write(begin(entry, manifest, STARTED, started_at=time.time()))
        command = Command(MIGRATE, self.release, argv, params["timeout"])
        outcome = self.run(command, partial(record_outcome, self.root, command))
        backup = entry.get("backup") or {}
        dump_words = f"; the dump from before it is {backup['path']}" if backup.get("path") else ""
        remedy = (
            "Correct stack_app.migrate.command or the migration itself; if it only needs longer,"
            f" raise stack_app.migrate.timeout (now {params['timeout']} s). What it did before it"
            f" failed stays in the database{dump_words}."
        )
        if EXTENSION_REFUSED.search(outcome.output):
            remedy = (
                "Name the extension in database_extensions: the deploy makes it as superuser before"
                f" the migrations. {remedy}"
            )
        if shortage := explain_shortage(self.docker.attempt, params["project"], outcome.output):
            remedy = f"{shortage} {remedy}"
        action = f"The migration ({join_words(argv)})"
        if failure := outcome.failure(action, params["timeout"], remedy):
            self.fail(failure, rc=outcome.code, backup=backup)
        known = ReleaseStore(self.root).manifests[self.release]
        return {
            "changed": changed(entry, outcome),
            "backup": backup,
            "irreversible": bool(known.get("irreversible")),
            "output": last_lines(outcome.output, 100),
        }
