"""Log lines of web and worker: JSON, joined by request and task id, without secrets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from appstack import PASSWORD, Stack, Web
from backend import redaction
from backend.settings import Settings
from hypothesis import given
from hypothesis import strategies as st
from testkit import wait_until

BULK = "/api/admin/bulk/regenerate-embeddings"


def lines(log: Path) -> list[dict]:
    """The JSON lines; Celery's banner, which is for people, is not one."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def with_id(log: Path, request_id: str) -> list[dict]:
    return [line for line in lines(log) if line.get("request_id") == request_id]


def failures(log: Path, request_id: str) -> list[dict]:
    return [line for line in with_id(log, request_id) if line["level"] == "ERROR"]


def test_a_request_is_followed_into_its_task(
    stack: Stack, web: Web, admin: httpx.Client, make_items: Callable, finish: Callable
) -> None:
    worker = stack.worker()
    try:
        items = make_items("Deoksugung", "Jongmyo")
        answer = admin.post(
            BULK, json={"context_ids": items}, headers={"X-Request-ID": "visit.1-a_B"}
        )
        assert answer.headers["X-Request-ID"] == "visit.1-a_B"
        tasks = answer.json()["task_ids"]
        for task_id in tasks:
            assert finish(task_id)["status"] == "success"

        access, queued = {}, {}
        for line in with_id(web.log, "visit.1-a_B"):
            (access if line["logger"] == "uvicorn.access" else queued).update(line)
        assert (access["method"], access["path"], access["status"]) == ("POST", BULK, 202)
        assert queued["message"] == "queued 2 of regenerate_embedding_task"
        expected = {
            (task_id, "regenerate_embedding_task", what)
            for task_id in tasks
            for what in ("received", "succeeded")
        }
        wait_until(lambda: happened(worker.log, "visit.1-a_B") == expected, "both tasks' lines", 10)
    finally:
        worker.kill()


def happened(log: Path, request_id: str) -> set[tuple[str, str, str]]:
    """Task id, task and what Celery said of it."""
    return {
        (line["task_id"], line["task"], line["message"].split("] ")[1].split(" in ")[0])
        for line in with_id(log, request_id)
        if "] " in line["message"]
    }


def test_what_a_task_logs_itself_and_its_retries_keep_the_request(
    stack: Stack, admin: httpx.Client, make_items: Callable, finish: Callable
) -> None:
    (item,) = make_items("Hwaseong")
    lost = stack.worker("embeddings", QDRANT_URL="http://127.0.0.1:1")
    try:
        headers = {"X-Request-ID": "retried"}
        answer = admin.post(BULK, json={"context_ids": [item]}, headers=headers)
        assert finish(answer.json()["task_ids"][0], 40)["status"] == "failure"
        text = [line["message"] for line in with_id(lost.log, "retried")]
        assert sum("Retry in" in message for message in text) == 3
        (failed,) = wait_until(lambda: failures(lost.log, "retried"), "the failure", 10, lost.log)
        assert "refused" in failed["exc_info"]
    finally:
        lost.kill()


@pytest.mark.parametrize("sent", ["", "a b", "x" * 65, '{"a":1}', "\u00e9"])
def test_an_id_that_is_not_sane_is_replaced(guest: httpx.Client, sent: str) -> None:
    answer = guest.get("/health", headers={"X-Request-ID": sent.encode()})
    made = answer.headers["X-Request-ID"]
    assert len(made) == 32
    assert int(made, 16) >= 0


def test_refused_requests_have_an_id_too(admin: httpx.Client) -> None:
    for path, body in (("/nowhere", b""), ("/api/admin/items", b"{"), (BULK, b" " * 5_000_000)):
        answer = admin.post(path, content=body, headers={"X-Request-ID": "refused"})
        assert answer.status_code >= 400
        assert answer.headers["X-Request-ID"] == "refused"


