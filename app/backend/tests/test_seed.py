"""The sample places: into the database, into the queue, and found in both languages."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
from appstack import Stack
from backend.expansion import is_korean
from backend.seed import places
from testkit import APP, Process, wait_until

COUNT = len(places())
PLACE = {"QDRANT_COLLECTION": "seeded"}  # nothing else is found in it


@pytest.fixture(scope="module")
def seeding(stack: Stack) -> Iterator[Process]:
    process = stack.worker(**PLACE)
    yield process
    process.kill()


@pytest.fixture(scope="module")
def asked(stack: Stack) -> Iterator[httpx.Client]:
    web = stack.web(**PLACE)
    with web.client() as client:
        yield client
    web.kill()


def seed(stack: Stack, **changed: str) -> subprocess.CompletedProcess[str]:
    path = f"{APP}:{APP / 'crisper-worker/src'}"
    return subprocess.run(
        [sys.executable, "-m", "backend.seed"],
        env={"PYTHONPATH": path, **stack.environment, **changed},
        cwd=APP,
        capture_output=True,
        text=True,
        timeout=60,
    )


def seeded(admin: httpx.Client) -> dict[str, str]:
    """Status by title, of those items that are seeds; fails on a title that is there twice."""
    items = admin.get("/api/admin/items", params={"limit": 500}).json()
    mine = [item for item in items if item["title"] in places()]
    assert len({item["title"] for item in mine}) == len(mine)
    return {item["title"]: item["status"] for item in mine}


def all_done(admin: httpx.Client) -> bool:
    return list(seeded(admin).values()) == ["COMPLETED"] * COUNT


def test_every_place_is_told_in_both_languages() -> None:
    assert COUNT >= 60
    for title, content in places().items():
        english, korean = content.split("\n")
        assert is_korean(title)
        assert is_korean(korean)
        assert not is_korean(english)
        assert len(title) <= 200


def test_nothing_is_done_without_the_database(stack: Stack) -> None:
    done = seed(stack, DATABASE_URL="postgresql+psycopg://crisper@127.0.0.1:1/postgres")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("seed: the database is away: ")
    assert done.stderr.count("\n") == 1


def test_what_the_broker_missed_the_next_run_queues_and_the_one_after_finds_nothing_to_do(
    stack: Stack, admin: httpx.Client
) -> None:
    away = seed(stack, CELERY_BROKER_URL="redis://127.0.0.1:1/0")
    assert (away.returncode, away.stdout) == (1, "")
    assert away.stderr.startswith("seed: the broker is away: ")
    assert away.stderr.count("\n") == 1
    assert len(seeded(admin)) == COUNT
    second = seed(stack)
    assert second.returncode == 0, second.stderr
    assert f"{COUNT} places: 0 new, 0 changed, {COUNT} unchanged" in second.stdout
    assert f"{COUNT} embeddings queued" in second.stdout
    running = stack.worker(**PLACE)
    try:
        wait_until(lambda: all_done(admin), "all places are embedded", 120, running.log)
    finally:
        running.kill()
    third = seed(stack)
    assert third.stdout == (
        f"seed: {COUNT} places: 0 new, 0 changed, {COUNT} unchanged; 0 embeddings queued\n"
    )
    assert seeded(admin).keys() == places().keys()


def test_a_place_that_is_gone_comes_back(
    stack: Stack, admin: httpx.Client, seeding: Process
) -> None:
    seed(stack)
    items = admin.get("/api/admin/items", params={"limit": 500}).json()
    lost = next(item["id"] for item in items if item["title"] in places())
    assert admin.delete(f"/api/admin/items/{lost}").status_code == 204
    assert admin.delete(f"/api/admin/items/{lost}").status_code == 404
    assert "1 new, 0 changed" in seed(stack).stdout
    wait_until(lambda: all_done(admin), "all places are embedded", 120, seeding.log)


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("royal palaces in Seoul", "Gyeongbokgung Palace · 경복궁"),
        ("서울에서 가볼 만한 궁궐은 어디인가요?", "Gyeongbokgung Palace · 경복궁"),
        ("부산 해변 추천", "Haeundae Beach · 해운대해수욕장"),
        ("제주도 동굴", "Manjanggul Lava Tube · 만장굴"),
        ("green tea", "Boseong Green Tea Fields · 보성녹차밭"),
    ],
)
def test_places_are_found_in_both_languages(
    stack: Stack, admin: httpx.Client, seeding: Process, asked: httpx.Client, query: str, title: str
) -> None:
    seed(stack)
    wait_until(lambda: all_done(admin), "all places are embedded", 120, seeding.log)
    answer = asked.post("/rag/query", json={"query": query, "top_k": 3}).json()
    assert title in [source["title"] for source in answer["sources"]], answer
    assert title in answer["answer"]
    first = answer["answer"].split("\n")[0].split(": ")[1]
    assert is_korean(first) == is_korean(query)
