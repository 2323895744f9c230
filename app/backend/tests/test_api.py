"""What the API answers to strangers, to wrong input and to those who ask for too much."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import jwt
import pytest
from appstack import PASSWORD, Stack

ITEMS = "/api/admin/items"
BULK = "/api/admin/bulk/regenerate-embeddings"


def test_login_takes_both_paths(guest: httpx.Client) -> None:
    for path in ("/admin/login", "/api/admin/login"):
        answer = guest.post(path, json={"username": "admin", "password": PASSWORD})
        assert answer.status_code == 200
        assert answer.json()["token_type"] == "bearer"


@pytest.mark.parametrize(("username", "password"), [("admin", "wrong"), ("nobody", PASSWORD)])
def test_wrong_credentials_are_slowed_down(
    guest: httpx.Client, username: str, password: str
) -> None:
    started = time.monotonic()
    answer = guest.post("/admin/login", json={"username": username, "password": password})
    assert answer.status_code == 401
    assert answer.json() == {"detail": "Wrong user name or password."}
    assert time.monotonic() - started >= 1


def test_guessing_in_parallel_stops_nobody(guest: httpx.Client) -> None:
    wrong = {"username": "admin", "password": "guess"}
    with ThreadPoolExecutor(8) as pool:
        guesses = [pool.submit(guest.post, "/admin/login", json=wrong) for _ in range(8)]
        assert guest.get("/health").status_code == 200
        assert {guess.result().status_code for guess in guesses} == {401}


def token(secret: str, **claims: object) -> str:
    return jwt.encode({"sub": "admin", "exp": time.time() + 60, **claims}, secret, "HS256")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer x",
        "Basic YWRtaW46YWRtaW4=",
        f"Bearer {token('another secret that is long enough!!')}",
        f"Bearer {token('s' * 40, exp=time.time() - 1)}",
        f"Bearer {jwt.encode({'sub': 'admin'}, None, 'none')}",
    ],
)
@pytest.mark.parametrize(("method", "path"), [("GET", ITEMS), ("POST", ITEMS), ("POST", BULK)])
def test_strangers_stay_out(guest: httpx.Client, method: str, path: str, value: str) -> None:
    answer = guest.request(method, path, headers={"Authorization": value} if value else {}, json={})
    assert answer.status_code in (401, 422)
    if method == "GET":
        assert answer.status_code == 401


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (ITEMS, "{"),
        (ITEMS, "{}"),
        (ITEMS, "[1]"),
        (ITEMS, '[{"title": "", "content": "x"}]'),
        (ITEMS, '[{"title": "x\\u0000", "content": "x"}]'),
        (ITEMS, '[{"title": "\\ud800", "content": "x"}]'),
        (ITEMS, json.dumps([{"title": "x" * 201, "content": "x"}])),
        (ITEMS, json.dumps([{"title": "x", "content": "x" * 100_001}])),
        (ITEMS, json.dumps([{"title": "x", "content": "x"}] * 1001)),
        (BULK, "{}"),
        (BULK, '{"context_ids": "1"}'),
        (BULK, '{"context_ids": [0]}'),
        (BULK, '{"context_ids": [-1]}'),
        (BULK, '{"context_ids": [1.5]}'),
        (BULK, '{"context_ids": [1e400]}'),
        (BULK, '{"context_ids": [NaN]}'),
        (BULK, '{"context_ids": [99999999999999999999]}'),
        (BULK, json.dumps({"context_ids": [1] * 10_001})),
        ("/admin/login", '{"username": "\\ud800", "password": "x"}'),
        ("/admin/login", '{"username": "x"}'),
        ("/admin/login", b"\xff\xfe"),
        (ITEMS, b"[" * 100_000),
    ],
)
def test_wrong_input_is_told_and_not_repeated(
    admin: httpx.Client, path: str, body: str | bytes
) -> None:
    answer = admin.post(path, content=body, headers={"Content-Type": "application/json"})
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["detail"]
    assert "input" not in answer.text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"{ITEMS}/0", 422),
        (f"{ITEMS}/x", 422),
        (f"{ITEMS}/2147483648", 422),
        (f"{ITEMS}/2147483647", 404),
        (f"{ITEMS}?limit=0", 422),
        (f"{ITEMS}?limit=501", 422),
        (f"{ITEMS}?before=-1", 422),
        ("/api/task/..%2f..", 404),
        ("/api/task/a%00b", 422),
        ("/api/task/" + "a" * 65, 422),
        ("/api/task/not-known", 200),
        ("/nowhere", 404),
    ],
)
def test_paths(admin: httpx.Client, path: str, status: int) -> None:
    assert admin.get(path).status_code == status


def test_a_body_has_a_limit_declared_or_not(admin: httpx.Client) -> None:
    def chunks() -> object:
        for _ in range(10):
            yield b" " * 1024 * 1024

    for body in (b" " * 10 * 1024 * 1024, chunks()):
        try:
            answer = admin.post(ITEMS, content=body, headers={"Content-Type": "application/json"})
        except httpx.WriteError:
            continue  # refused while it was still being sent
        assert answer.status_code == 413, answer.text
        assert "4194304" in answer.json()["detail"]


def test_paging_by_id(admin: httpx.Client) -> None:
    made = admin.post(ITEMS, json=[{"title": f"t{n}", "content": "c"} for n in range(3)]).json()
    page = admin.get(ITEMS, params={"limit": 2, "before": made[2]["id"]}).json()
    assert [item["title"] for item in page] == ["t2", "t1"]


def test_without_a_password_login_is_off(stack: Stack) -> None:
    web = stack.web(ADMIN_PASSWORD="")
    try:
        with web.client() as client:
            answer = client.post("/admin/login", json={"username": "admin", "password": ""})
        assert answer.status_code == 503
        assert "ADMIN_PASSWORD" in answer.json()["detail"]
    finally:
        web.kill()
