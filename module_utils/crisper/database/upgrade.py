"""PostgreSQL's data brought into a new cluster: dump, restore, comparison, exchange.

Of another major version, or of the same one, where nothing that a former superuser has planted in
the old cluster comes along. The old data is copied into a volume of its own before its place is
taken. It is put back from there when the release that needed another version is given up; a new
cluster of the same version fits every release, and stays.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..backup.manifest import BackupError, set_id
from .upgrade_checks import refuse_what_a_dump_lacks, refuse_without_room
from .upgrade_cluster import NewCluster, dump_database, wait_until_ready
from .upgrade_exchange import dump_words, exchange, put_back, sentence
from .upgrade_record import (
    COPYING,
    REPLACED,
    Record,
    read_record,
    remove_record,
    write_record,
)
from .upgrade_stack import Stack
from .upgrade_volumes import COPY, copy_volume, remove_volumes


class Upgrade:
    """The databases of one stack, made to fit a release."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.docker = stack, stack.docker

    # --- Making the data fit ---------------------------------------------------------------
    def prepare(self, upgrade: bool, rebuild: bool = False) -> dict[str, Any]:
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
        if "postgres" not in self.stack.images():
            return result
        result |= self.settle_record()
        misfits = self.stack.misfits()
        old, new = self.stack.versions()
        result |= {"from": old, "to": new}
        if upgrade and [each.service for each in misfits] == ["postgres"] and int(old) < int(new):
            self.refuse_early()
            return {**result, "needed": True}
        if misfits:
            reasons = "; ".join(f"{each.message}: {each.remedy}" for each in misfits)
            raise BackupError(f"{reasons}. The data was not touched.")
        if upgrade and rebuild and old and old == new:
            self.refuse_early()
            return {**result, "needed": True}
        return result

    def settle_record(self) -> dict[str, Any]:
        """End an upgrade that was cut off or given up; return what of the result it changes."""
        stack, record = self.stack, read_record(self.stack.root)
        if not record:
            return {}
        if record.step != REPLACED or stack.versions()[1] == record.old:
            result = {}
            if record.step != COPYING:
                put_back(stack, record)
                result = {"changed": True, "put_back": record.old_volume}
            remove_volumes(stack, record.old_volume)
            remove_record(stack.root)
            return result
        if record.release != stack.release.name:
            record.release = stack.release.name
            write_record(stack.root, record)
        return {}

    def refuse_early(self) -> None:
        """Raise BackupError for what would refuse an upgrade, before anything stands still."""
        if running := self.docker.container(self.stack.project, "postgres"):
            refuse_what_a_dump_lacks(self.docker, running)
            refuse_without_room(self.docker, running, self.stack.volume)

    # --- The upgrade -----------------------------------------------------------------------
    def upgrade(self) -> dict[str, Any]:
        """Bring the data into a new cluster of the release's image.

        Returns:
            ``{changed, from, to, kept, dump, rows, settings}``.

        Raises:
            BackupError: it failed; the message says what state the data is in.
        """
        stack, (old, new) = self.stack, self.stack.versions()
        running = self.start_old()
        if not running:
            raise BackupError(
                f"PostgreSQL {old} of {stack.project} does not run, so its data cannot be dumped:"
                " set image_refs.postgres back, deploy, and run the upgrade again."
                " The data was not touched."
            )
        settings = refuse_what_a_dump_lacks(self.docker, running)
        refuse_without_room(self.docker, running, stack.volume)
        stamp = set_id(datetime.now(timezone.utc))
        what = f"rebuild-{old}" if old == new else f"upgrade-{old}-to-{new}"
        dump = str(stack.root / "backups" / f"{what}-{stamp}.dump")
        old_volume = f"{stack.project}_postgres_{old}_{stamp}"
        record = Record(old, new, stack.release.name, old_volume, dump, COPYING)
        remove_volumes(stack)
        write_record(stack.root, record)
        facts = self.copy(record, running)
        exchange(stack, record, running)
        remove_volumes(stack)
        result = {"changed": True, "from": old, "to": new, "kept": old_volume, "dump": dump}
        return {**result, "rows": facts["rows"], "settings": settings}

    def copy(self, record: Record, running: str) -> dict[str, Any]:
        """Dump the data into a new cluster and copy it into a volume of its own.

        Returns:
            What was counted in the dump.

        Raises:
            BackupError: it failed; the old data is in its place.
        """
        stack, docker, dump = self.stack, self.docker, Path(record.dump)
        try:
            facts = dump_database(stack, running, dump)
            NewCluster(stack, running).fill(dump, facts, record.old == record.new)
            stack.note("upgrade: keep the old data")
            docker.run("stop", running)
            label = f"crisper.stack={stack.project}"
            docker.run("volume", "create", "--label", label, record.old_volume)
            what = "The old data was not copied"
            copy_volume(stack, stack.volume, record.old_volume, COPY, what)
        except BaseException as error:
            self.give_up(record, running, error)
            raise
        return facts

    def give_up(self, record: Record, running: str, error: BaseException) -> None:
        """Start the old server again and remove what has been made of the new one.

        Raises:
            BackupError: that is what `error` is; with the state of the data.
        """
        problem = ""
        try:
            self.docker.run("start", running)
        except BackupError as second:
            problem = str(second)
        remove_volumes(self.stack, record.old_volume)
        remove_record(self.stack.root)
        if isinstance(error, BackupError):
            state = f"It does not run: {sentence(problem)}" if problem else "It runs."
            raise BackupError(
                f"{sentence(error)} The data is PostgreSQL {record.old}, as it was, in the volume"
                f" {self.stack.volume}. {state}{dump_words(record.dump)}"
            ) from error

    def start_old(self) -> str:
        """Return the container with the old data, started when it does not run; empty without."""
        project = self.stack.project
        if running := self.docker.container(project, "postgres"):
            return running
        label = "label=com.docker.compose"
        stopped = self.docker.run(
            *("ps", "--all", "--quiet", "--no-trunc", "--filter", f"{label}.oneoff=False"),
            *("--filter", f"{label}.project={project}"),
            *("--filter", f"{label}.service=postgres"),
        ).split()
        if not stopped:
            return ""
        self.docker.run("start", stopped[0])
        wait_until_ready(self.stack, stopped[0])
        return stopped[0]

    def describe(self, old_volume: str, dump: str) -> dict[str, Any]:
        """Return what there is after an upgrade whose release failed, in words.

        Args:
            old_volume: the volume with the old data that the upgrade made.
            dump: its dump.

        Returns:
            ``{changed, words}``.
        """
        stack = self.stack
        now = stack.version() or "unknown"
        there, _out, _err = stack.call("volume", "inspect", "--format", "{{.Name}}", old_volume)
        words = [
            f"the volume {stack.volume} has data of PostgreSQL {now}",
            f"the data from before the upgrade is kept in the volume {old_volume}"
            if there == 0
            else f"there is no volume {old_volume} any more",
            f"its dump is {dump}" if Path(dump).is_file() else f"its dump {dump} is not there",
        ]
        return {"changed": False, "words": "; ".join(words)}
