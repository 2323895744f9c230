"""Errors as OpenAPI lists them: every one of them has a body with `detail`."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

MEANING = {
    400: "The body cannot be read at all.",
    401: "Not logged in, or no longer.",
    404: "There is no such thing.",
    409: "It is in a state that does not allow this.",
    413: "The body is too large.",
    429: "Too many, of this client or of all; `Retry-After` has the seconds to wait.",
    503: "A dependency is not available; `detail` names it.",
}
NEEDS_NOTHING = {"/health"}  # paths that answer whatever is away


class Problem(BaseModel):
    """What went wrong, for a person. A 422 has a list instead: `{loc, msg, type}` each."""

    detail: str


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Value for a route's `responses`: statuses of MEANING that the route itself answers.

    401 behind a login, 400 and 413 of a body, 422 and 503 need not be named: `document` adds them.
    """
    return {status: {"model": Problem, "description": MEANING[status]} for status in statuses}


def document(app: FastAPI) -> None:
    """Let OpenAPI list what dependencies and middleware answer for every route, new ones too."""
    made_by_fastapi = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = made_by_fastapi()
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas.setdefault("Problem", Problem.model_json_schema())
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    _add(path, operation)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def _add(path: str, operation: dict[str, Any]) -> None:
    applies = {
        400: "requestBody" in operation,
        401: "security" in operation,
        413: "requestBody" in operation,
        503: path not in NEEDS_NOTHING,
    }
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status, does in applies.items():
        if does:  # what a route says itself stays
            told = {"description": MEANING[status], "content": body}
            operation["responses"].setdefault(str(status), told)
