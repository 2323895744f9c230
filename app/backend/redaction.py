"""No password and no token in a log line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import unquote, urlsplit

from backend.settings import Settings, settings

HIDDEN = "***"
SHORTEST = 6  # a shorter secret would be found inside ordinary words
SHAPES = (
    (re.compile(r"(://[^\s/:@]*:)[^\s/@]+(?=@)"), rf"\1{HIDDEN}"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), HIDDEN),
    (re.compile(r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}"), rf"\1{HIDDEN}"),
    (
        re.compile(
            r"(?i)((?:password|passwd|secret|token|api[_-]?key)[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;}]+"
        ),
        rf"\1{HIDDEN}",
    ),
)


def secrets(of: Settings) -> Iterator[str]:
    """Values of settings that are kept out of their repr, and passwords inside addresses."""
    for name, field in type(of).model_fields.items():
        value = getattr(of, name)
        if not isinstance(value, str):
            continue
        if not field.repr:
            yield value
        elif "://" in value:
            password = urlsplit(value).password or ""
            yield password
            yield unquote(password)


@lru_cache
def _values() -> re.Pattern[str] | None:
    found = {value for value in secrets(settings()) if len(value) >= SHORTEST}
    # The longest first: one secret may begin with another.
    return (
        re.compile("|".join(map(re.escape, sorted(found, key=len, reverse=True))))
        if found
        else None
    )


def redact(text: str) -> str:
    """`text` with the configured secrets, and whatever looks like one, replaced by ``***``."""
    if (values := _values()) is not None:
        text = values.sub(HIDDEN, text)
    for shape, replacement in SHAPES:
        text = shape.sub(replacement, text)
    return text
