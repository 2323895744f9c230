"""Background work."""

import os
import time

from celery import shared_task


@shared_task(name="shop.ping")
def ping() -> str:
    """Return the release that answered."""
    return os.environ.get("RELEASE", "unknown")


@shared_task(name="shop.work")
def work(seconds: float) -> float:
    """Work for a number of seconds and return it."""
    time.sleep(seconds)
    return seconds
