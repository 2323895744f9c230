"""The Celery application beside awkward.py, where its image is not built on the reference one."""

import os

from celery import Celery

app = Celery("awkward", broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"))
app.conf.update(
    result_backend=os.environ.get("CELERY_RESULT_BACKEND", "redis://localhost:6379/2"),
    broker_connection_retry_on_startup=True,
)


@app.task(name="awkward.ping")
def ping() -> str:
    """Return the release that answered."""
    return os.environ.get("RELEASE", "unknown")
