"""The page's files and the real backend under one address, as nginx serves them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import uvicorn
from page_fakes import Fakes, is_faked
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send
from testkit import APP, free_port, is_open, wait_until

FRONTEND = APP / "frontend"
BACKEND_PATHS = ("/admin/login", "/api/", "/health", "/rag/", "/chat", "/itinerary")
METHODS = ["GET", "POST", "PUT", "DELETE"]


def policy() -> str:
    """The Content-Security-Policy of the page's own nginx.conf: tests run under the real one."""
    found = re.search(r'Content-Security-Policy "([^"]+)"', (FRONTEND / "nginx.conf").read_text())
    assert found is not None
    return found[1]


@contextmanager
def serve(backend: str, fakes: Fakes, *, faking: bool = True) -> Iterator[str]:
    """Address of a server that forwards what is not the page's and not faked to `backend`."""
    client = httpx.AsyncClient(base_url=backend, timeout=30)

    async def forward(request: Request) -> Response:
        if faking and is_faked(request.url.path):
            return await fakes.answer(request)
        kept = {
            name: value
            for name, value in request.headers.items()
            if name in ("authorization", "content-type")
        }
        asked = client.build_request(
            request.method, request.url.path, content=await request.body(), headers=kept
        )
        # As it comes: a task's events are of use while they happen.
        answer = await client.send(asked, stream=True)
        return StreamingResponse(
            answer.aiter_raw(),
            answer.status_code,
            media_type=answer.headers.get("content-type"),
            background=BackgroundTask(answer.aclose),
        )

    files = StaticFiles(directory=FRONTEND, html=True)

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        async def with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"content-security-policy", policy().encode()))
            await send(message)

        await files(scope, receive, with_policy)

    routes = [Route(f"{path}{{rest:path}}", forward, methods=METHODS) for path in BACKEND_PATHS]
    app = Starlette(routes=[*routes, Mount("/", page)])
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, lifespan="off", log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: is_open(port), "the page is served")
    yield f"http://127.0.0.1:{port}"
    fakes.go_on.set()  # a stream that still waits would hold the server up
    server.force_exit = True
    server.should_exit = True
    thread.join(20)
