"""The web application: ``uvicorn backend.main:app``."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from sqlalchemy.exc import OperationalError as DatabaseError

from backend import metrics
from backend.api import admin, health, tasks
from backend.settings import settings

app = FastAPI(title="Crisper reference application", version=settings().release)
for module in (health, admin, tasks, metrics):
    app.include_router(module.router)
metrics.measure(app)


@app.exception_handler(DatabaseError)
@app.exception_handler(BrokerError)
@app.exception_handler(RedisError)
async def dependency_is_away(_: Request, error: Exception) -> JSONResponse:
    """A dependency that is away is a 503 that says so, never a bare 500."""
    what = "database" if isinstance(error, DatabaseError) else "broker"
    return JSONResponse(
        {"detail": f"The {what} is not available; try again."},
        status_code=503,
        headers={"Retry-After": "5"},
    )
