"""Ask the workers everything at once, from inside a container."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any

from ..celery.task_info import TASK_INFO
from .control import ControlClient, count_held, restarted, unreadable_key

# A worker with 100,000 tasks that have an ETA is busy for seconds with an answer of 35 MB to
# `scheduled`: it is not asked where workers hold more messages than this (as in celery.drain).
MOST_HELD = 1000
METHODS: dict[str, dict[str, Any]] = {
    "ping": {},
    "active": {},
    "reserved": {},
    "scheduled": {},
    "registered": {"taskinfoitems": list(TASK_INFO)},
    "stats": {},
    "active_queues": {},
    "conf": {"with_defaults": True},
    "revoked": {},
}
# Settings that may leave the container: what tells how a worker works, never where it connects.
CONF_SHOWN = re.compile(
    r"(task_|worker_|result_|beat_|(accept_content|timezone|enable_utc|crisper_guard)\Z)"
)
CONF_HIDDEN = re.compile(
    r"pass|secret|token|api_?key|security|credential|url|dsn|_backend|transport_options|scheduler"
    r"|annotations"
)


def shown_conf(conf: Any) -> Any:
    """Return the settings of a worker that may be shown."""
    if not isinstance(conf, dict) or "error" in conf:
        return conf
    public = {
        key: value
        for key, value in conf.items()
        if CONF_SHOWN.match(str(key)) and not CONF_HIDDEN.search(str(key))
    }
    options = conf.get("broker_transport_options")
    if isinstance(options, dict) and "visibility_timeout" in options:
        public["visibility_timeout"] = options["visibility_timeout"]
    return public


class Collector:
    """Replies by method, and the nodes that are missing among them."""

    def __init__(self, methods: Iterable[str], expected: Iterable[str]) -> None:
        self.replies: dict[str, list[Any]] = {method: [] for method in methods}
        self.missing = {method: set(expected) for method in self.replies}

    def reader(self, method: str) -> Callable[[Any], None]:
        """Return what takes the body of a reply to that method."""

        def read(body: Any) -> None:
            self.replies[method].append(body)
            if isinstance(body, dict):
                self.missing[method].difference_update(body)

        return read

    @property
    def complete(self) -> bool:
        """Return whether everyone named has answered everything, and somebody something."""
        return not any(self.missing.values()) and any(self.replies.values())

    def collect(self, client: ControlClient, timeout: float, settle: float) -> None:
        """Take replies in, at most for `timeout` seconds.

        When it is complete others may follow: it ends `settle` seconds after the last reply.
        """
        started = last = time.monotonic()
        while not client.flooded:
            now = time.monotonic()
            remaining = started + timeout - now
            if self.complete:
                remaining = min(remaining, last + settle - now)
            if remaining <= 0:
                break
            with contextlib.suppress(socket.timeout):
                if client.receive(remaining):
                    last = time.monotonic()


def inspect(app: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Return the replies of all workers to all methods: ``{method: [{node: reply}, ...]}``.

    All methods are sent at once and their replies collected together. Without ``scheduled`` where
    workers hold more than `MOST_HELD` messages.
    """
    methods, timeout = request["methods"], request["timeout"]
    expected = set(request.get("destination") or ())
    arguments = request.get("arguments") or {}
    client = ControlClient(app, timeout, request.get("connect_timeout", timeout), json_only=True)
    unacknowledged = count_held(client.connection) if "scheduled" in methods else None
    since = restarted(client.connection) if unacknowledged else None
    if (unacknowledged or 0) > MOST_HELD:
        methods = [method for method in methods if method != "scheduled"]
    collector = Collector(methods, expected)
    started = time.monotonic()
    # A destination would keep foreign nodes silent: everybody is asked when they matter.
    nodes = None if not expected or request["everybody"] else sorted(expected)
    for method in methods:
        details = arguments.get(method, METHODS.get(method, {}))
        client.send(method, details, nodes, collector.reader(method))
    collector.collect(client, timeout - (time.monotonic() - started), request["settle"])
    queues = (request.get("canary") or {}).get("queues") or ()
    unreadable = unreadable_key(client.connection, [*app.amqp.queues, *queues])
    client.close()
    replies = collector.replies
    for reply in replies.get("conf", []):
        if isinstance(reply, dict):
            reply.update({node: shown_conf(conf) for node, conf in reply.items()})
    seconds = round(time.monotonic() - started, 4)
    facts = {"held": unacknowledged, "restarted": since, "unreadable": unreadable}
    return {"replies": replies, "seconds": seconds, **facts}
