"""Decisions about a migration, as functions of plain data (no I/O).

The manifest of a release has what is known of its migration under ``migration``:

``state``       ``current``: nothing was pending; commands after it may have run. ``dumping``:
                nothing has begun but the dump. ``preparing``: commands before the migration have
                begun. ``started``: the migration may have changed the database.
                ``done`` and ``failed``: it ended with 0, or with another exit code. ``unknown``:
                it was cut off, and nobody saw its end.
``uncertain``   whether any attempt was cut off, so that nobody knows all that was done.
``before``      whether an attempt before this one counted as irreversible.
``dump``        name of the file that the dump is written to.
``hooks``       keys of the commands before and after it that have succeeded.
``command``, ``limit``, ``changed_pattern``, ``irreversible_pattern``   as they were given.
``started_at``, ``ended_at`` (Unix time), ``exit_code``, ``backup``     as they came.

The keys that others read stand beside it: ``migrated``, ``irreversible`` and ``backup``. While a
migration runs it counts as irreversible: whoever finds a record of a killed deploy is on the safe
side.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..docker.one_off import Outcome
from ..release.manifest import is_uncertain

CURRENT, DUMPING, PREPARING, STARTED = "current", "dumping", "preparing", "started"
DONE, FAILED, UNKNOWN = "done", "failed", "unknown"
# The database may not be any more as it was before: what there is of it is not dumped again.
BEGUN = frozenset({PREPARING, STARTED, DONE, FAILED, UNKNOWN})
# Steps of the journal that put another database in the place of this one.
REPLACING = frozenset({"restore_database", "restore postgres", "restore mariadb"})
# Exit codes that say that a command could not run, or was ended; 1 or 255 are its own word.
UNTOLD = frozenset({124, 125, 126, 127, 137})
IRREVERSIBLE = "(?i)irreversible"


def replaced_since(entries: Iterable[Mapping[str, Any]], moment: float) -> bool:
    """Return whether the database was put back since `moment` (Unix time), of the journal."""
    return any(
        entry.get("step") in REPLACING and float(entry.get("time", 0)) >= moment
        for entry in entries
    )


def valid_record(
    manifest: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what is known of a release's migration in the database that there is now."""
    record = dict(manifest.get("migration") or {})
    if not record or replaced_since(entries, float(record.get("started_at", 0))):
        return {}
    return record


def wants_check(check: Sequence[str], first: bool, other: bool) -> bool:
    """Return whether the application is asked if migrations are pending.

    Args:
        check: the command that asks.
        first: whether no release serves yet.
        other: whether the migration command is another one than the last release's: the check is
            about the old one too.
    """
    return bool(check) and not first and not other


def wants_migration(record: Mapping[str, Any], checked: int | None) -> bool:
    """Return whether the migration runs; `checked` is the check's exit code, None without one."""
    if checked is not None:
        return checked != 0
    return record.get("state") != DONE


def wants_dump(record: Mapping[str, Any], wanted: bool, first: bool) -> bool:
    """Return whether a dump is made; one from before the migration stays as it is.

    Args:
        record: what is known of the release's migration.
        wanted: whether dumps are made at all.
        first: whether no release serves yet, so that there is nothing to dump.
    """
    return wanted and not first and record.get("state") not in BEGUN


def dump_name(release: str, taken: Iterable[str], record: Mapping[str, Any]) -> str:
    """Return the name of the dump that is to be made: one that no file has.

    A dump after which nothing has begun is the exception: a newer one takes its place.
    """
    names = set(taken)
    if record.get("state") == DUMPING:
        names.discard(str(record.get("dump", "")))
    number = 1
    while (name := dump_file(release, number)) in names:
        number += 1
    return name


def dump_file(release: str, number: int = 1) -> str:
    """Return the name of a release's dump."""
    return f"{release}.dump" if number == 1 else f"{release}.{number}.dump"


def hook_key(point: str, index: int, argv: Sequence[str]) -> str:
    """Return what names a hook, also after the inventory was changed."""
    digest = hashlib.sha256(json.dumps(list(argv)).encode()).hexdigest()
    return f"{point}/{index}/{digest[:12]}"


def begin(
    record: Mapping[str, Any], manifest: Mapping[str, Any], state: str, **facts: Any
) -> dict[str, Any]:
    """Return what is added to the manifest before a step; `facts` go into the record."""
    entry = {**record, **facts, "state": state}
    if state != STARTED:
        return {"migration": entry}
    earlier = record.get("state") in (STARTED, DONE, FAILED, UNKNOWN)
    entry["before"] = bool(earlier and manifest.get("irreversible"))
    entry["uncertain"] = is_uncertain(record)
    for old in ("exit_code", "ended_at"):
        entry.pop(old, None)
    return {"migration": entry, "irreversible": True, "backup": entry.get("backup") or {}}


def end(record: Mapping[str, Any], outcome: Outcome, ended_at: float) -> dict[str, Any]:
    """Return what is added to the manifest when a migration has ended.

    Args:
        record: what is known of the migration.
        outcome: what became of its command.
        ended_at: the time (Unix time).
    """
    before = bool(record.get("before"))
    if not outcome.begun:
        return {"migration": {**record, "state": PREPARING}, "irreversible": before}
    limit = float(record.get("limit", 0))
    entry = {**record, "ended_at": ended_at, "exit_code": outcome.code}
    if not outcome.known(limit):
        entry |= {"state": UNKNOWN, "uncertain": True}
        return {"migration": entry, "irreversible": True}
    irreversible = matches(record.get("irreversible_pattern") or IRREVERSIBLE, outcome.output)
    if outcome.code != 0:
        # What it did before it failed may stay: each migration may be a transaction of its own.
        return {"migration": {**entry, "state": FAILED}, "irreversible": before or irreversible}
    entry["state"] = DONE
    if not changed(record, outcome):
        return {"migration": entry, "irreversible": before}
    return {"migration": entry, "migrated": True, "irreversible": before or irreversible}


def changed(record: Mapping[str, Any], outcome: Outcome) -> bool:
    """Return whether a migration that succeeded applied anything, by its output."""
    pattern = record.get("changed_pattern")
    return not pattern or matches(pattern, outcome.output)


def matches(pattern: str, text: str) -> bool:
    """Return whether a regular expression is found; line by line, as Ansible's test `search`."""
    return re.search(pattern, text) is not None


def lost(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is added to a manifest whose migration has begun and has no container any more.

    Empty when there is nothing to say.
    """
    record = manifest.get("migration") or {}
    if record.get("state") != STARTED:
        return {}
    return {"migration": {**record, "state": UNKNOWN, "uncertain": True}, "irreversible": True}
