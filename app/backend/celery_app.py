"""The Celery application: ``celery -A backend.celery_app worker``."""

from __future__ import annotations

from celery import Celery

from backend import logs, request_id, task_metrics
from backend.settings import DEFAULT, settings

SIGNALS = (logs, request_id, task_metrics)  # connected by being imported, in web and workers alike

app = Celery(
    "backend",
    broker=settings().celery_broker_url,
    backend=settings().celery_result_backend,
    include=[
        "backend.tasks",
        "backend.tasks_research",
        "backend.worker_overview",
        *(["backend.load_test"] if settings().load_test else []),
    ],
    task_cls="backend.revoking:Revocable",
)
app.conf.update(
    task_serializer="json",
    result_serializer="json",
    accept_content=["json"],
    timezone="Asia/Seoul",
    enable_utc=True,
    task_default_queue=DEFAULT,
    task_routes={
        "regenerate_embedding_task": {"queue": "embeddings"},
        "tasks.run_research": {"queue": settings().research_queue},
    },
    task_time_limit=settings().celery_task_time_limit,
    task_soft_time_limit=settings().celery_task_soft_time_limit,
    task_track_started=True,
    # A task is acknowledged when it is done, so that a worker that dies loses none.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    # A task that kills its process is tried again max_retries times, not for ever.
    task_retry_on_worker_lost=True,
    task_annotations={"*": {"default_retry_delay": 5}},
    worker_prefetch_multiplier=1,
    worker_max_tasks_per_child=50,
    result_expires=86400,
    # A result that cannot be written while Redis restarts would turn a success into a failure.
    result_backend_always_retry=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={
        "visibility_timeout": settings().celery_visibility_timeout,
        "health_check_interval": 10,
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
    },
    redis_backend_health_check_interval=10,
    redis_socket_connect_timeout=2,
    beat_schedule={
        "health-check": {
            "task": "tasks.health_check",
            "schedule": 60.0,
            # A worker that was away for an hour must not find 60 of them.
            "options": {"expires": 50},
        }
    },
    beat_max_loop_interval=60,
)
