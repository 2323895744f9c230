"""What the deploy relies on: Celery's settings, the tasks' names, the schema."""

from __future__ import annotations

import subprocess
import sys

from appstack import Stack
from celery import Celery
from testkit import APP, Process

EXPECTED = {
    "task_serializer": "json",
    "result_serializer": "json",
    "accept_content": ["json"],
    "timezone": "Asia/Seoul",
    "task_time_limit": 120,
    "task_soft_time_limit": 100,
    "worker_prefetch_multiplier": 1,
    "worker_max_tasks_per_child": 50,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_track_started": True,
}


def test_a_running_worker_has_the_settings_and_the_tasks(stack: Stack) -> None:
    worker = stack.worker(CELERY_TASK_TIME_LIMIT="120", CELERY_TASK_SOFT_TIME_LIMIT="100")
    try:
        conf = inspect(stack, "conf")
        assert {name: conf.get(name) for name in EXPECTED} == EXPECTED
        assert conf["broker_transport_options"]["visibility_timeout"] == 43200
        # By this verification knows that the visibility timeout does not matter.
        assert conf["worker_consumer"] == "crisper_worker.consumer:LeaseConsumer"
        tasks = {name.split(" ")[0] for name in inspect(stack, "registered")}
        assert {"tasks.health_check", "regenerate_embedding_task", "tasks.run_research"} <= tasks
        assert {"health_check", "run_research"} <= tasks  # messages of the release before
        queues = {queue["name"] for queue in inspect(stack, "active_queues")}
        assert queues == {"default", "embeddings", "research"}
    finally:
        worker.kill()


def inspect(stack: Stack, method: str) -> dict | list:
    with Celery(broker=stack.redis.url(0)) as client:
        answers = getattr(client.control.inspect(timeout=5, limit=1), method)()
    return next(iter(answers.values()))


def test_models_and_migrations_agree(stack: Stack) -> None:
    process = Process(
        [sys.executable, "-m", "alembic", "check"], stack.environment, stack.folder / "check.log"
    )
    process.start()
    assert process.wait(30) == 0, process.log.read_text()


def test_the_web_process_does_not_load_the_model() -> None:
    script = (
        "import sys, backend.main; from backend.embeddings import _model; "
        "assert _model.cache_info().currsize == 0; "
        "assert not {'langgraph', 'openai'} & set(sys.modules)"
    )
    path = f"{APP}:{APP / 'crisper-worker/src'}"
    subprocess.run([sys.executable, "-c", script], check=True, env={"PYTHONPATH": path}, cwd=APP)
