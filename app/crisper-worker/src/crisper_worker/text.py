"""Text of others, fit for a log and a terminal."""

from __future__ import annotations

import re

# What Python takes for printable and a terminal shows as nothing: fillers, joiners and selectors.
# The same as in the controller's module_utils/crisper/text.py.
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)

WRITER = "Something writes into Redis that is not Celery's (docs/CHECKLIST.md, unreadable_data)"


def printable(text: str) -> str:
    """Return a text whose invisible and control characters and lone surrogates are written out."""
    if text.isprintable() and not INVISIBLE.search(text):
        return text
    return "".join(
        one
        if one.isprintable() and not INVISIBLE.match(one)
        else one.encode("unicode_escape").decode("ascii")
        for one in text
    )


def shorten(text: str, width: int = 200) -> str:
    """Return a text as one printable line of `width` characters at most."""
    line = printable(text[: width + 1])
    return line if len(line) <= width else f"{line[: width - 1]}…"
