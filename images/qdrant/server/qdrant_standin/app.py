"""The REST side: routes, the api-key, Qdrant's envelope and its error shape."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from . import API_VERSION
from .convert import Json, mapping
from .errors import ApiError, MalformedBody, TooLarge
from .store import Collection, Store

log = logging.getLogger("qdrant_standin")

FLUSH_SECONDS = 5.0
# Probes ask without a key, as they do of Qdrant.
OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/livez"})


class ApiKey:
    """Every request but the probes' carries the key, in `api-key` or as a bearer token."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app = app
        self.key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        given = headers.get(b"api-key") or headers.get(b"authorization", b"").removeprefix(
            b"Bearer "
        )
        if hmac.compare_digest(given, self.key):
            return await self.app(scope, receive, send)
        message = (
            "Invalid API key or JWT"
            if given
            else "Must provide an API key or an Authorization bearer token"
        )
        await PlainTextResponse(message, status_code=401)(scope, receive, send)


def _fail(status: int, message: str, started: float) -> Response:
    body = {"status": {"error": message}, "time": time.perf_counter() - started}
    return JSONResponse(body, status_code=status)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


async def _body(request: Request, limit: int) -> dict[str, Json]:
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > limit:
            raise TooLarge(
                f"Payload error: JSON payload is larger than allowed (limit: {limit} bytes)."
            )
    if not raw:
        return {}
    try:
        return dict(mapping(json.loads(raw, parse_constant=_no_constant), "body"))
    except (ValueError, RecursionError) as error:
        raise MalformedBody(str(error)) from error


Work = Callable[[Request, dict[str, Json]], Json]


def _update(work: Callable[[Request, dict[str, Json]], int]) -> Work:
    """`wait=false` is answered as Qdrant does; the work is done by then all the same."""

    def done(request: Request, body: dict[str, Json]) -> Json:
        status = "completed" if request.query_params.get("wait") == "true" else "acknowledged"
        return {"operation_id": work(request, body), "status": status}

    return done


def create_app(
    storage: Path, *, api_key: str | None = None, max_request_bytes: int = 32 * 1024 * 1024
) -> ASGIApp:
    store = Store(storage)

    def collection(request: Request) -> Collection:
        return store.get(request.path_params["name"])

    def endpoint(work: Work) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            started = time.perf_counter()
            try:
                body = await _body(request, max_request_bytes)
                result = await run_in_threadpool(work, request, body)
            except ApiError as error:
                return _fail(error.status, error.message, started)
            return JSONResponse(
                {"result": result, "status": "ok", "time": time.perf_counter() - started}
            )

        return handle

    def create(request: Request, body: dict[str, Json]) -> Json:
        store.create(request.path_params["name"], body)
        return True

    def batch(request: Request, body: dict[str, Json]) -> Json:
        searches = body.get("searches")
        if not isinstance(searches, list):
            raise MalformedBody("searches must be a list")
        return [collection(request).query(mapping(search, "search")) for search in searches]

    async def root(request: Request) -> Response:
        return JSONResponse({"title": "qdrant - vector search engine", "version": API_VERSION})

    def probe(message: str) -> Callable[[Request], Awaitable[Response]]:
        async def handle(request: Request) -> Response:
            return PlainTextResponse(message)

        return handle

    async def metrics(request: Request) -> Response:
        names = store.names()
        points = await run_in_threadpool(
            lambda: sum(store.get(name).info()["points_count"] for name in names)
        )
        return PlainTextResponse(
            "# TYPE app_info gauge\n"
            f'app_info{{name="qdrant",version="{API_VERSION}"}} 1\n'
            "# TYPE collections_total gauge\n"
            f"collections_total {len(names)}\n"
            "# TYPE collections_vector_total gauge\n"
            f"collections_vector_total {points}\n"
        )

    async def flush_forever() -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await run_in_threadpool(store.flush)
            except Exception:
                log.exception("flushing the collections failed; the next try is in a moment")

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        flusher = asyncio.create_task(flush_forever())
        yield
        flusher.cancel()
        await run_in_threadpool(store.close)

    async def not_found(request: Request, error: Exception) -> Response:
        return _fail(404, "Not found", time.perf_counter())

    async def broken(request: Request, error: Exception) -> Response:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return _fail(500, "Service internal error: see the server's log", time.perf_counter())

    one = "/collections/{name}"
    points = f"{one}/points"
    table: list[tuple[str, str, Work]] = [
        ("GET", "/collections", lambda r, b: {"collections": [{"name": n} for n in store.names()]}),
        ("GET", one, lambda r, b: collection(r).info()),
        ("PUT", one, create),
        ("DELETE", one, lambda r, b: store.delete(r.path_params["name"])),
        ("GET", f"{one}/exists", lambda r, b: {"exists": r.path_params["name"] in store.names()}),
        ("PUT", f"{one}/index", _update(lambda r, b: collection(r).create_index(b))),
        (
            "DELETE",
            f"{one}/index/{{field}}",
            _update(lambda r, b: collection(r).delete_index(r.path_params["field"])),
        ),
        ("PUT", points, _update(lambda r, b: collection(r).upsert(b))),
        ("POST", points, lambda r, b: collection(r).retrieve(b)),
        ("POST", f"{points}/delete", _update(lambda r, b: collection(r).delete_points(b))),
        (
            "POST",
            f"{points}/payload",
            _update(lambda r, b: collection(r).set_payload(b, overwrite=False)),
        ),
        (
            "PUT",
            f"{points}/payload",
            _update(lambda r, b: collection(r).set_payload(b, overwrite=True)),
        ),
        ("POST", f"{points}/payload/delete", _update(lambda r, b: collection(r).delete_payload(b))),
        ("POST", f"{points}/count", lambda r, b: {"count": collection(r).count(b)}),
        ("POST", f"{points}/scroll", lambda r, b: collection(r).scroll(b)),
        ("POST", f"{points}/query", lambda r, b: collection(r).query(b)),
        ("POST", f"{points}/query/batch", batch),
        ("GET", f"{points}/{{id}}", lambda r, b: collection(r).point(r.path_params["id"])),
    ]
    routes = [Route(path, endpoint(work), methods=[method]) for method, path, work in table]
    routes += [
        Route("/", root),
        Route("/healthz", probe("healthz check passed")),
        Route("/livez", probe("healthz check passed")),
        Route("/readyz", probe("all shards are ready")),
        Route("/metrics", metrics),
    ]
    handlers: dict[Any, Any] = {404: not_found, 405: not_found, Exception: broken}
    app: ASGIApp = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    return ApiKey(app, api_key) if api_key else app
