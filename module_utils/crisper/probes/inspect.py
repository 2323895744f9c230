"""Ask the workers everything at once, from inside a container."""

from __future__ import annotations

import contextlib
import re
import socket
import time

from .control import ControlClient, count_held, restarted

# A worker with 100,000 tasks that have an ETA is busy for seconds with an answer of 35 MB to
# `scheduled`: it is not asked where workers hold more messages than this (as in celery.drain).
MOST_HELD = 1000
METHODS = {
    "ping": {},
    "active": {},
    "reserved": {},
    "scheduled": {},
    "registered": {},
    "stats": {},
    "active_queues": {},
    "conf": {"with_defaults": True},
    "revoked": {},
}
# Settings that may leave the container: what tells how a worker works, never where it connects.
CONF_SHOWN = re.compile(r"(task_|worker_|result_|beat_|accept_content\Z|timezone\Z|enable_utc\Z)")
CONF_HIDDEN = re.compile(
    r"pass|secret|token|api_?key|security|credential|url|dsn|_backend|transport_options|scheduler"
    r"|annotations"
)


def shown_conf(conf):
    """The settings of a worker that may be shown."""
    if not isinstance(conf, dict) or "error" in conf:
        return conf
    kept = {
        key: value
        for key, value in conf.items()
        if CONF_SHOWN.match(str(key)) and not CONF_HIDDEN.search(str(key))
    }
    options = conf.get("broker_transport_options")
    if isinstance(options, dict) and "visibility_timeout" in options:
        kept["visibility_timeout"] = options["visibility_timeout"]
    return kept


def inspect(app, request):
    """Replies of all workers to all methods: ``{method: [{node: reply}, ...]}``.

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
    replies = {method: [] for method in methods}
    missing = {method: set(expected) for method in methods}

    def collector(method):
        def collect(body):
            replies[method].append(body)
            if isinstance(body, dict):
                missing[method].difference_update(body)

        return collect

    started = time.monotonic()
    # A destination would keep foreign nodes silent: everybody is asked when they matter.
    nodes = None if not expected or request["everybody"] else sorted(expected)
    for method in methods:
        client.send(
            method, arguments.get(method, METHODS.get(method, {})), nodes, collector(method)
        )
    last = started
    while not client.flooded:
        now = time.monotonic()
        left = started + timeout - now
        if not any(missing.values()) and any(replies.values()):
            # Everyone named has answered; others may follow within the settling time.
            left = min(left, last + request["settle"] - now)
        if left <= 0:
            break
        with contextlib.suppress(socket.timeout):
            if client.receive(left):
                last = time.monotonic()
    client.close()
    for reply in replies.get("conf", []):
        if isinstance(reply, dict):
            reply.update({node: shown_conf(conf) for node, conf in reply.items()})
    seconds = round(time.monotonic() - started, 4)
    return {"replies": replies, "seconds": seconds, "held": unacknowledged, "restarted": since}
