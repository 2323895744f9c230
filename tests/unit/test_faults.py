"""What the driver of the fault matrix makes of what it sees."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from faults.cell import again
from faults.faults import FAULTS
from faults.server import Container, Server, parse_containers
from faults.table import BEGIN, END, placed, published, render
from faults.verdict import complaints
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
LISTING = """\
dc63 celery-worker 20261121t1 Up 4 minutes (healthy)
ae01 redis  Up 5 minutes (healthy)
0f7a backend 20261121t1 Up 2 seconds (health: starting)
77aa   Up 3 hours
"""
IDLE = {"fault": "worker_kill", "phase": "idle", "error": "", "lasted": 1.0, "recovered": 6.0}
LOAD = {
    **IDLE,
    "phase": "load",
    "requests": {"sent": 1200, "failed": 0, "errors": []},
    "beside": {"sent": 120, "failed": 3, "errors": ["3 x HTTP 503"]},
    "tasks": {"accepted": 90, "refused": 0, "lost": 0, "doubled": 0, "twice": 1, "missing": []},
    "embeddings": {"accepted": 30, "refused": 0, "lost": 0, "errors": []},
    "again": 2,
    "again_after": 33.5,
}
DEPLOY = {"hit": 2, "serves": "old", "whole": True, "next": 0, "next_whole": True, "told": ""}
KILL = FAULTS["worker_kill"]


def test_containers_are_told_by_service_release_and_health() -> None:
    assert parse_containers(LISTING) == [
        Container("dc63", "celery-worker", "20261121t1", True),
        Container("ae01", "redis", "", True),
        Container("0f7a", "backend", "20261121t1", False),
    ]


@pytest.mark.parametrize(
    ("services", "healthy", "whole"),
    [
        (["redis", "backend"], True, True),
        (["redis", "backend", "backend"], True, True),  # a rollout has both for a while
        (["redis", "backend"], False, False),
        (["redis"], True, False),
    ],
)
def test_a_stack_is_whole_when_nothing_is_missing_or_ill(
    monkeypatch: pytest.MonkeyPatch, services: list, healthy: bool, whole: bool
) -> None:
    seen = [Container("1", service, "r", healthy) for service in services]
    monkeypatch.setattr(Server, "containers", lambda _: seen)
    assert Server("x").is_whole(Counter(redis=1, backend=1)) == whole


def test_in_a_rollout_the_container_that_serves_is_hurt(monkeypatch: pytest.MonkeyPatch) -> None:
    newest_first = [
        Container("new", "backend", "r2", False),
        Container("old", "backend", "r1", True),
    ]
    monkeypatch.setattr(Server, "containers", lambda _: newest_first)
    assert Server("x").container("backend") == "old"


def test_tasks_that_a_fault_interrupts_are_those_that_begin_again() -> None:
    begun = {
        "done": [10.0],
        "cut": [18.0, 52.5],
        "cut twice": [19.0, 40.0, 70.0],
        "meanwhile": [20.5, 50.0],
        "later": [21.5, 22.0],  # was not there yet
        "earlier": [10.0, 12.0],
    }
    assert again(begun, 20.0, 1.0) == {"again": 3, "again_after": 32.5}
    assert again({"done": [10.0]}, 20.0, 0.0) == {"again": 0, "again_after": None}


def test_a_cell_that_kept_everything_has_no_complaint() -> None:
    assert complaints(IDLE, KILL) == []
    assert complaints({**LOAD, "deploy": DEPLOY}, KILL) == []
    assert complaints({"fault": "oom", "phase": "idle", "error": "", "cannot": "x"}, KILL) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"error": "not within 240 s: all is healthy"}, "not measured to its end"),
        ({"recovered": 61.0}, "recovered after 61.0 s, not 60 s"),
        ({"tasks": {**LOAD["tasks"], "lost": 2}}, "tasks lost: 2 of 90"),
        ({"tasks": {**LOAD["tasks"], "doubled": 1}}, "tasks doubled: 1 of 90"),
        (
            {"embeddings": {"accepted": 30, "lost": 1, "errors": ["FAILED: x"]}},
            "embeddings lost: 1 of 30: FAILED: x",
        ),
        ({"again_after": 61.5}, "ran again after 61.5 s"),
        ({"again_after": 81.5, "lasted": 20.0}, "ran again after 81.5 s"),
        ({"requests": {"sent": 1200, "failed": 1, "errors": []}}, "requests failed: 1 of 1200"),
        (
            {"deploy": {**DEPLOY, "next": 2, "told": "no"}},
            "next deploy did not put it in order: no",
        ),
        ({"deploy": {**DEPLOY, "next_whole": False}}, "next deploy did not put it in order"),
    ],
)
def test_what_breaks_a_promise_is_said(changed: dict, said: str) -> None:
    (complaint,) = complaints({**LOAD, **changed}, KILL)
    assert said in complaint


def test_requests_may_fail_where_what_answers_dies() -> None:
    cell = {**LOAD, "fault": "nginx_kill", "requests": {"sent": 9, "failed": 4, "errors": []}}
    assert complaints(cell, FAULTS["nginx_kill"]) == []


def test_the_table_tells_every_cell_and_what_was_not_run() -> None:
    unmeasured = {"fault": "redis_kill", "phase": "idle", "error": "a |\nb"}
    cannot = {"fault": "oom", "phase": "load", "error": "", "cannot": "no kernel log"}
    cells = [IDLE, LOAD, {**LOAD, "phase": "deploy", "deploy": DEPLOY}, unmeasured, cannot]
    run = {
        "date": "2026-11-21 19:00 UTC",
        "machine": "2 processors",
        "cells": [{**cell, "complaints": [], "revision": "abc1234"} for cell in cells],
    }
    run["cells"][1]["complaints"] = ["tasks lost: 2 of 90"]
    text = render(run, FAULTS)
    assert "| `worker_kill` | idle | – | – | – | – | 6.0 |" in text
    assert (
        "| `worker_kill` | load | 0 of 1,200; of those that need Redis 3 of 120 | 0 of 120 "
        "| 0 of 90 | 2 after 33.5 s | 6.0 **tasks lost: 2 of 90** |"
    ) in text
    assert "6.0; the deploy failed, the old release serves, the next deploy works |" in text
    assert "| `redis_kill` | idle | not measured to its end: a / b | | | | |" in text
    assert "- `oom`, load: no kernel log." in text
    assert "- `clock_step`: containers share the machine's clock" in text
    (left,) = [line for line in text.splitlines() if line.startswith("- deploy: ")]
    assert left.endswith(": not part of this run.")
    assert "`oom`" in left
    assert "`worker_kill`" not in left
    assert "`clock_step`" not in left
    assert "- `worker_kill`: SIGKILL of the worker's main process." in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {8}


def test_a_cell_that_is_run_again_takes_its_place() -> None:
    cells: list = []
    for fault, phase in [("oom", "load"), ("oom", "idle"), ("worker_kill", "deploy")]:
        cells = placed(cells, {"fault": fault, "phase": phase, "run": 1}, list(FAULTS))
    cells = placed(cells, {"fault": "oom", "phase": "idle", "run": 2}, list(FAULTS))
    told = [(cell["fault"], cell["phase"], cell["run"]) for cell in cells]
    assert told == [("worker_kill", "deploy", 1), ("oom", "idle", 2), ("oom", "load", 1)]


plain = st.text(st.characters(codec="utf-8", exclude_characters="<>"))


@given(plain, plain, plain, plain)
def test_only_what_is_between_the_markers_changes(
    before: str, old: str, after: str, new: str
) -> None:
    document = f"{before}{BEGIN}{old}{END}{after}"
    written = published(document, new)
    assert written == f"{before}{BEGIN}\n{new}\n{END}{after}"
    assert published(written, new) == written


@pytest.mark.parametrize("document", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_document_without_its_markers_is_refused(document: str) -> None:
    with pytest.raises(ValueError, match="needs one"):
        published(document, "text")


def test_the_document_has_them() -> None:
    document = (ROOT / "docs/RELIABILITY.md").read_text()
    assert document.index(BEGIN) < document.index(END)
