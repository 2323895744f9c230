"""A backup set: its name, its manifest, whether it is whole, whether it fits, what expires.

A set is a folder ``<root>/backups/<set id>`` with one file per part and a ``manifest.json``. Pure
functions of plain data; ``backup.set`` does the reading and writing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from ..text import WIDTH, is_visible, printable, quote

SET_ID = re.compile(r"\d{8}t\d{6}z\Z")
FORMAT = 1
MANIFEST = "manifest.json"
RELEASE = "release.json"
# In the order in which they are taken. A task that waits names rows, a row's state says that its
# vector is there: what points at something is taken before it, so no part names what is missing.
FILES = {
    "redis": "redis.rdb",
    "postgres": "postgres.dump",
    "mariadb": "mariadb.sql.gz",
    "qdrant": "qdrant.jsonl.gz",
    "uploads": "uploads.tar.gz",
}
SUFFIXES = {"": "", "age": ".age", "gpg": ".gpg"}
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}\Z")
# Fields that are printed, and what they may be; one that is not there is empty. Whoever can write
# into a set chooses them: nothing that could be taken for a sentence.
_FIELDS = {
    "stack": re.compile(r"(?:[a-z0-9][a-z0-9_-]{0,62})?\Z"),
    "made_at": re.compile(r"[0-9T:.+Z-]{0,40}\Z"),
    "release": re.compile(r"[A-Za-z0-9._+-]{0,128}\Z"),
}
_VERSION = re.compile(r"[A-Za-z0-9_.+~-]{0,60}\Z")
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


class BackupError(Exception):
    """A set cannot be made, read or put back; the message says which, why, and what to do."""


class NoConnectionError(BackupError):
    """A data service has no connection left; the message names the clients that hold them."""


def set_id(moment: datetime) -> str:
    """Return the UTC time, as release ids begin."""
    return f"{moment.astimezone(timezone.utc):%Y%m%dt%H%M%Sz}"


def made_at(name: str) -> datetime:
    """Return when the set of this id was made."""
    return datetime.strptime(name, "%Y%m%dt%H%M%Sz").replace(tzinfo=timezone.utc)


def newest(names: Iterable[str]) -> str:
    """Return the newest set; empty when there is none."""
    return max((name for name in names if SET_ID.match(name)), default="")


def parse_manifest(text: str, where: str) -> dict[str, Any]:
    """Return the manifest of a set.

    Raises:
        BackupError: it is not one, or one of another format.
    """

    def wrong(why: str) -> BackupError:
        return BackupError(
            f"{where} is not the manifest of a backup set: {why}. Choose another: -e backup=<set>."
        )

    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise wrong(str(error)) from error
    if problem := _manifest_problem(found):
        raise wrong(problem)
    return dict(found)


def _manifest_problem(found: Any) -> str:
    """Return why something is no manifest of a set; empty when it is. Sets what may be left out."""
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        version = found.get("format") if isinstance(found, dict) else type(found).__name__
        return f"its format is {_literal(version)}, this version reads {FORMAT}"
    if not isinstance(found.get("set"), str) or not SET_ID.match(found["set"]):
        return "it does not name its set"
    files, parts = found.get("files"), found.get("parts")
    if not isinstance(files, dict) or not isinstance(parts, dict) or not files:
        return "it lists no files or no parts"
    if problem := _file_problem(files) or _part_problem(parts, files):
        return problem
    encryption = found.setdefault("encryption", "")
    if not isinstance(encryption, str) or encryption not in SUFFIXES:
        return f"its encryption is {_literal(encryption)}"
    return _field_problem(found)


def _file_problem(files: dict[str, Any]) -> str:
    """Return what is wrong with the files that a manifest lists; empty for nothing."""
    for name, file in files.items():
        # The name becomes a path below the set's folder, and nowhere else.
        if not _FILE.match(name) or name == MANIFEST:
            return f"it names the file {_literal(name)}"
        fields = file if isinstance(file, dict) else {}
        digest, size = fields.get("sha256"), fields.get("bytes")
        if not _is_count(size) or not isinstance(digest, str) or not _HEX.match(digest):
            return f"size and sha256 of {name} are missing"
    return ""


def _part_problem(parts: dict[str, Any], files: dict[str, Any]) -> str:
    """Return what is wrong with the parts that a manifest lists; empty for nothing."""
    for name, part in parts.items():
        fields = part if isinstance(part, dict) else {}
        file = fields.get("file")
        if name not in FILES or not isinstance(file, str) or file not in files:
            return f"the part {_literal(name)} is unknown or its file is not listed"
        uploads = fields.get("uploads")
        if name == "uploads" and not (
            isinstance(uploads, dict) and all(_is_count(uploads.get(n)) for n in ("files", "bytes"))
        ):
            return "it does not tell how many files and bytes were uploaded"
    return ""


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _field_problem(manifest: Mapping[str, Any]) -> str:
    """Return which field that is printed somewhere has not the form that it must have.

    Names of tables and collections are the application's: they are escaped where they are printed.
    """
    fields = [(name, manifest.get(name, ""), form) for name, form in _FIELDS.items()]
    for name, part in manifest["parts"].items():
        fields.append((f"version of {name}", part.get("version", ""), _VERSION))
    for name, value, form in fields:
        if not isinstance(value, str) or not form.match(value):
            return f"its {name} is {_literal(value)}, which is none"
    for name in ("host", "made_by"):  # free texts
        value = manifest.get(name, "")
        if not isinstance(value, str) or len(value) > WIDTH or not is_visible(value):
            return f"its {name} is {_literal(value)}, which is no text of one line"
    return ""


def _literal(value: object) -> str:
    """Return a value of somebody else as a short literal that can be printed."""
    return printable(ascii(value), 80)


def misplaced(manifest: Mapping[str, Any], folder: str) -> str:
    """Return why a set is not the one that its folder names; empty when it is.

    A set keeps its signature under any name. So an old one under a new name would be taken for new.
    """
    if manifest["set"] == folder:
        return ""
    return (
        f"The folder {folder} holds another set: {manifest['set']} of {manifest.get('stack')}, made"
        f" {manifest.get('made_at')}. It was renamed, or put in the place of {folder}. If you want"
        f" that set, name the folder {manifest['set']}, and choose it with"
        f" -e backup={manifest['set']}."
    )


def remote_warning(tool: str, target: str, encryption: str, encrypted: bool) -> str:
    """Return what an operator has to know of a copy in plain; empty when there is none.

    Args:
        tool: backup_remote_tool.
        target: backup_remote_target.
        encryption: backup_encryption.
        encrypted: backup_remote_encrypted, whether the remote encrypts by itself.
    """
    if not tool or encryption or encrypted:
        return ""
    return (
        f"Backup sets are copied to {target or 'the remote'} by {tool} without encryption: whoever"
        " can read there has the database, the uploaded files and the queues. Set"
        " backup_encryption (age or gpg) and backup_recipient. If the remote encrypts by itself (a"
        " crypt remote of rclone), set backup_remote_encrypted: true."
    )


def damage(
    manifest: Mapping[str, Any], measures: Mapping[str, tuple[int, str] | None]
) -> list[str]:
    """Return what is wrong with the files of a set, a sentence each; nothing when it is whole.

    Args:
        measures: file name -> ``(bytes, sha256)`` as it lies there, None when it is missing.
    """
    problems = []
    owners = {file["sha256"]: name for name, file in manifest["files"].items()}
    for name, file in sorted(manifest["files"].items()):
        actual = measures.get(name)
        if actual is None:
            problems.append(f"{name} is missing, or no regular file")
        elif actual[1] != file["sha256"] and actual[1] in owners:
            problems.append(f"{name} holds what {owners[actual[1]]} has to hold: they were swapped")
        elif actual[0] != file["bytes"]:
            problems.append(f"{name} has {actual[0]} bytes, {file['bytes']} expected")
        elif actual[1] != file["sha256"]:
            problems.append(f"the checksum of {name} is not the one in the manifest")
    return problems


def version_numbers(text: str) -> tuple[int, ...]:
    """Return the first dotted number of a version text, such as ``(17, 6)``; empty without one."""
    match = _NUMBERS.search(text)
    return tuple(int(piece) for piece in match[0].split(".")) if match else ()


def misfits(manifest: Mapping[str, Any], running: Mapping[str, str]) -> list[str]:
    """Return why the set does not fit the services that run; nothing when it does.

    A service reads what the same or an older version of it wrote. PostgreSQL counts by its major
    version, the others by major and minor.

    Args:
        running: service -> version text.
    """
    problems = []
    for name, part in sorted(manifest["parts"].items()):
        if name not in running:
            problems.append(f"the set has {name}, which this stack does not run")
            continue
        digits = 1 if name == "postgres" else 2
        theirs, ours = version_numbers(str(part.get("version"))), version_numbers(running[name])
        if not theirs or not ours or theirs[:digits] > ours[:digits]:
            problems.append(
                f"{name} {part.get('version')} wrote it, and {name} {running[name]} cannot be"
                f" relied on to read it (set image_refs.{name} to that version or a newer one)"
            )
    return problems


def newer_than_code(manifest: Mapping[str, Any], release: str, head: Iterable[str]) -> list[str]:
    """Return whether the set's schema is of a later release than the one that serves.

    Args:
        release: id of the release that serves.
        head: migration head of its database; the same head fits whatever the release is.
    """
    heads = manifest["parts"].get("postgres", {}).get("migration_head")
    theirs = [str(name) for name in heads] if isinstance(heads, list) else []
    made_by = str(manifest.get("release", ""))
    if theirs == list(head) or made_by <= release:
        return []
    migration = quote(", ".join(theirs), WIDTH) or "none"
    return [
        f"its database is of release {made_by} (migration {migration}), which is newer than"
        f" {release or 'the empty stack'} that serves: deploy that version first"
    ]


def to_expire(names: Iterable[str], keep: int, days: float, now: datetime) -> list[str]:
    """Return the sets that may go, oldest first.

    All but the newest `keep`, and those older than `days`. The newest always stays. Names that are
    no set ids are left alone.

    Args:
        keep: at least 1.
        days: 0 for no limit of age.
    """
    sets = sorted(name for name in names if SET_ID.match(name))
    beyond = set(sets[: max(0, len(sets) - max(1, keep))])
    if days:
        beyond |= {name for name in sets[:-1] if made_at(name) < now - timedelta(days=days)}
    return sorted(beyond)


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return what restored data lacks of what the manifest tells of it, a sentence each."""
    problems = []
    for key in ("migration_head", "rows", "tables", "vectors", "uploads"):
        if key not in expected:
            continue
        wanted, got = expected[key], found.get(key)
        if isinstance(wanted, Mapping) and isinstance(got, Mapping):
            problems += [
                f"{key} of {printable(name)}: {printable(got.get(name))} instead of"
                f" {printable(wanted.get(name))}"
                for name in sorted({*wanted, *got})
                if wanted.get(name) != got.get(name)
            ]
        elif wanted != got:
            problems.append(f"{key}: {_literal(got)} instead of {_literal(wanted)}")
    return problems
