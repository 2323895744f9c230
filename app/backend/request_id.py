"""One id for a request and for everything it causes: its log lines, its tasks, theirs in turn."""

from __future__ import annotations

import re
from contextvars import ContextVar
from typing import Any
from uuid import uuid4

from celery import current_task
from celery.signals import before_task_publish
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-ID"
SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")  # what may stand in a log line and in a header
_current: ContextVar[str | None] = ContextVar("request_id", default=None)


def current_request_id() -> str | None:
    """The id of the request that is being answered, or that led to the task being run."""
    if found := _current.get():
        return found
    return current_task.request.get("request_id") if current_task else None


class RequestId:
    """ASGI middleware: takes the id a proxy sent, if it is sane, or makes one, and returns it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Set the id for all that runs below, and into the response's headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = Headers(scope=scope).get(HEADER, "")
        request_id = sent if SANE.fullmatch(sent) else uuid4().hex
        # Never reset: the server's access line and the 500 page come after this middleware.
        _current.set(request_id)

        async def with_header(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self.app(scope, receive, with_header)


@before_task_publish.connect
def carry(headers: dict[str, Any], **_: Any) -> None:
    """Every published task takes the id along in its headers, one of a task's children too."""
    if (request_id := current_request_id()) is not None:
        headers.setdefault("request_id", request_id)
