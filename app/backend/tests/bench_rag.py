"""What parallel searches and the cache gain:  scripts/test-app -s backend/tests/bench_rag.py"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from appstack import Stack
from proxy import before_each
from test_seed import PLACE, all_done, seed
from testkit import wait_until

LATENCY = 0.5  # seconds that the slow vector database takes more
ASKED = 5  # questions of four variants each, one after the other
DISTINCT, DRAWN = 200, 500  # questions that people have, and how often they ask one
CLIENTS, EACH = 4, 25
THINGS = ["palace", "temple", "market", "beach", "museum", "island", "fortress", "garden"]
TOWNS = ["seoul", "busan", "jeju", "gyeongju", "jeonju", "gangneung", "suwon", "andong"]


@pytest.fixture(scope="module")
def places(stack: Stack, admin: httpx.Client) -> None:
    """The sample places, embedded."""
    done = seed(stack)
    assert done.returncode == 0, done.stderr
    worker = stack.worker(**PLACE)
    wait_until(lambda: all_done(admin), "all places are embedded", 120, worker.log)
    worker.kill()


@pytest.fixture(scope="module")
def slow_qdrant(qdrant: str) -> Iterator[str]:
    """URL of a proxy that hands every request on, LATENCY later."""

    with before_each(qdrant, lambda *_: time.sleep(LATENCY)) as url:
        yield url


def ask(client: httpx.Client, query: str) -> tuple[float, dict]:
    """Seconds, and the answer."""
    started = time.perf_counter()
    answer = client.post("/rag/query", json={"query": query})
    assert answer.status_code == 200, answer.text
    return time.perf_counter() - started, answer.json()


def test_parallel_against_sequential(stack: Stack, places: None, slow_qdrant: str) -> None:
    medians = {}
    for name, threads in (("sequential", "1"), ("parallel", "16")):
        web = stack.web(RAG_THREADS=threads, QDRANT_URL=slow_qdrant, RELEASE=name, **PLACE)
        try:
            with web.client() as client:
                ask(client, "warm up")  # loads the model
                timed = [ask(client, f"Where is the palace number {n}?") for n in range(ASKED)]
        finally:
            web.kill()
        assert {len(answer["variants"]) for _, answer in timed} == {4}
        assert not any(answer["cached"] for _, answer in timed)
        medians[name] = statistics.median(seconds for seconds, _ in timed)
    ratio = medians["sequential"] / medians["parallel"]
    shown = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in medians.items())
    print(f"\n4 variants, {LATENCY * 1000:.0f} ms each: {shown}: {ratio:.2f} times as fast")
    assert ratio > 3


def test_cache_under_a_zipf_mix(stack: Stack, places: None) -> None:
    chance = random.Random(7)  # noqa: S311 - the same mix in every run
    asked = [f"{thing} {town} {n}" for n in range(4) for thing in THINGS for town in TOWNS]
    weights = [1 / rank for rank in range(1, DISTINCT + 1)]
    drawn = chance.choices(asked[:DISTINCT], weights, k=DRAWN)
    web = stack.web(RELEASE="zipf", **PLACE)
    try:
        with web.client() as client:
            ask(client, "warm up")
            timed = [ask(client, query) for query in drawn]
    finally:
        web.kill()
    hits = [seconds for seconds, answer in timed if answer["cached"]]
    misses = [seconds for seconds, answer in timed if not answer["cached"]]
    ratio = len(hits) / len(timed)
    hit, miss = statistics.median(hits), statistics.median(misses)
    print(
        f"\n{DRAWN} questions of {DISTINCT} by Zipf: {ratio:.1%} from the cache; median "
        f"{hit * 1000:.1f} ms cached, {miss * 1000:.1f} ms not: {miss / hit:.1f} times as fast"
    )
    assert len(misses) == len(set(drawn))
    assert ratio > 0.5


def test_latency_under_concurrent_clients(stack: Stack, places: None) -> None:
    web = stack.web(RELEASE="concurrent", **PLACE)

    def one(number: int) -> list[float]:
        with web.client() as client:
            queries = [f"{THINGS[n % 8]} {TOWNS[number]} {n}" for n in range(EACH)]
            return [ask(client, query)[0] for query in queries]

    try:
        with web.client() as client:
            ask(client, "warm up")
        started = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            timed = [seconds for part in pool.map(one, range(CLIENTS)) for seconds in part]
        spent = time.perf_counter() - started
    finally:
        web.kill()
    p50, p95 = statistics.median(timed), statistics.quantiles(timed, n=20)[-1]
    print(
        f"\n{CLIENTS} clients, {len(timed)} uncached questions: p50 {p50 * 1000:.0f} ms, "
        f"p95 {p95 * 1000:.0f} ms, {len(timed) / spent:.0f} a second"
    )
    assert p95 < 5
