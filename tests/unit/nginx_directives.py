"""Read the directives of an nginx configuration."""

from __future__ import annotations

import re
from collections import Counter


def directives(text: str) -> Counter[tuple[str, ...]]:
    """The directives of an nginx configuration, blocks included, as nginx splits it."""
    token = re.compile(r"""\s+|\#[^\n]*|([;{}])|("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s;{}]+)""")
    found: Counter[tuple[str, ...]] = Counter()
    words: list[str] = []
    depth = at = 0
    while at < len(text):
        match = token.match(text, at)
        assert match, text[at:]
        at = match.end()
        if match[2]:
            words.append(match[2])
        elif match[1]:
            depth += {"{": 1, "}": -1}.get(match[1], 0)
            assert depth >= 0
            assert bool(words) is (match[1] != "}")
            found[(str(depth), *words)] += bool(words)
            words = []
    assert depth == 0
    return +found
