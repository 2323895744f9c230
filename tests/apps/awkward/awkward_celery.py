"""The Celery application beside awkward.py, where its image is not built on the reference one.

Celery's own defaults: a task is acknowledged when it begins, and a worker takes four more for each
process. Another release of Celery than the reference application's.

    awkward_celery.py fill LONG SECONDS SHORT   (docker exec) send LONG tasks of SECONDS, then
                                                SHORT ones that last no time
    awkward_celery.py count                     (docker exec) tell what became of them, as JSON
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter

from celery import Celery

BEGUN, ENDED = "awkward:begun", "awkward:ended"
QUEUE = "celery"

app = Celery("awkward", broker=os.environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0"))
app.conf.update(
    result_backend=os.environ.get("CELERY_RESULT_BACKEND", "redis://localhost:6379/2"),
    broker_connection_retry_on_startup=True,
)


@app.task(name="awkward.ping")
def ping() -> str:
    """Return the release that answered."""
    return os.environ.get("RELEASE", "unknown")


@app.task(name="awkward.work", ignore_result=True)
def work(key: str, seconds: float = 0) -> None:
    """Last for so long, and leave one mark at the begin and one at the end."""
    app.backend.client.hincrby(BEGUN, key, 1)
    time.sleep(seconds)
    app.backend.client.hincrby(ENDED, key, 1)


def fill(long: int, seconds: float, short: int) -> None:
    """Send the tasks, those that last first."""
    with app.producer_pool.acquire(block=True) as producer:
        for number in range(long):
            work.apply_async((f"long-{number}", seconds), producer=producer)
        for number in range(short):
            work.apply_async((f"short-{number}",), producer=producer)


def count() -> dict[str, int]:
    """Return how many began, ended, did so more than once, and wait."""
    client = app.backend.client
    begun = {key: int(n) for key, n in client.hgetall(BEGUN).items()}
    ended = {key: int(n) for key, n in client.hgetall(ENDED).items()}
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        waiting, taken = channel.client.llen(QUEUE), channel.client.hlen("unacked")
    kinds = Counter(key.decode().partition("-")[0] for key in ended)
    return {
        "begun": len(begun),
        "ended": len(ended),
        "long_ended": kinds["long"],
        "doubled": sum(n > 1 for n in begun.values()) + sum(n > 1 for n in ended.values()),
        "cut": len(begun.keys() - ended.keys()),
        "waiting": waiting,
        "taken": taken,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["fill"]:
        fill(int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
    print(json.dumps(count()))
