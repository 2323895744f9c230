"""An application that knows nothing of crisper-worker."""

import os
import signal
import time

from celery import Celery
from celery.worker.control import control_command

app = Celery("sample", broker=os.environ["BROKER"], backend=os.environ["RESULTS"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    result_backend_always_retry=True,
    broker_transport_options={"global_keyprefix": os.environ.get("PREFIX", "")},
)
if "EVERY" in os.environ:  # seconds
    app.conf.beat_schedule = {
        "often": {"task": "note", "schedule": float(os.environ["EVERY"]), "args": (0, "")}
    }
if "BLOCKED" in os.environ:  # the name of a queue, of an entry before the other one
    blocked = {**app.conf.beat_schedule["often"], "options": {"queue": os.environ["BLOCKED"]}}
    app.conf.beat_schedule = {"blocked": blocked, **app.conf.beat_schedule}
if "SCHEDULER" in os.environ:
    app.conf.beat_scheduler = os.environ["SCHEDULER"]


def write(ledger: str, word: str, task_id: str) -> None:
    """One line, so that a test sees effects and not states."""
    with open(ledger, "a") as book:
        book.write(f"{word} {task_id} {time.time()}\n")


@app.task(name="note", bind=True)
def note(self, seconds: float, ledger: str) -> str:
    """Writes its start and its end."""
    write(ledger, "start", self.request.id)
    time.sleep(seconds)
    write(ledger, "end", self.request.id)
    return self.request.hostname


@app.task(name="die", bind=True)
def die(self, times: int, whole: bool, ledger: str) -> None:
    """Kills its process, or its worker too if `whole`, the first `times` times it starts."""
    write(ledger, "start", self.request.id)
    with open(ledger) as book:
        starts = sum(line.startswith(f"start {self.request.id} ") for line in book)
    if starts <= times:
        os.killpg(0, signal.SIGKILL) if whole else os.kill(os.getpid(), signal.SIGKILL)
    write(ledger, "end", self.request.id)


@app.task(name="again", bind=True, max_retries=None)
def again(self, seconds: float, times: int, ledger: str) -> None:
    """Takes a while, and tries again the first `times` times."""
    write(ledger, "start", self.request.id)
    time.sleep(seconds)
    if self.request.retries < times:
        raise self.retry(countdown=0)
    write(ledger, "end", self.request.id)


@control_command()
def lose_consumer(state) -> None:
    """The channel forgets its consumers, and nobody notices."""
    channel = state.consumer.task_consumer.channel
    for tag in list(channel._consumers):
        channel.basic_cancel(tag)


@control_command()
def stop_asking(state) -> None:
    """The channel never asks for a message again."""
    state.consumer.task_consumer.channel._brpop_start = lambda timeout=None: None


@control_command()
def stand_still(state) -> None:
    """The event loop does nothing any more."""
    time.sleep(3600)
