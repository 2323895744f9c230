"""`python -m backend.verify` on a good installation, and on broken ones."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from appstack import PASSWORD, QDRANT_KEY, Stack
from hypothesis import given
from hypothesis import strategies as st
from testkit import APP, Process

NAMES = [
    *("settings", "imports", "tasks", "routes", "broker", "results", "database", "qdrant"),
    "workers",
]


@dataclass
class Verdict:
    code: int
    lines: dict[str, str]
    text: str


def verify(stack: Stack, **changed: str) -> Verdict:
    """Its answer; the shape of every line is checked here."""
    ended = subprocess.run(
        [sys.executable, "-m", "backend.verify"],
        env={"PYTHONPATH": f"{APP}:{APP / 'crisper-worker/src'}", **stack.environment, **changed},
        cwd=APP,
        capture_output=True,
        timeout=60,
        check=False,
    )
    text = ended.stdout.decode("ascii")
    lines = {}
    for line in text.splitlines():
        match = re.fullmatch(r"(ok  |FAIL) ([a-z]+): (.+)", line)
        assert match, f"{line!r}\n{ended.stderr.decode()}"
        lines[match[2]] = match[1].strip()
    assert ended.returncode == int("FAIL" in lines.values()), ended.stderr.decode()
    everything = text + ended.stderr.decode()
    for secret in (PASSWORD, QDRANT_KEY, stack.environment["SECRET_KEY"], "hunter2"):
        assert secret not in everything
    return Verdict(ended.returncode, lines, text)


def failed(verdict: Verdict) -> list[str]:
    return [name for name, word in verdict.lines.items() if word == "FAIL"]


def test_a_good_installation(stack: Stack, worker: Process) -> None:
    verdict = verify(stack)
    assert verdict.code == 0, verdict.text
    assert list(verdict.lines) == NAMES
    assert "at migration 0" in verdict.text
    assert "1 answer" in verdict.text


@pytest.mark.parametrize(
    ("setting", "value", "names", "advice"),
    [
        ("SECRET_KEY", "", ["settings"], "set SECRET_KEY"),
        ("SECRET_KEY", "hunter2", ["settings"], "32 characters"),
        ("ADMIN_PASSWORD", "", ["settings"], "set ADMIN_PASSWORD"),
        ("CHAT_MODEL", "gpt", ["settings"], "OPENAI_API_KEY"),
        ("QDRANT_URL", "http://127.0.0.1:1", ["qdrant"], "QDRANT_URL"),
        ("QDRANT_API_KEY", "hunter2", ["qdrant"], "QDRANT_API_KEY"),
        ("CELERY_RESULT_BACKEND", "redis://:hunter2@127.0.0.1:1/0", ["results"], "start Redis"),
        (
            "DATABASE_URL",
            "postgresql+psycopg://crisper:hunter2@127.0.0.1:1/postgres",
            ["database"],
            "start PostgreSQL",
        ),
    ],
)
def test_what_is_wrong_is_named(
    stack: Stack, worker: Process, setting: str, value: str, names: list[str], advice: str
) -> None:
    verdict = verify(stack, **{setting: value})
    assert failed(verdict) == names, verdict.text
    assert advice in verdict.text


def test_an_empty_database_is_told_to_migrate(stack: Stack, worker: Process) -> None:
    url = stack.environment["DATABASE_URL"].replace("/postgres", "/template1")
    verdict = verify(stack, DATABASE_URL=url)
    assert failed(verdict) == ["database"]
    assert "run: alembic upgrade head" in verdict.text


@pytest.mark.parametrize("value", ["no number", "-1"])
def test_a_setting_of_the_wrong_kind_is_told(stack: Stack, value: str) -> None:
    verdict = verify(stack, RESEARCH_SECONDS=value)
    assert verdict.lines == {"settings": "FAIL", "imports": "FAIL"}


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("silence", [False, True])
def test_with_everything_down_it_still_ends(stack: Stack, silent: int, silence: bool) -> None:
    port = silent if silence else 1
    redis = f"redis://:hunter2@127.0.0.1:{port}/0"
    started = time.monotonic()
    verdict = verify(
        stack,
        CELERY_BROKER_URL=redis,
        CELERY_RESULT_BACKEND=redis,
        DATABASE_URL=f"postgresql+psycopg://crisper:hunter2@127.0.0.1:{port}/postgres",
        QDRANT_URL=f"http://127.0.0.1:{port}",
    )
    assert time.monotonic() - started < 30  # imports on a busy machine, and LIMIT
    assert failed(verdict) == ["broker", "results", "database", "qdrant", "workers"], verdict.text


def test_without_a_worker_it_says_so(stack: Stack) -> None:
    verdict = verify(stack, CELERY_BROKER_URL=stack.redis.url(9))
    assert failed(verdict) == ["workers"]
    assert "none answers" in verdict.text


def test_a_queue_that_nobody_consumes_is_told(stack: Stack) -> None:
    broker = {"CELERY_BROKER_URL": stack.redis.url(8)}
    worker = stack.worker("default,research", **broker)
    try:
        verdict = verify(stack, **broker)
    finally:
        worker.kill()
    assert failed(verdict) == ["workers"]
    assert "nobody consumes embeddings" in verdict.text


@given(st.booleans(), st.text())
def test_a_line_is_one_line_of_ascii(good: bool, said: str) -> None:
    from backend.verify import line

    made = line("name", good, said)
    assert made.isascii()
    assert len(made.splitlines()) == 1
    assert made.startswith("ok   name: " if good else "FAIL name: ")
