"""Record of an upgrade of PostgreSQL's data that is under way: ``<root>/upgrade.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..backup.cipher import written
from .upgrade_stack import read_manifest

RECORD = "upgrade.json"
COPYING, REPLACING, REPLACED = "copying", "replacing", "replaced"


@dataclass
class Record:
    """Progress of an upgrade; in the file `old_volume` is ``kept``."""

    old: str  # major versions
    new: str
    release: str  # id of the release that needed it
    old_volume: str  # volume with the old data
    dump: str
    step: str


def parse_record(text: str) -> Record:
    """Return the record that a file has.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it has none.
    """
    facts = json.loads(text)
    return Record(old_volume=facts.pop("kept"), **facts)


def format_record(record: Record) -> str:
    """Return a record as its file has it."""
    facts = asdict(record)
    facts["kept"] = facts.pop("old_volume")
    return json.dumps(facts)


def read_record(root: Path) -> Record | None:
    """Return what an upgrade that is not proved has done; None when there is none."""
    try:
        record = parse_record((root / RECORD).read_text())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    folder = root / "releases" / record.release
    proved = "verified" in read_manifest(folder) or not folder.is_dir()
    current = root / "current"
    serves = current.is_symlink() and current.resolve().name == record.release
    return None if record.step == REPLACED and (proved or serves) else record


def write_record(root: Path, record: Record) -> None:
    """Write a record, before what it says is done."""
    draft = root / f".{RECORD}"
    draft.unlink(missing_ok=True)
    with written(draft, "", "") as target:
        target.write(format_record(record).encode())
    draft.replace(root / RECORD)


def remove_record(root: Path) -> None:
    """Remove the record."""
    (root / RECORD).unlink(missing_ok=True)
