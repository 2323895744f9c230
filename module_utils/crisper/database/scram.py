"""Passwords as PostgreSQL stores them: SCRAM-SHA-256."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import stringprep
import unicodedata

ITERATIONS = 4096
MOST_ITERATIONS = 1_000_000
VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d{1,10}):([^$]+)\$([^:]+):(.+)\Z")
VERIFIERS = re.compile(r"(?:SCRAM-SHA-256\$|md5)[A-Za-z0-9+/=:$]{20,}")


def saslprep(text: str) -> str:
    """Return a password as PostgreSQL prepares it (RFC 4013); what it refuses stays as it is."""
    if text.isascii():
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in text
        if not stringprep.in_table_b1(char)
    )
    ready = unicodedata.normalize("NFKC", mapped)
    tables = ("c12", "c21_c22", "c3", "c4", "c5", "c6", "c7", "c8", "c9", "a1")
    checks = [getattr(stringprep, f"in_table_{table}") for table in tables]
    if not ready or any(check(char) for check in checks for char in ready):
        return text
    if any(map(stringprep.in_table_d1, ready)):
        ends = stringprep.in_table_d1(ready[0]) and stringprep.in_table_d1(ready[-1])
        if not ends or any(map(stringprep.in_table_d2, ready)):
            return text
    return ready


def scram_verifier(password: str, salt: bytes = b"", iterations: int = ITERATIONS) -> str:
    """Return what PostgreSQL stores of a password: it need not be told the password itself."""
    salt = salt or os.urandom(16)
    word = saslprep(password).encode()
    salted = hashlib.pbkdf2_hmac("sha256", word, salt, iterations)
    client = hmac.new(salted, b"Client Key", "sha256").digest()
    server = hmac.new(salted, b"Server Key", "sha256").digest()
    parts = (salt, hashlib.sha256(client).digest(), server)
    words = [base64.b64encode(part).decode() for part in parts]
    return f"SCRAM-SHA-256${iterations}:{words[0]}${words[1]}:{words[2]}"


def matches(password: str, verifier: str, role: str = "") -> bool:
    """Return whether a stored verifier is that of a password.

    Args:
        role: its name, where a verifier of the old kind (md5) is good enough.
    """
    if role and verifier.startswith("md5"):
        digest = hashlib.md5((password + role).encode(), usedforsecurity=False).hexdigest()
        return hmac.compare_digest(f"md5{digest}", verifier)
    match = VERIFIER.match(verifier)
    # A role chooses its own verifier, and so how long this would take.
    if not match or not 0 < int(match[1]) <= MOST_ITERATIONS:
        return False
    try:
        salt = base64.b64decode(match[2])
    except ValueError:
        return False
    wanted = scram_verifier(password, salt, int(match[1]))
    return hmac.compare_digest(wanted.encode(), verifier.encode())
