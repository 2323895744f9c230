"""Prometheus metrics: requests by route and status, and what waits in the queues."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable

from fastapi import APIRouter, FastAPI, Request, Response
from kombu.exceptions import OperationalError
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from redis.exceptions import RedisError

from backend.celery_app import app as celery

REQUESTS = Counter("http_requests_total", "Requests", ["method", "route", "status"])
SECONDS = Histogram("http_request_seconds", "Seconds per request", ["method", "route"])
CACHE_HITS = Counter("cache_hits_total", "Questions answered from the cache")
CACHE_MISSES = Counter("cache_misses_total", "Questions that the cache had no answer to")
RAG_SECONDS = Histogram("rag_query_seconds", "Seconds per question, cached ones too")
QUEUES = ("default", "embeddings")
router = APIRouter()


class QueueDepth:
    """Waiting and unacknowledged messages, asked of Redis at scrape time."""

    def describe(self) -> Iterable[Metric]:
        """Nothing: to register it would collect otherwise, and wait for a Redis that is silent."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Gauges; none of them while the broker is away."""
        depth = GaugeMetricFamily("celery_queue_depth", "Waiting tasks", labels=["queue"])
        unacked = GaugeMetricFamily("celery_unacked", "Tasks delivered and not acknowledged")
        try:
            with celery.connection_for_read() as connection:
                redis = connection.default_channel.client
                for queue in QUEUES:
                    depth.add_metric([queue], redis.llen(queue))
                unacked.add_metric([], redis.hlen("unacked"))
        except (OperationalError, RedisError, OSError):
            return
        yield depth
        yield unacked


@router.get("/metrics", include_in_schema=False)
def metrics() -> Response:
    """All metrics in Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def measure(app: FastAPI) -> None:
    """Count and time every request by its route (never by its raw path)."""
    REGISTRY.register(QueueDepth())

    @app.middleware("http")
    async def _measured(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        started = time.monotonic()
        status = 500
        try:
            response = await call_next(request)
            status = response.status_code
            return response
        finally:
            route = getattr(request.scope.get("route"), "path", "none")
            REQUESTS.labels(request.method, route, status).inc()
            SECONDS.labels(request.method, route).observe(time.monotonic() - started)
