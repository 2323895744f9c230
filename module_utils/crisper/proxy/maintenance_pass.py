"""The token that passes the maintenance page, which nginx knows by the name of a file.

nginx looks for ``/etc/crisper/passes/<header X-Crisper-Pass>``. So the token stands in no
configuration and no process list, needs no reload, and another one counts at once. Without the
folder nobody passes.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..files import make_folder

HEADER = "X-Crisper-Pass"
# Name of the token in the stack's generated secrets (M(stack_secrets)).
SECRET = "maintenance_pass"  # noqa: S105 (a name)
# What nginx accepts as the name of such a file: no dot, no slash.
TOKEN = re.compile(r"[A-Za-z0-9_-]{32,128}\Z")
# An nginx of an edition before the token lets every value pass, but no empty one.
ANY = "verify"
FOLDER = "live/nginx/passes"
# Whoever is not root may look for a name that he knows, and list nothing.
MODE = 0o711


def header_value(token: str | None) -> str:
    """Return what to send as X-Crisper-Pass; without a token, what older editions let pass."""
    return token or ANY


def place(root: Path) -> bool:
    """Make the token of ``<root>/secrets.json`` the one that passes; return whether that is new.

    Does nothing where the stack has no token or no folder for nginx yet.

    Raises:
        OSError: a file cannot be read or written.
        ValueError: secrets.json is no JSON, or its token is none.
    """
    secrets, folder = root / "secrets.json", root / FOLDER
    if not secrets.is_file() or not folder.parent.is_dir():
        return False
    token = json.loads(secrets.read_text(encoding="utf-8")).get(SECRET)
    if token is None:
        return False
    if not isinstance(token, str) or not TOKEN.match(token):
        raise ValueError(
            f"{SECRET} is not 32 to 128 letters, digits, '-' and '_': remove it from the file, and"
            " the next deploy makes another"
        )
    make_folder(folder, MODE)
    folder.chmod(MODE)
    others = [path for path in folder.iterdir() if path.name != token]
    path = folder / token
    new = not path.exists()
    if new:
        path.touch()
        path.chmod(0o444)
    for other in others:
        other.unlink()
    return new or bool(others)
