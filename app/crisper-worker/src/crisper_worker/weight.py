"""Bounds of the memory that a message takes once it is read.

A few bytes of JSON, or of what is compressed, make a hundred in memory: one message of 24 MB ended
Redis, or each worker that read it, and was still there afterwards. It is set aside unread.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from kombu import compression

from crisper_worker.messages import UnreadableError

SMALL = 1 << 20  # bytes that are read whatever they are
# Bytes: a container of a worker has a gigabyte, and so much for what else it does.
MOST = 256 << 20
BRACKET, COMMA = 200, 60  # bytes in memory for each
STARTERS: dict[str, Callable[[], Any]] = {
    "application/x-gzip": zlib.decompressobj,
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lzma.LZMADecompressor,
}


def check_weight(raw: bytes | str, what: str = "it") -> None:
    """Refuse a text that takes more than MOST in memory as JSON.

    Raises:
        UnreadableError: it is too heavy.
    """
    if len(raw) <= SMALL:
        return
    text = raw.encode(errors="replace") if isinstance(raw, str) else raw
    brackets = text.count(b"{") + text.count(b"[")
    weight = len(text) + BRACKET * brackets + COMMA * text.count(b",")
    if weight > MOST:
        raise UnreadableError(f"{what} has {len(text)} bytes, and takes more than {MOST} when read")


def check_body(body: Any, kind: Any) -> None:
    """Refuse a body that takes more than MOST in memory, compressed as `kind` says.

    Raises:
        UnreadableError: it is too heavy.
        Exception: one of zlib, bz2 and lzma: it cannot be decompressed.
    """
    text = body.encode(errors="replace") if isinstance(body, str) else body
    name = compression._aliases.get(kind, kind) if isinstance(kind, str) else ""
    if name in STARTERS and text:
        text = STARTERS[name]().decompress(text, MOST + 1)
        if len(text) > MOST:
            raise UnreadableError(f"its body has more than {MOST} bytes when decompressed")
    check_weight(text, "its body")
