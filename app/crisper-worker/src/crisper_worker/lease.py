"""Leases for the workers of an application: the settings of this process, and its stores.

Of Celery and kombu 5.3 to 5.7 this relies on, read it at each upgrade:

- ``Channel._get_pool()`` makes a connection pool from the broker's URL and options, for Sentinel
  too; ``global_keyprefix``, ``unacked_key``, ``unacked_index_key``.
- ``kombu.transport.TRANSPORT_ALIASES`` and ``_transport_cache``: what ``redis://`` means.
- ``loader.override_backends``: what ``redis://`` means as a result backend.
- the ``worker_consumer`` setting, which is read after the ``celeryd_init`` signal.
- ``request.properties["delivery_tag"]`` in the process of the pool.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
from typing import Any

import kombu.transport
from celery import Celery, signals
from redis.exceptions import RedisError

from crisper_worker.lease_state import TRANSPORTS, Lease, broker_of
from crisper_worker.lease_store import LeaseStore
from crisper_worker.oom_bypass import OomBypassRedis

log = logging.getLogger(__name__)
SOCKET_TIMEOUT = 5.0  # seconds, where the transport options have none
RESULTS = {
    "redis": "crisper_worker.results:Results",
    "rediss": "crisper_worker.results:Results",
    "sentinel": "crisper_worker.results:SentinelResults",
}
CONSUMER = "crisper_worker.consumer:LeaseConsumer"


def arm_lease(app: Celery, seconds: float, max_deliveries: int) -> str:
    """Give this worker of `app` leases of `seconds`, before it makes its consumer.

    Returns:
        Why it has none; empty if it has.
    """
    broker = broker_of(app)
    if broker not in TRANSPORTS:
        return f"the lease needs Redis as broker, and it is {broker}"
    if app.conf.worker_consumer != "celery.worker.consumer:Consumer":
        return f"the application has a worker_consumer of its own, {app.conf.worker_consumer}"
    Lease.seconds, Lease.max_deliveries = seconds, max_deliveries
    for name, transport in TRANSPORTS.items():
        kombu.transport.TRANSPORT_ALIASES[name] = transport
        kombu.transport._transport_cache.pop(name, None)
    app.loader.override_backends = {**RESULTS, **app.loader.override_backends}
    app.conf.worker_consumer = CONSUMER
    signals.task_prerun.connect(_started)
    return ""


def open_store(channel: Any, holder: str) -> LeaseStore:
    """Return a store with connections of its own, which outlive the channel's."""
    pool = channel._get_pool()
    for timeout in ("socket_timeout", "socket_connect_timeout"):
        if pool.connection_kwargs.get(timeout, SOCKET_TIMEOUT) is None:
            pool.connection_kwargs[timeout] = SOCKET_TIMEOUT
    names = (channel.global_keyprefix, channel.unacked_key, channel.unacked_index_key)
    return LeaseStore(OomBypassRedis(connection_pool=pool), *names, holder=holder)


def open_app_store(app: Celery) -> LeaseStore:
    """Return the store of an application's broker, for a process that holds nothing.

    Raises:
        RedisError: Redis is away.
    """
    with app.connection_for_read() as connection:
        connection.connect()  # `default_channel` would try for ever
        return open_store(connection.channel(), holder="")


def own_store() -> LeaseStore:
    """Return the store of this worker.

    Raises:
        RuntimeError: it takes no messages under a lease.
    """
    if Lease.keeper is None:
        raise RuntimeError("this worker has no leases")
    return Lease.keeper.opened_store()


@functools.lru_cache(maxsize=None)
def holder_name() -> str:
    """Return this worker's name as a holder; a restarted worker is another holder."""
    return f"{os.uname().nodename}:{os.getpid()}:{secrets.token_hex(4)}"


_own_store: list[LeaseStore] = []


def _started(task: Any = None, **_kwargs: Any) -> None:
    """Note, in the process that runs a task, that it starts."""
    tag = (getattr(task.request, "properties", None) or {}).get("delivery_tag")
    if tag is None or Lease.seconds == 0:
        return  # called in place, not delivered
    try:
        if not _own_store:
            _own_store.append(open_app_store(task.app))
        _own_store[0].start(tag)
    except (RedisError, OSError) as error:
        log.warning("the start of %a cannot be noted: %s", task.request.id, error)
