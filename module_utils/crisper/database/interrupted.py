"""Commands, dumps and restores of a database that an interrupted deploy has left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..backup.backends.psql import end_postgres_sessions
from ..backup.manifest import BackupError
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
from ..output import first_line
from ..release.store import ReleaseStore
from .migration_plan import end, lost

# What PostgreSQL knows the sessions of a dump and of a restore by.
DUMP_SESSION, RESTORE_SESSION = "crisper-dump", "crisper-restore"
POINTS = ("before_migrate", "after_migrate")
NAMES = {CHECK: "check for pending migrations", MIGRATE: "migration", HOOK: "hook"}
# Writes a step and its facts into the journal.
Note = Callable[..., None]


def record(root: Path, release: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Add facts to a release's manifest; return the whole.

    Raises:
        CommandError: it cannot be written.
    """
    try:
        return ReleaseStore(root).annotate(release, facts)
    except (OSError, ValueError) as error:
        raise CommandError(
            f"The manifest of release {release} cannot be written: {error}. Make its folder in"
            f" {root / 'releases'} writable (df {root}, mount), and run again: what the release's"
            " migration does is recorded then."
        ) from error


def record_outcome(root: Path, command: Command, outcome: Outcome) -> None:
    """Write what became of a command into the manifest of its release, where that has a place.

    Raises:
        CommandError: it cannot be written.
    """
    entry = ReleaseStore(root).manifests.get(command.release, {}).get("migration") or {}
    if not entry:
        return
    if command.kind == MIGRATE:
        record(root, command.release, end(entry, outcome, time.time()))
    elif command.kind == HOOK and command.key.startswith(POINTS) and outcome.code == 0:
        keys = [*(key for key in entry.get("hooks", []) if key != command.key), command.key]
        record(root, command.release, {"migration": {**entry, "hooks": keys}})


def collect(commands: Commands, docker: Docker, begun: Note) -> list[str]:
    """Wait for what a killed module left running, and write down what became of it.

    One that runs is waited for up to its own time limit. Dumps that nobody takes are ended.

    Args:
        commands: those of the stack.
        docker: how its PostgreSQL is reached.
        begun: called before anything is waited for or changed.

    Returns:
        One sentence for each.

    Raises:
        CommandError: what became of one cannot be found out, or a dump does not end.
    """
    root, sentences = commands.root, []
    commands_left = commands.leftovers()
    drafts = sorted((root / "backups").glob(".*.dump"))
    if commands_left or drafts:
        begun("wait", commands=[command.name(commands.project) for command in commands_left])
    for command in commands_left:
        outcome = commands.finish(command)
        record_outcome(root, command, outcome)
        commands.remove(command)
        sentences.append(describe(command, outcome))
    for name, manifest in ReleaseStore(root).manifests.items():
        if facts := lost(manifest):
            record(root, name, facts)
            sentences.append(
                f"The migration of release {name} was cut off, and its container is gone: what it"
                " did is unknown, so it counts as irreversible."
            )
    if drafts:
        end_sessions(commands.project, docker)
        for draft in drafts:
            draft.unlink(missing_ok=True)
    return sentences


def describe(command: Command, outcome: Outcome) -> str:
    """Return what became of a command that a killed module had begun."""
    shown_command = first_line(join_words(command.argv), 100)
    what = (
        f"A {NAMES[command.kind]} of release {command.release} ({shown_command}), of a deploy that"
        " was cut off,"
    )
    if not outcome.begun:
        return f"{what} had not begun and was given up."
    if outcome.code is None:
        return f"{what} ended unseen: its container is gone."
    cut = " by a restart of the server" if outcome.cut else f" with exit code {outcome.code}"
    return f"{what} was waited for; it ended{cut}."


def end_sessions(project: str, docker: Docker) -> None:
    """End dumps and restores that go on in the database though their module is gone.

    Raises:
        CommandError: PostgreSQL does not end a session.
    """
    try:
        container = docker.container(project, "postgres")
        ended = not container or end_postgres_sessions(
            docker, container, [DUMP_SESSION, RESTORE_SESSION]
        )
    except BackupError:
        return  # a PostgreSQL that does not answer has no sessions
    if not ended:
        raise CommandError(
            f"A session of PostgreSQL named {DUMP_SESSION} or {RESTORE_SESSION}, of a dump or"
            " restore that was cut off, does not end: look at pg_stat_activity, end it"
            " (pg_terminate_backend), and run again."
        )
