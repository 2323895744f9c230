"""The guard's settings, from the environment."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

HEARTBEAT_FILE = "/tmp/celery-heartbeat"
DRAIN_TIMEOUT = 300
LEASE_SECONDS = 30
MAX_DELIVERIES = 5
REPLACE_SECONDS = 40  # more than Celery's longest pause between two tries to connect, 30 s


@dataclass(frozen=True)
class Settings:
    """The settings of a worker's guard.

    Args:
        heartbeat_file: ``CELERY_HEARTBEAT_FILE``, path of the file.
        drain_timeout: ``CELERY_DRAIN_TIMEOUT``, seconds a stopping worker may finish what runs
            before it puts it back.
        lease_seconds: ``CELERY_LEASE_SECONDS``, a worker that has not renewed the lease of a
            message for that long is taken for dead; 0 for no leases.
        max_deliveries: ``CELERY_MAX_DELIVERIES``, a task that killed its worker or process that
            often is set aside; 0 for never.
        replace_seconds: ``CELERY_REPLACE_SECONDS``, a worker that has not consumed for that long
            though the broker answers ends, for its container to start again; 0 for never.
    """

    heartbeat_file: str
    drain_timeout: float
    lease_seconds: float
    max_deliveries: int
    replace_seconds: float

    @classmethod
    def read(cls) -> Settings:
        """Return what the environment says, and else the defaults.

        Raises:
            ValueError: a number is none, or out of its range.
        """
        return cls(
            heartbeat_file=os.environ.get("CELERY_HEARTBEAT_FILE") or HEARTBEAT_FILE,
            drain_timeout=_number("CELERY_DRAIN_TIMEOUT", DRAIN_TIMEOUT),
            lease_seconds=_number("CELERY_LEASE_SECONDS", LEASE_SECONDS, least=2),
            max_deliveries=int(_number("CELERY_MAX_DELIVERIES", MAX_DELIVERIES, least=1)),
            replace_seconds=_number("CELERY_REPLACE_SECONDS", REPLACE_SECONDS, least=2),
        )


def _number(name: str, default: float, least: float = 0) -> float:
    """Return the environment's variable `name`, else the default.

    Raises:
        ValueError: neither 0 nor a finite number of at least `least`.
    """
    value = os.environ.get(name) or default
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if number == 0 or least <= number < math.inf:
        return number
    raise ValueError(f"{name} is {value!r}: set a number of at least {least:g}, or 0")
