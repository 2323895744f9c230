"""What waits in the queues, asked of Redis."""

from __future__ import annotations

from dataclasses import dataclass

from backend.celery_app import app as celery

PATIENCE = 2  # seconds, also with a broker that takes connections and says nothing


@dataclass(frozen=True)
class Depths:
    """Messages waiting per queue, and those delivered and not acknowledged."""

    waiting: dict[str, int]
    unacked: int


def names() -> list[str]:
    """The default queue and all that tasks are routed to."""
    routed = {route["queue"] for route in celery.conf.task_routes.values()}
    return sorted({celery.conf.task_default_queue, *routed})


def depths() -> Depths:
    """One round trip.

    Raises:
        kombu.exceptions.OperationalError, redis.exceptions.RedisError, OSError: the broker is away.
    """
    options = {**celery.conf.broker_transport_options, "socket_timeout": PATIENCE}
    with celery.connection_for_read().clone(transport_options=options) as connection:
        connection.ensure_connection(max_retries=1, timeout=PATIENCE)
        with connection.default_channel.client.pipeline(transaction=False) as pipe:
            for queue in names():
                pipe.llen(queue)
            pipe.hlen("unacked")
            *waiting, unacked = pipe.execute()
    return Depths(dict(zip(names(), waiting, strict=True)), unacked)
