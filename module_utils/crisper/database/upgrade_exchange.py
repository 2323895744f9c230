"""Exchange of an old cluster's data for a new one's, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from ..backup.manifest import BackupError
from .upgrade_record import REPLACED, REPLACING, Record, remove_record, write_record
from .upgrade_stack import Stack
from .upgrade_volumes import REPLACE, copy_volume, remove_volumes


def sentence(error: object) -> str:
    """Return an error as a sentence that another one can follow."""
    return f"{str(error).rstrip().rstrip('.')}."


def dump_words(dump: str) -> str:
    """Return that a dump is there, as the end of a message; empty when it is not."""
    return f" Its dump is {dump}." if Path(dump).is_file() else ""


def put_back(stack: Stack, record: Record) -> None:
    """Give the old data its place again; whoever has it open is stopped first."""
    stack.note("upgrade: put the old data back")
    if container := stack.docker.container(stack.project, "postgres"):
        stack.docker.run("stop", container)
    what = "The old data was not put back"
    copy_volume(stack, record.old_volume, stack.volume, REPLACE, what)


def exchange(stack: Stack, record: Record, running: str) -> None:
    """Put the new cluster in the place of the old one; the old one stays in its own volume.

    Raises:
        BackupError: it failed; the message says what state the data is in.
    """
    stack.note("upgrade: exchange the data")
    record.step = REPLACING
    write_record(stack.root, record)
    try:
        what = "The new cluster was not put in place"
        copy_volume(stack, stack.scratch, stack.volume, REPLACE, what)
        record.step = REPLACED
        if record.old == record.new:
            # Every release fits it: what is written from now on is in it alone.
            remove_record(stack.root)
        else:
            write_record(stack.root, record)
    except BaseException as error:
        _undo(stack, record, running, error)


def _undo(stack: Stack, record: Record, running: str, error: BaseException) -> NoReturn:
    """Put the old data back after an exchange that failed.

    Raises:
        BackupError: always, with the state of the data.
    """
    try:
        put_back(stack, record)
        stack.docker.run("start", running)
    except BackupError as second:
        raise BackupError(
            f"{sentence(error)} The old data could not be put back either:"
            f" {sentence(second)} It is whole in the volume {record.old_volume}."
            " Run the upgrade again: it begins by putting the old data back."
            f"{dump_words(record.dump)}"
        ) from error
    remove_volumes(stack, record.old_volume)
    remove_record(stack.root)
    raise BackupError(
        f"{sentence(error)} The data is PostgreSQL {record.old}, put back in the volume"
        f" {stack.volume}, and it runs.{dump_words(record.dump)}"
    ) from error
