"""Every operation of the running application's own OpenAPI, with generated input."""

from __future__ import annotations

import time

import httpx
import jwt
import pytest
import schemathesis
from appstack import Web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from testkit import Process

CONFORMS = [content_type_conformance, response_schema_conformance, status_code_conformance]
# A documented 503 is right here: these ask an outside service that this test does not start.
NEED_OUTSIDE = ("/rag/", "/chat", "/itinerary", "/api/research")
SECONDS_EACH = 1.5  # per operation: a wrong login takes one, asking the workers another
bounded = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,  # the same cases each time: a run is not lucky or unlucky
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def api(web: Web, worker: Process) -> list[schemathesis.APIOperation]:
    """Whatever routers the application has: a new one is fuzzed without a word here."""
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{web.port}/openapi.json")
    # A stream of events does not end.
    return [found.ok() for found in schema.exclude(path_regex="/events$").get_all_operations()]


def fuzz(operation: schemathesis.APIOperation, headers: dict[str, str]) -> None:
    """Requests that fit the description of an operation, and some that do not."""
    modes = [GenerationMode.POSITIVE]
    if operation.body or any(operation.iter_parameters()):
        modes.append(GenerationMode.NEGATIVE)

    end = time.monotonic() + SECONDS_EACH

    @bounded
    @given(st.one_of(operation.as_strategy(mode) for mode in modes))
    def send(case: schemathesis.Case) -> None:
        if time.monotonic() > end:
            return
        response = case.call(headers=headers, timeout=60)
        outside = operation.path.startswith(NEED_OUTSIDE) and response.status_code == 503
        checks = CONFORMS if outside else [not_a_server_error, *CONFORMS]
        case.validate_response(response, checks=checks)

    send()


def test_a_stranger_breaks_nothing(
    api: list[schemathesis.APIOperation], subtests: pytest.Subtests
) -> None:
    for operation in api:
        with subtests.test(operation.label):
            fuzz(operation, {})


def test_an_admin_breaks_nothing(
    api: list[schemathesis.APIOperation], admin: httpx.Client, subtests: pytest.Subtests
) -> None:
    for operation in api:
        # The login answers the same to one who is logged in, and slowly.
        if not operation.path.endswith("/login"):
            with subtests.test(operation.label):
                fuzz(operation, {"Authorization": admin.headers["Authorization"]})


def operations(client: httpx.Client) -> list[tuple[str, str, dict]]:
    """Method, path and description of each operation, path parameters filled in."""
    return [
        (method.upper(), path.replace("{item_id}", "1").replace("{task_id}", "abc"), operation)
        for path, known in client.get("/openapi.json").json()["paths"].items()
        for method, operation in known.items()
    ]


@pytest.fixture
def with_body(admin: httpx.Client) -> list[tuple[str, str]]:
    found = [(m, path) for m, path, operation in operations(admin) if "requestBody" in operation]
    assert ("POST", "/api/admin/items") in found
    return found


@pytest.mark.parametrize("body", [b"{", b"\xff", b"", b'{"a":', b"[" * 10_000])
def test_malformed_json_is_told_everywhere(
    admin: httpx.Client, with_body: list[tuple[str, str]], body: bytes
) -> None:
    for method, path in with_body:
        headers = {"Content-Type": "application/json"}
        answer = admin.request(method, path, content=body, headers=headers)
        assert answer.status_code in (400, 422), (path, answer.text)
        assert answer.json()["detail"]


def test_ten_megabytes_are_too_large_everywhere(
    admin: httpx.Client, with_body: list[tuple[str, str]]
) -> None:
    for method, path in with_body:
        try:
            answer = admin.request(method, path, content=b" " * 10_000_000)
        except httpx.WriteError:
            continue  # refused while it was still being sent
        assert answer.status_code == 413, (path, answer.text)
        assert "larger than" in answer.json()["detail"]


def test_an_expired_token_is_a_401_everywhere(guest: httpx.Client) -> None:
    expired = jwt.encode({"sub": "admin", "exp": time.time() - 1}, "s" * 40, "HS256")
    locked = [(m, path) for m, path, operation in operations(guest) if "security" in operation]
    assert ("GET", "/api/admin/workers") in locked
    for method, path in locked:
        answer = guest.request(method, path, headers={"Authorization": f"Bearer {expired}"})
        assert answer.status_code == 401, (path, answer.text)
        assert "expired" in answer.json()["detail"]


def test_errors_are_documented(guest: httpx.Client) -> None:
    known = {
        (method, path): operation["responses"] for method, path, operation in operations(guest)
    }
    assert {"401", "413", "422", "503"} <= known["POST", "/api/admin/items"].keys()
    assert {"401", "404", "422", "503"} <= known["GET", "/api/admin/items/1"].keys()
    assert "503" not in known["GET", "/health"]
    body = known["GET", "/api/admin/items/1"]["404"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/Problem"}
    for status in ("502", "504"):
        body = known["POST", "/api/research"][status]["content"]["application/json"]["schema"]
        assert body == {"$ref": "#/components/schemas/NoReport"}
