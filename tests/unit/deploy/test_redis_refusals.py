"""What Redis has refused the application is told, and nothing that the log's writers make up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import redis_refusals
from ansible_collections.crisper.stack.plugins.module_utils.deploy.redis_refusals import (
    MOST_COMMANDS,
    MOST_ENTRIES,
    UnreadableError,
    refusals,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def entry(command: str, count: int = 1, age: float = 5, **changes: Any) -> dict[str, Any]:
    """Return an entry as Redis 8.0 prints it, shortened."""
    told = {"count": count, "reason": "command", "context": "toplevel", "object": command}
    return {**told, "username": "app", "age-seconds": age, **changes}


def test_refused_commands_are_told_with_what_to_do() -> None:
    log = [entry("keys", 9), entry("config|get", age=7300), entry("keys", 3, 90, context="lua")]
    assert refusals(json.dumps(log), 24) == [
        "The application's Redis user was refused the command “keys” 12 times, last 5 s ago: add it"
        " to stack_redis_commands, or call another one (docs/PRODUCTION_DOCKER.md)",
        "The application's Redis user was refused the command “config|get” once, last 2 h ago: the"
        " application cannot be given it, call another one (docs/PRODUCTION_DOCKER.md)",
    ]


def test_what_is_not_the_applications_or_is_old_is_left_out() -> None:
    log = [
        entry("auth", reason="auth"),
        entry("keys", username="default"),
        entry("keys", age=90_000),
        entry("keys", count=0),
        *({"reason": "command", "username": "app"}, [], None, "x"),
    ]
    assert refusals(json.dumps(log), 24) == []


def test_the_log_is_bounded_and_printable() -> None:
    log = [entry(f"\x1b[2J\nRelease {n}" + "x" * 10_000) for n in range(10 * MOST_ENTRIES)]
    told = refusals(json.dumps(log), 24)
    assert len(told) == MOST_COMMANDS + 1
    assert all(row.isprintable() and len(row) < 400 for row in told)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*entry("x"), "y"]), inner),
    max_leaves=20,
)


@settings(max_examples=50)
@given(st.lists(JSON).map(json.dumps) | JSON.map(json.dumps) | st.text())
def test_whatever_is_printed_is_rows_or_an_error(text: str) -> None:
    try:
        told = refusals(text, 24)
    except UnreadableError as error:
        told = [str(error)]
    assert all(row.isprintable() and len(row) < 400 for row in told)


def docker(tmp_path: Path, exec_: str) -> str:
    """Return a Docker client: one container runs, in which a script does that."""
    path = tmp_path / "docker"
    path.write_text(f"#!/bin/sh\ncase $1 in ps) echo c1 ;; exec) {exec_} ;; esac\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("exec_", "problem"),
    [
        ("echo '[]'", ""),
        ("echo NOPERM >&2; exit 1", "was not read: “NOPERM”"),
        ("echo OK", "cannot be read"),
        ("exec yes", "more than 4 MiB"),
    ],
)
def test_a_redis_that_does_not_tell_is_no_failure(
    run_module: Any, tmp_path: Path, exec_: str, problem: str
) -> None:
    told = run_module(redis_refusals, project="x", docker_cli=docker(tmp_path, exec_))
    assert not told.get("failed")
    assert told["refused"] == []
    assert problem in told["problem"]
    assert bool(problem) == bool(told["problem"])


def test_a_stack_without_redis_has_nothing_to_tell(run_module: Any, tmp_path: Path) -> None:
    told = run_module(redis_refusals, project="x", docker_cli="true")
    assert (told["refused"], told["problem"]) == ([], "")


def test_the_log_is_read_from_redis(
    run_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warned: list[str] = []
    monkeypatch.setattr(
        redis_refusals.AnsibleModule, "warn", lambda _self, text, **_: warned.append(text)
    )
    (tmp_path / "log").write_text(json.dumps([entry("flushdb", 2)]))
    cli = docker(tmp_path, f"cat {tmp_path}/log")
    told = run_module(redis_refusals, project="x", docker_cli=cli)
    assert "refused the command “flushdb” 2 times" in told["refused"][0]
    assert warned == []
    run_module(redis_refusals, project="x", docker_cli=cli, warn=True)
    assert warned == told["refused"]
