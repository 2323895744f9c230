"""Sign the manifest of a backup set with a key of the stack, and judge such signatures.

The manifest has size and SHA-256 of every file of its set, the name of the set and the name of the
stack, so its signature covers all of them. The bytes of the file are signed, not what they mean:
nothing has to be brought into a canonical form. Pure functions, for controllers and servers.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re

from .manifest import BackupError

SIGNATURE = "manifest.json.hmac"
# Name of the key in `stack_secrets`, and in `secrets.json` on the server.
SECRET = "backup_signing_key"  # noqa: S105 (a name)
# Shorter keys can be guessed from a signature, without asking anybody.
MIN_KEY = 32
# What a signature was found to be.
VERIFIED, UNSIGNED, OTHER_KEY = "verified", "unsigned", "other key"
# Nothing else that is ever signed with the same key begins like this.
_PURPOSE = b"crisper backup set, format 1\n"
_NAMING = b"crisper name of a backup key\n"
_FORM = re.compile(r"hmac-sha256 ([0-9a-f]{16}) ([0-9a-f]{64})\n?\Z")


def _digest(key: str, purpose: bytes, content: bytes) -> str:
    secret = key.encode("utf-8", "surrogatepass")
    return hmac.new(secret, purpose + content, hashlib.sha256).hexdigest()


def key_name(key: str) -> str:
    """Return what names a key without telling it: 16 hexadecimal digits."""
    return _digest(key, _NAMING, b"")[:16]


def key_of(text: str, where: str) -> str:
    """Return the key in a file: ``secrets.json`` of a stack, or a file with nothing but the key.

    Raises:
        BackupError: there is no key, or a short one. The text itself is never told.
    """
    key = text.strip()
    if key.startswith("{"):
        try:
            found = json.loads(key).get(SECRET)
        except ValueError as error:
            raise BackupError(f"{where} cannot be read as JSON.") from error
        key = found if isinstance(found, str) else ""
    if not key:
        raise BackupError(
            f"{where} has no {SECRET}. The next run of playbooks/backup.yml makes one."
        )
    if len(key) < MIN_KEY:
        raise BackupError(
            f"The {SECRET} in {where} has {len(key)} characters: set stack_secrets.{SECRET} to"
            f" {MIN_KEY} or more, such as of `openssl rand -base64 32`."
        )
    return key


def signed(manifest: bytes, key: str) -> bytes:
    """Return the content of the file with the signature of a manifest."""
    return f"hmac-sha256 {key_name(key)} {_digest(key, _PURPOSE, manifest)}\n".encode()


def judge(manifest: bytes, signature: bytes | None, key: str) -> str:
    """Return VERIFIED, UNSIGNED or OTHER_KEY.

    Args:
        manifest: bytes of the manifest.
        signature: content of the signature's file; None without one.
        key: key of the stack; empty when it has none.

    Raises:
        BackupError: the manifest was altered after it had been signed with this key, or the
            signature is none. The sentence names no set.
    """
    if signature is None:
        return UNSIGNED
    match = _FORM.match(signature[:200].decode("ascii", errors="replace"))
    if not match:
        raise BackupError(f"{SIGNATURE} holds no signature, so it was damaged or altered")
    if not key:
        return OTHER_KEY
    if hmac.compare_digest(match[2], _digest(key, _PURPOSE, manifest)):
        return VERIFIED
    if hmac.compare_digest(match[1], key_name(key)):
        raise BackupError(
            "its manifest.json is not the one that was signed with this stack's key: it was altered"
        )
    return OTHER_KEY


def key_named(signature: bytes | None) -> str:
    """Return the name of the key in a signature; empty without one."""
    match = _FORM.match((signature or b"")[:200].decode("ascii", errors="replace"))
    return match[1] if match else ""
