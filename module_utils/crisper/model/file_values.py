"""Values as they stand in the files of a release: escaped, encoded, or as a digest (no I/O)."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from typing import Any
from urllib.parse import quote

from .validators import ENV_NAME, carried, env_text

UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


def compose_value(value: Any) -> str:
    """Return a value as it stands in a compose file: JSON (which is YAML), ``$`` doubled.

    Compose interpolates ``$NAME`` in every value; ``$$`` is its escape. What YAML takes for a
    line break or for unprintable is escaped; the rest stands as it is, because YAML knows no
    surrogate pairs (JSON's ASCII form of what lies beyond the basic plane).
    """
    text = json.dumps(value, ensure_ascii=False).replace("$", "$$")
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def env_file_line(name: str, value: Any) -> str:
    """Return ``NAME=value`` for Compose's ``env_file``: the container sees exactly `value`.

    Booleans become ``true``/``false``, lists and mappings JSON. Everything stands in double
    quotes with the escapes of compose-go's dotenv parser, the only form that can hold
    newlines, quotes and dollar signs together.

    Raises:
        ValueError: the name is not a variable name, or no process can receive the value.
    """
    if not ENV_NAME.match(name):
        raise ValueError(f"environment variable {name!r}: not a valid name")
    text = env_text(value)
    if problem := carried(text):
        raise ValueError(f"environment variable {name} {problem}")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    escaped = escaped.replace("\n", "\\n").replace("\r", "\\r")
    return f'{name}="{escaped}"'


def nginx_value(value: Any) -> str:
    """Return a text as one word of nginx's configuration; ``$`` cannot be escaped (see checks)."""
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def url_secret(value: str) -> str:
    """Return a secret as it stands in the user-info part of a URL (RFC 3986)."""
    return quote(value, safe="")


def style_hashes(page: str) -> str:
    """Return what a Content-Security-Policy says for a page's inline styles: ``'sha256-…' …``."""
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digests = (b64encode(hashlib.sha256(style.encode()).digest()).decode() for style in styles)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def short_digest(text: str) -> str:
    """Return the first 12 hex digits of the SHA-256 of `text`: they tell two contents apart."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
