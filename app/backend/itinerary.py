"""Days out of places that were found: pure, and the same for the same places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

from backend.expansion import terms
from backend.extract import best
from backend.passages import Passage

STOPS = 4  # a day at most


@dataclass(frozen=True)
class Stop:
    """A place to go to, and why."""

    id: int
    title: str
    why: str


def plan(
    days: int, found: Sequence[tuple[str, Sequence[Passage]]], korean: bool
) -> list[list[Stop]]:
    """STOPS places a day at most, from what was found for each interest, the best first.

    The interests take turns, no place (by id or title) comes twice, and no day has two places
    more than another. Days without a place are empty.
    """
    turns = zip_longest(*[[(interest, place) for place in places] for interest, places in found])
    chosen: list[Stop] = []
    ids: set[int] = set()
    titles: set[str] = set()
    for interest, place in (turn for row in turns for turn in row if turn is not None):
        if place.id in ids or place.title in titles or len(chosen) == days * STOPS:
            continue
        ids.add(place.id)
        titles.add(place.title)
        sentence, _ = best(terms(interest), place, korean)
        chosen.append(Stop(place.id, place.title, f"{interest.strip()}: {sentence}"))
    # One after another, so that every day has something for every interest.
    each, longer = divmod(len(chosen), days)
    ends = [day * each + min(day, longer) for day in range(days + 1)]
    return [chosen[start:end] for start, end in pairwise(ends)]


def note(days: int, stops: int, korean: bool) -> str | None:
    """What to tell when the places do not fill the days; None when they do."""
    if stops == days * STOPS:
        return None
    if korean:
        return f"{days}일을 채우기에는 장소가 부족합니다. 찾은 장소는 {stops}곳입니다."
    return f"There are too few places to fill {days} days: {stops} found."
