"""The Celery application of test_celery_drain.py, as workers and the probe import it."""

import os
import time
from pathlib import Path

from celery import Celery

app = Celery("drain_tasks", broker=os.environ["TEST_BROKER"], backend=os.environ["TEST_BROKER"])
app.conf.update(
    task_acks_late="TEST_LATE" in os.environ or "TEST_PREFETCH" not in os.environ,
    worker_prefetch_multiplier=int(os.environ.get("TEST_PREFETCH", "1")),
    task_default_queue="one",
    broker_transport_options={
        "visibility_timeout": 3600,
        "global_keyprefix": os.environ.get("TEST_PREFIX", ""),
    },
    broker_connection_retry_on_startup=True,
)
print("an application that talks while it is imported")

if "TEST_FORGET" in os.environ:
    from celery.worker import strategy

    made = strategy.create_request_cls

    def create_request_cls(*args, **kwargs):
        """Have a worker miss the end of its tasks, as Celery 5.5.3 does of those that ran when
        Redis was restarted: what such a one lists and leaves unacknowledged is the same.
        """
        cls = made(*args, **kwargs)
        cls.on_success = lambda *_args, **_kwargs: None
        return cls

    strategy.create_request_cls = create_request_cls


@app.task(name="nap")
def nap(mark, seconds=0.0):
    with Path(os.environ["TEST_MARKS"]).open("a") as marks:
        marks.write(f"start {mark} {os.environ['TEST_WORKER']}\n")
    time.sleep(seconds)
    with Path(os.environ["TEST_MARKS"]).open("a") as marks:
        marks.write(f"end {mark} {os.environ['TEST_WORKER']}\n")


@app.task(name="hold")
def hold(mark, released):
    """Run until the file `released` exists."""
    with Path(os.environ["TEST_MARKS"]).open("a") as marks:
        marks.write(f"start {mark} {os.environ['TEST_WORKER']}\n")
    while not Path(released).exists():
        time.sleep(0.02)
    with Path(os.environ["TEST_MARKS"]).open("a") as marks:
        marks.write(f"end {mark} {os.environ['TEST_WORKER']}\n")


@app.task(name="hourly", rate_limit="1/h")
def hourly():
    return None


@app.task(name="health")
def health():
    return {"worker": os.environ["TEST_WORKER"]}
