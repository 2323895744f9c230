"""Findings of a whole PostgreSQL, as a deploy tells them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..text import printable, sql_identifier
from .planted import REBUILD
from .role_state import State

# Longest list of one kind in a summary; databases that are compared.
MOST = 10
MOST_DATABASES = 20


def of_roles(state: State) -> list[str]:
    """Return which other roles have powers, a sentence each."""
    return [
        f"the role {printable(role)} has powers ({printable(powers)}). If it is not yours:"
        f" DROP ROLE {sql_identifier(role)}"
        for role, powers in state.powerful
    ]


def shorten(kinds: Iterable[Sequence[str]]) -> list[str]:
    """Return the first of each kind of findings, how many more there are, and the way out."""
    lists = [list(each) for each in kinds]
    found = [sentence for each in lists for sentence in each[:MOST]]
    if more := sum(max(0, len(each) - MOST) for each in lists):
        found.append(f"and {more} more of these")
    if found:
        found.append(
            "whoever was superuser may have left these, and what no list finds. If one of them is"
            f" not yours, move the data into a new cluster: {REBUILD}"
        )
    return found
