"""Itineraries: planned from real places, and the plan itself for any places."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from appstack import Stack
from backend.expansion import is_korean
from backend.itinerary import STOPS, note, plan
from backend.passages import Passage
from hypothesis import given
from hypothesis import strategies as st
from testkit import wait_until

COLLECTION = "planned"
TOWNS = ["Seoul", "Busan", "Gyeongju", "Jeonju", "Suwon"]
PASSAGE = st.builds(
    Passage, st.integers(1, 40), st.sampled_from("abcdefghijklmnopqrst"), st.text(), st.just(0.5)
)
FOUND = st.lists(st.tuples(st.text(min_size=1), st.lists(PASSAGE, max_size=20)), max_size=10)


@given(st.integers(1, 14), FOUND, st.booleans())
def test_no_place_twice_and_days_alike(days: int, found: list[tuple], korean: bool) -> None:
    planned = plan(days, found, korean)
    assert planned == plan(days, found, korean)
    assert len(planned) == days
    lengths = [len(stops) for stops in planned]
    assert max(lengths) <= STOPS
    assert max(lengths) - min(lengths) <= 1
    for attribute in ("id", "title"):
        seen = [getattr(stop, attribute) for stops in planned for stop in stops]
        assert len(seen) == len(set(seen))
    known = {place.id for _, places in found for place in places}
    assert {stop.id for stops in planned for stop in stops} <= known
    assert (note(days, sum(lengths), korean) is None) == (sum(lengths) == days * STOPS)


def test_every_interest_has_its_turn() -> None:
    palaces = [Passage(n, f"palace {n}", "A palace.", 1) for n in range(10)]
    beaches = [Passage(n, f"beach {n}", "A beach.", 0.1) for n in range(10, 20)]
    (day,) = plan(1, [("palace", palaces), ("beach", beaches)], False)
    assert [stop.why for stop in day] == ["palace: A palace.", "beach: A beach."] * 2


@pytest.fixture(scope="module")
def client(stack: Stack, admin: httpx.Client) -> Iterator[httpx.Client]:
    """Of a web process that knows ten places."""
    items = [
        {"title": f"{kind} of {town}", "content": f"A {kind} in {town}.\n{town}의 {korean}입니다."}
        for kind, korean in (("palace", "궁궐"), ("market", "시장"))
        for town in TOWNS
    ]
    made = [item["id"] for item in admin.post("/api/admin/items", json=items).json()]
    worker = stack.worker("planned", QDRANT_COLLECTION=COLLECTION)
    for item in made:
        stack.send(item, "planned")

    def embedded() -> bool:
        shown = [admin.get(f"/api/admin/items/{item}").json()["status"] for item in made]
        return shown == ["COMPLETED"] * len(made)

    wait_until(embedded, "the places are embedded", log=worker.log)
    worker.kill()
    web = stack.web(QDRANT_COLLECTION=COLLECTION)
    with web.client() as client:
        yield client
    web.kill()


def trip(client: httpx.Client, **asked: object) -> dict:
    answer = client.post("/itinerary", json=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def stops(planned: dict) -> list[dict]:
    return [stop for day in planned["days"] for stop in day["stops"]]


def test_two_days_of_what_was_asked_for(client: httpx.Client) -> None:
    planned = trip(client, days=2, interests=["palaces", "markets"])
    assert planned["note"] is None
    assert [day["day"] for day in planned["days"]] == [1, 2]
    assert [len(day["stops"]) for day in planned["days"]] == [STOPS, STOPS]
    assert len({stop["id"] for stop in stops(planned)}) == 2 * STOPS
    for day in planned["days"]:
        kinds = [stop["title"].split(" ")[0] for stop in day["stops"]]
        assert kinds == ["palace", "market"] * 2
    for stop in stops(planned):
        assert stop["why"].startswith(("palaces: A palace in", "markets: A market in"))
    assert trip(client, days=2, interests=["palaces", "markets"]) == planned


def test_too_few_places_make_shorter_days_and_are_told(client: httpx.Client) -> None:
    planned = trip(client, days=4, interests=["palaces"])
    assert [len(day["stops"]) for day in planned["days"]] == [3, 3, 2, 2]
    assert planned["note"] == "There are too few places to fill 4 days: 10 found."
    assert [len(day["stops"]) for day in trip(client, days=14, interests=["x"])["days"]] == (
        [1] * 10 + [0] * 4
    )


def test_the_language_is_that_of_the_interests_unless_told(client: httpx.Client) -> None:
    for asked, korean in (
        ({"interests": ["궁궐"]}, True),
        ({"interests": ["palace"]}, False),
        ({"interests": ["palace"], "language": "ko"}, True),
        ({"interests": ["궁궐"], "language": "en"}, False),
    ):
        planned = trip(client, days=3, **asked)
        assert is_korean(planned["note"]) == korean
        for stop in stops(planned):
            assert is_korean(stop["why"].split(": ")[1]) == korean


def test_without_any_place_the_days_are_empty(stack: Stack) -> None:
    web = stack.web(QDRANT_COLLECTION="never-made")
    try:
        with web.client() as client:
            planned = trip(client, days=2, interests=["palaces"])
    finally:
        web.kill()
    assert planned["days"] == [{"day": 1, "stops": []}, {"day": 2, "stops": []}]
    assert "0 found" in planned["note"]


def test_without_qdrant_it_is_a_503(stack: Stack) -> None:
    web = stack.web(QDRANT_URL="http://127.0.0.1:1")
    try:
        with web.client() as client:
            answer = client.post("/itinerary", json={"days": 14, "interests": ["a"] * 10})
            assert answer.status_code == 503
            assert "vector database" in answer.json()["detail"]
    finally:
        web.kill()


@pytest.mark.parametrize(
    "changed",
    [
        {"days": 0},
        {"days": 15},
        {"days": "two"},
        {"days": None},
        {"interests": []},
        {"interests": ["x"] * 11},
        {"interests": ["x", " "]},
        {"interests": ["x\x00"]},
        {"interests": ["x" * 201]},
        {"interests": "palaces"},
        {"language": "fr"},
    ],
)
def test_a_wrong_trip_is_told(client: httpx.Client, changed: dict) -> None:
    answer = client.post("/itinerary", json={"days": 1, "interests": ["x"], **changed})
    assert answer.status_code == 422, answer.text
    assert answer.json()["detail"]