def test_a_bug_is_found_by_the_id_that_the_caller_saw(stack: Stack, admin: httpx.Client) -> None:
    # A database without the tables is nothing that the code expects.
    empty = stack.environment["DATABASE_URL"].rsplit("/", 1)[0] + "/template1"
    web = stack.web(DATABASE_URL=empty)
    try:
        with web.client() as client:
            client.headers = admin.headers
            answer = client.get("/api/admin/items", headers={"X-Request-ID": "bug-7"})
        assert (answer.status_code, answer.headers["X-Request-ID"]) == (500, "bug-7")
        assert "bug-7" in answer.json()["detail"]
        assert "items" not in answer.text
        (found,) = wait_until(lambda: failures(web.log, "bug-7"), "the traceback", 10, web.log)
        assert "UndefinedTable" in found["exc_info"]
        (access,) = (line for line in with_id(web.log, "bug-7") if "path" in line)
        assert access["status"] == 500
    finally:
        web.kill()


def test_secrets_stay_out_of_the_log(stack: Stack, web: Web, guest: httpx.Client) -> None:
    guest.post("/admin/login", json={"username": "admin", "password": PASSWORD})
    guest.get("/health", params={"token": "abcdefgh", "q": "shown"})
    guest.get("/nowhere/eyJhbGciOi.eyJzdWIi.c2ln")
    guest.get(f"/nowhere/{stack.environment['SECRET_KEY']}")
    wait_until(lambda: '"/nowhere/***"' in web.log.read_text(), "the lines are there", log=web.log)
    text = web.log.read_text()
    assert "q=shown" in text
    for secret in (PASSWORD, stack.environment["SECRET_KEY"], "abcdefgh", "eyJ", "c2ln"):
        assert secret not in text


def test_text_and_level_by_the_environment(stack: Stack) -> None:
    web = stack.web(LOG_FORMAT="text", LOG_LEVEL="WARNING")
    chatty = stack.web(LOG_FORMAT="text")
    worker = stack.worker("idle", LOG_FORMAT="text", LOG_LEVEL="error")
    try:
        for each in (web, chatty):
            with each.client() as client:
                client.get("/health", headers={"X-Request-ID": "plain"})
        wait_until(lambda: "request=plain" in chatty.log.read_text(), "a text line", log=chatty.log)
        assert lines(chatty.log) == []
        assert web.log.read_text() == ""
        assert " INFO " not in worker.log.read_text()
    finally:
        for process in (web, chatty, worker):
            process.kill()


words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=30)


@given(before=st.text(max_size=20), secret=words, after=st.text(max_size=20))
def test_a_configured_secret_never_gets_through(before: str, secret: str, after: str) -> None:
    found = set(redaction.secrets(Settings(secret_key=secret)))
    assert secret in found
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redaction, "settings", lambda: Settings(secret_key=secret))
        redaction._values.cache_clear()
        try:
            assert secret not in redaction.redact(before + secret + after).replace("***", "")
        finally:
            redaction._values.cache_clear()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("redis://:hunter22@host:6379/0", "redis://:***@host:6379/0"),
        ("postgresql://a:p%40ss@h/db?x=1", "postgresql://a:***@h/db?x=1"),
        ("Authorization: Bearer abcdefghij.k", "Authorization: Bearer ***"),
        ('{"password": "p", "n": 1}', '{"password": "***", "n": 1}'),
        ("GET /x?api_key=abc&limit=3", "GET /x?api_key=***&limit=3"),
        ("the token has expired", "the token has expired"),
        ("http://127.0.0.1:6333/collections", "http://127.0.0.1:6333/collections"),
    ],
)
def test_what_looks_like_a_secret(line: str, shown: str) -> None:
    assert redaction.redact(line) == shown


def test_passwords_inside_addresses_are_known() -> None:
    made = Settings(database_url="postgresql://a:p%40ssword@h/db")
    assert {"p%40ssword", "p@ssword"} <= set(redaction.secrets(made))
