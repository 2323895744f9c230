"""Origin of values that Ansible has read: file and line. Runs on the controller alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

try:
    from ansible._internal._datatag._tags import Origin
except ImportError:  # an Ansible that does not tell where a variable is set
    Origin = None

# Ansible's names of Python's types, as its messages have them.
CLASS = re.compile(r"(?:<class ')?(?:[\w.]+\.)?_AnsibleTagged(\w+)(?:'>)?")
VAULT_REMEDY = (
    "Give the vault's password: --ask-vault-pass or --vault-password-file, and an identity's by"
    " --vault-id."
)


def origin_of(*values: Any) -> str:
    """Return where the first of the values that tells it was read; empty if none does.

    Returns:
        ``file:line``, the file relative to the current folder, or Ansible's description.
    """
    for value in values:
        if origin := _find_origin(value):
            return origin
    return ""


def _find_origin(value: Any) -> str:
    if Origin is None or value is None:
        return ""
    origin = value if isinstance(value, Origin) else Origin.get_tag(value)
    if not origin:
        return ""
    if not origin.path:
        return str(origin.description or "").strip("<>")
    path = Path(origin.path)
    short = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{short}:{origin.line_num}" if origin.line_num else str(short)


def describe_unreadable(error: BaseException, path: str = "") -> str:
    """Return why Ansible could not read a file of the inventory, and which; with the remedy.

    Args:
        error: of Ansible; it or one of its causes has the place.
        path: of the file, if it is known.
    """
    cause: BaseException | None = error
    place = ""
    while cause is not None and not place:
        place = origin_of(getattr(cause, "obj", None))
        cause = cause.__cause__ or cause.__context__
    reason = CLASS.sub(r"\1", " ".join(str(error).split()))
    where = f" {place or path}" if place or path else ""
    if is_about_a_vault(reason):
        return f"The inventory's file{where} cannot be decrypted: {reason} {VAULT_REMEDY}"
    return (
        f"The inventory's file{where} cannot be read: {reason} Correct the file: YAML indents with"
        " spaces, names end in a colon and a space, and a text with such characters is quoted."
    )


def is_about_a_vault(reason: str) -> bool:
    """Return whether a reason is that something encrypted could not be read."""
    return "Decryption failed" in reason or "Attempting to decrypt" in reason
