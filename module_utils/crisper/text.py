"""Make text of others fit for a terminal, a report and a log.

Names of nodes, queues and tasks, labels, logs, answers of HTTP servers: whoever writes them may put
escape sequences, line breaks that forge a line of the summary, or 8 MB into one name. Everything
that comes out of a container, Redis, Docker or a server passes through here before a message or a
template sees it.

Pure functions, standard library only, Python 3.8: this file also runs inside containers.
"""

from __future__ import annotations

import math
import re
from typing import Any

# Characters of one text, of one line that is part of a composed text, entries of a list or mapping,
# and lists within lists.
WIDTH, LINE_WIDTH, ITEMS, DEPTH = 200, 2000, 20_000, 12
# What went wrong: an exception with file and line, or a command, which is of no use when it is cut.
ERROR_WIDTH = 500
# Spaces in a row that are left: of a text, and of the indent of a line that stands alone.
SPACES, INDENT = 4, 40
_GAP = re.compile(f" {{{SPACES + 1},}}")
# Rows of one kind in a summary.
ROWS = 50
# Of our own sentence, behind lines of somebody else: those begin with a mark.
_PUNCTUATION = re.compile(r"(?m)^[.;,] *|^ (?=\S)")
# What Python takes for printable and a terminal shows as nothing: fillers, joiners and selectors.
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def is_visible(text: str) -> bool:
    """Return whether each character of a text shows as itself on a terminal, spaces included."""
    return text.isprintable() and not INVISIBLE.search(text)


def printable(value: Any, width: int = WIDTH) -> str:
    r"""Return a text as one printable line of at most `width` characters.

    Control characters, line breaks (``U+2028`` too), direction marks, zero-width characters and
    lone surrogates are written as Python writes them: ``\x1b``, ``\u202e``. Of more than 4 spaces
    in a row 4 are left: no gap moves what follows it to the beginning of a terminal's next line.
    What is cut says how long it was. A second call changes nothing.
    """
    text = value if isinstance(value, str) else _words(value)
    return _one_line(_GAP.sub(" " * SPACES, text) if " " * (SPACES + 1) in text else text, width)


def quote(value: Any, width: int = LINE_WIDTH) -> str:
    """Return a text of somebody else as a part of one of our sentences, in quotes.

    It cannot close them, and has no runs of spaces: it cannot pass for a sentence of ours. Of
    nothing, nothing is returned.
    """
    text = value if isinstance(value, str) else _words(value)
    text = re.sub("[ \t]+", " ", text.strip()).replace("“", '"').replace("”", '"')
    return f"“{_one_line(text, width)}”" if text else ""


def _one_line(text: str, width: int) -> str:
    """Return a text as one printable line, its spaces as they are."""
    if len(text) <= width and is_visible(text):
        return text
    parts, length = [], 0
    for one in text[: width + 1]:
        part = one if is_visible(one) else _escaped(one)
        parts.append(part)
        length += len(part)
    if len(text) <= width and length <= width:
        return "".join(parts)
    end = f"… ({len(text)} characters)"
    while parts and length + len(end) > width:
        length -= len(parts.pop())
    return "".join(parts) + end


def printable_line(line: str, width: int = LINE_WIDTH) -> str:
    """Return a line of somebody else that stands on a line of its own: its indent stays, to 40."""
    line = line.replace("\t", "    ")
    rest = line.lstrip(" ")
    return " " * min(len(line) - len(rest), INDENT) + printable(rest, width)


def printable_lines(text: str, width: int = LINE_WIDTH) -> str:
    """Return a text of several lines, each of them printable; tabs become spaces.

    For texts that this project has composed: a line break of somebody else is none of its own.
    """
    return "\n".join(_one_line(line.replace("\t", "    "), width) for line in text.split("\n"))


def quoted_lines(text: str) -> str:
    """Return the lines of somebody else's log, each marked as one: none can pass for ours."""
    return "\n".join(f"| {printable_line(line)}" for line in text.split("\n"))


def quote_output(text: str) -> str:
    """Return what somebody else printed, as a part of one of our sentences.

    A single line stays in the sentence, quoted as :func:`quote` does. Several get lines of their
    own, each marked as in :func:`quoted_lines`, and the sentence goes on below them:
    :func:`composed` ends the message. Of nothing, nothing is returned.
    """
    text = text.strip()
    return f"\n{quoted_lines(text)}\n" if "\n" in text else quote(text)


def composed(text: str) -> str:
    """Return a message that has parts of :func:`quote_output`, as printable lines.

    What ends the sentence before lines of somebody else (``.``, ``;``) has no line of its own.
    """
    return printable_lines(_PUNCTUATION.sub("", text).replace(": \n| ", ":\n| ").rstrip("\n"))


def sql_identifier(name: str) -> str:
    """Return a name as SQL takes it, quoted and printable: nothing in it ends the statement.

    What is not printable is written as PostgreSQL's Unicode escapes, so that it is the same name.
    """
    quoted = name.replace('"', '""')
    if is_visible(quoted):
        return f'"{quoted}"'
    escaped = "".join(
        one if is_visible(one) else f"\\+{ord(one):06x}" for one in quoted.replace("\\", "\\\\")
    )
    return f'U&"{escaped}"'


def clean(value: Any, width: int = WIDTH, items: int = ITEMS, depth: int = DEPTH) -> Any:
    """Return plain data whose texts are printable and whose size is bounded.

    Args:
        value: what JSON may hold; anything else becomes its printable text.
        width: characters of one text, keys too; what stands below ``error`` may have 500.
        items: entries of a list or mapping; others are left out.
        depth: lists and mappings within each other; what is deeper becomes a printable text.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if value.bit_length() < 64 else _words(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str) or depth <= 0:
        return printable(value, width)
    if isinstance(value, dict):
        pairs = list(value.items())[:items] if len(value) > items else value.items()
        widths = {"error": max(width, ERROR_WIDTH)}
        return {
            printable(k, width): clean(v, widths.get(k, width), items, depth - 1) for k, v in pairs
        }
    if isinstance(value, (list, tuple)):
        return [clean(item, width, items, depth - 1) for item in value[:items]]
    return printable(value, width)


def listed(texts: Any, most: int = 20, what: str = "more") -> str:
    """Return texts as ``a, b and 3 more``; all are made printable."""
    texts = list(texts)
    head = ", ".join(printable(text) for text in texts[:most])
    more = len(texts) - most
    return f"{head} and {more} {what}" if more > 0 else head


def _escaped(one: str) -> str:
    return one.encode("unicode_escape").decode("ascii")


def _words(value: Any) -> str:
    """Return the text of a value, unless that would be endless."""
    if isinstance(value, int) and value.bit_length() >= 64:
        return f"(a number of {value.bit_length()} bits)"
    if isinstance(value, (bytes, bytearray)):
        return bytes(value[: LINE_WIDTH * 4]).decode("utf-8", "backslashreplace")
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        return f"({type(value).__name__} of {len(value)})"
    try:
        return str(value)
    except Exception as error:
        return f"({type(value).__name__} without a text: {type(error).__name__})"
