"""The web application: ``uvicorn backend.main:app``."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kombu.exceptions import BatchPublishError
from kombu.exceptions import OperationalError as BrokerError
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException
from redis.exceptions import OutOfMemoryError, RedisError
from sqlalchemy.exc import OperationalError as DatabaseError
from sqlalchemy.exc import TimeoutError as PoolError

from backend import load_test, logs, metrics
from backend.api import admin, chat, docs, errors, health, itinerary, rag, research, tasks, workers
from backend.body_limit import BodyLimit
from backend.callers import CallerHeaders
from backend.celery_app import app as celery
from backend.following import ending_with_the_server
from backend.history import MariadbAwayError
from backend.provider_errors import ProviderAwayError, ProviderError
from backend.request_id import HEADER, RequestId, current_request_id
from backend.settings import settings

logs.configure()
# A worker waits for Redis to return, however long; a web request must answer.
celery.conf.result_backend_always_retry = False

app = FastAPI(
    title="Crisper reference application",
    version=settings().release,
    openapi_url="/openapi.json" if settings().api_docs else None,
    docs_url=None,  # our own, see api/docs.py
    redoc_url=None,
    lifespan=ending_with_the_server,
)
for module in (health, admin, workers, tasks, research, rag, chat, itinerary, metrics):
    app.include_router(module.router)
if settings().api_docs:
    app.include_router(docs.router)
if settings().load_test:
    app.include_router(load_test.router)
errors.document(app)
app.add_middleware(BodyLimit, limit=settings().max_body_bytes)
metrics.measure(app)
app.add_middleware(CallerHeaders)
app.add_middleware(RequestId)  # last, that is outermost: every answer has the id

AWAY: dict[type[Exception], str] = {
    DatabaseError: "database",
    PoolError: "database",
    MariadbAwayError: "chat history (mariadb)",
    BrokerError: "broker",
    BatchPublishError: "broker",
    RedisError: "broker",
    ApiException: "vector database",
    ResponseHandlingException: "vector database",
    ProviderAwayError: "model provider",
    ProviderError: "model provider",
}


async def dependency_is_away(_: Request, error: Exception) -> JSONResponse:
    """A dependency that is away, or full, is a 503 that says so, never a bare 500."""
    what = next(name for kind, name in AWAY.items() if isinstance(error, kind))
    if isinstance(error, OutOfMemoryError) or isinstance(error.__cause__, OutOfMemoryError):
        detail = f"The {what} is full, and nothing was queued; try again later."
        return JSONResponse({"detail": detail}, status_code=503, headers={"Retry-After": "30"})
    return JSONResponse(
        {"detail": f"The {what} is not available; try again."},
        status_code=503,
        headers={"Retry-After": "5"},
    )


for kind in AWAY:
    app.add_exception_handler(kind, dependency_is_away)


@app.exception_handler(RequestValidationError)
async def request_is_wrong(_: Request, error: RequestValidationError) -> JSONResponse:
    """What is wrong and where. The input is not repeated: it may be a password, or no Unicode."""
    shown = [{"loc": e["loc"], "msg": e["msg"], "type": e["type"]} for e in error.errors()]
    return JSONResponse({"detail": shown}, status_code=422)


@app.exception_handler(Exception)
async def we_are_wrong(_: Request, __: Exception) -> JSONResponse:
    """A bug: its traceback is in the log, under the id that the caller sees."""
    request_id = current_request_id() or ""
    return JSONResponse(
        {"detail": f"Internal error; the log tells more of request {request_id}."},
        status_code=500,
        headers={HEADER: request_id},
    )
