"""The file that says that a restore has begun to replace the data, and how far it came.

``<root>/restoring.json`` is there from before the first part is touched until all parts are proved
to be those of the set. While it is there the data may be of two moments, so nothing may serve it,
and no backup may take the place of a good one. A restore that is run again begins anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files import sync_folder

MARK = "restoring.json"
UNTOUCHED, BEGUN, RESTORED = "untouched", "begun", "restored"


def read_mark(root: Path) -> dict[str, Any]:
    """Return the mark of a restore that did not get to its end; empty when there is none."""
    try:
        found = json.loads((root / MARK).read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        found = {}
    # A file that cannot be read is one of a restore all the same.
    known = found if isinstance(found, dict) else {}
    name, parts = known.get("set"), known.get("parts")
    return {
        "set": name if isinstance(name, str) else "",
        "parts": parts if isinstance(parts, dict) else {},
    }


def parts_told(mark: Mapping[str, Any]) -> str:
    """Return what became of each part of the data, as half a sentence."""
    words = {
        RESTORED: "restored",
        BEGUN: "begun and not known to be whole",
        UNTOUCHED: "as before",
    }
    found: dict[str, list[str]] = {}
    for name, state in mark["parts"].items():
        found.setdefault(words.get(str(state), words[BEGUN]), []).append(str(name))
    parts = [f"{', '.join(names)}: {state}" for state, names in found.items()]
    return "; ".join(parts) or "nothing is known of its parts"


def refusal(root: Path, mark: Mapping[str, Any]) -> str:
    """Return why nothing but a restore may go on, and what to do; empty without a mark."""
    if not mark:
        return ""
    wanted = mark.get("set") or "<set id>"
    return (
        f"The restore of the backup set {mark.get('set') or '(unknown)'} did not get to its end:"
        f" {parts_told(mark)}. The data is of two moments, so it is neither served nor backed up."
        f" Run the restore again, it begins anew: ansible-playbook playbooks/restore.yml"
        f" -e backup={wanted}. To go on with the data as it is, remove {root / MARK}."
    )


class Mark:
    """The mark of one restore, written down before each step."""

    def __init__(
        self,
        root: Path,
        name: str,
        made_at: str,
        parts: Iterable[str],
        earlier: Mapping[str, Any],
    ) -> None:
        """Begin with parts that are as before, but for those that an `earlier` restore touched."""
        self.path = root / MARK
        states = dict.fromkeys(parts, UNTOUCHED)
        for part, state in dict(earlier.get("parts", {})).items():
            if state != UNTOUCHED:
                states[part] = BEGUN
        self.content: dict[str, Any] = {"set": name, "made_at": made_at, "parts": states}

    def write(self, part: str, state: str) -> None:
        """Write down that a part is BEGUN or RESTORED; on the disk when this returns.

        Raises:
            OSError: it cannot be written.
        """
        content = {**self.content, "parts": {**self.content["parts"], part: state}}
        draft = self.path.with_name(f".{MARK}.{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            with os.fdopen(os.open(draft, flags, 0o600), "w") as stream:
                stream.write(json.dumps(content) + "\n")
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)
        self.content = content
        sync_folder(self.path.parent)

    def remove(self) -> None:
        """Remove the mark: the data is of one moment.

        Raises:
            OSError: it cannot be removed.
        """
        self.path.unlink(missing_ok=True)
        sync_folder(self.path.parent)
