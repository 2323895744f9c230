"""Prometheus metrics: requests by route and status, runs of tasks, what waits in the queues."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from itertools import accumulate

from fastapi import APIRouter, FastAPI, Request, Response
from kombu.exceptions import OperationalError
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from redis.exceptions import RedisError

from backend import task_metrics
from backend.queue_depths import depths

REQUESTS = Counter("http_requests_total", "Requests", ["method", "route", "status"])
SECONDS = Histogram("http_request_seconds", "Seconds per request", ["method", "route"])
CACHE_HITS = Counter("cache_hits_total", "Questions answered from the cache")
CACHE_MISSES = Counter("cache_misses_total", "Questions that the cache had no answer to")
RAG_SECONDS = Histogram("rag_query_seconds", "Seconds per question, cached ones too")
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
            now = depths()
        except (OperationalError, RedisError, OSError):
            return
        for queue, waiting in now.waiting.items():
            depth.add_metric([queue], waiting)
        unacked.add_metric([], now.unacked)
        yield depth
        yield unacked


class Tasks:
    """Runs of tasks in all workers, as they counted them in Redis."""

    def describe(self) -> Iterable[Metric]:
        """Nothing: to register it would collect otherwise, and wait for a Redis that is silent."""
        return []

    def collect(self) -> Iterable[Metric]:
        """A counter and a histogram; none of them while Redis is away."""
        total = CounterMetricFamily("celery_tasks", "Runs of tasks", labels=["task", "state"])
        took = HistogramMetricFamily("celery_task_seconds", "Seconds per run", labels=["task"])
        try:
            totals, seconds = task_metrics.totals(), task_metrics.seconds()
        except (RedisError, OSError):
            return
        for labels, number in totals.items():
            total.add_metric(labels, number)
        for task, known in seconds.items():
            numbers = (known.buckets[bucket] for bucket in task_metrics.BUCKETS)
            up_to = list(zip(task_metrics.BUCKETS, accumulate(numbers), strict=True))
            took.add_metric([task], up_to, known.sum)
        yield total
        yield took


@router.get("/metrics", include_in_schema=False)
def metrics() -> Response:
    """All metrics in Prometheus' text format."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def measure(app: FastAPI) -> None:
    """Count and time every request by its route (never by its raw path)."""
    for collector in (QueueDepth(), Tasks()):
        REGISTRY.register(collector)

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
