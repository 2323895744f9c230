"""Judge whether text can do harm to a terminal."""

from __future__ import annotations

import unicodedata
from typing import Any


def harmless(text: str) -> bool:
    """Whether a terminal shows every character of the text, and shows it where it stands."""
    bad = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    return all(unicodedata.category(one) not in bad for one in text)


def texts_of(value: Any) -> list[str]:
    """All texts in plain data, keys too."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in texts_of(part)]
    return [text for item in value for text in texts_of(item)] if isinstance(value, list) else []
