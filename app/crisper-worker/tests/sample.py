"""An application that has nothing but crisper-worker."""

import os
import time

from celery import Celery
from crisper_worker import install

app = Celery("sample", broker=os.environ["BROKER"], backend=os.environ["RESULTS"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    result_backend_always_retry=True,
)
install(app)


@app.task(name="note", bind=True)
def note(self, seconds: float, ledger: str) -> str:
    """Writes its start and its end, so that a test sees effects and not states."""
    with open(ledger, "a") as book:
        book.write(f"start {self.request.id}\n")
    time.sleep(seconds)
    with open(ledger, "a") as book:
        book.write(f"end {self.request.id}\n")
    return self.request.hostname
