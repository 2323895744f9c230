"""Sends sentinel tasks and requests while a deploy runs, until SIGTERM; then tells the numbers.

Runs in a one-off container of the release that serves, as ``python -c`` with its sources;
imports its siblings by their short names, inside functions.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

PREFIX = "crisper-ledger-"


# Seconds until a request counts as one without an answer.
TIMEOUT = 10
# Requests on their way at once. While every second one hangs, five new ones a second do: 50.
SLOTS = 64


def ask(request, context):
    """Return the status that a browser gets which types the site's name: plainly, then by HTTPS.

    Only nginx's own redirect to HTTPS is followed, by its certificate: whether there is one may
    change while a deploy runs. `context` is what is trusted then; without one the redirect is the
    application's own, and an answer.
    """
    from crisper_https import connect, get

    headers = {"User-Agent": "crisper-ledger", "X-Forwarded-Proto": request["site_scheme"]}
    if request["site_host"]:
        headers["Host"] = request["site_host"]
    plain = http.client.HTTPConnection(request["host"], request["port"], timeout=TIMEOUT)
    status, location = get(plain, request["path"], headers)
    if context and status == 301 and location.startswith("https://"):
        url = urllib.parse.urlsplit(location)
        headers.setdefault("Host", url.netloc)
        port = request["secure_port"]
        secure = connect(request["host"], port, url.hostname, context, TIMEOUT)
        status, _ = get(secure, request["path"], headers)
    return status


def probe_once(request, context, requests):
    """Ask once, and count what came of it."""
    from crisper_ledger import TIMED_OUT

    try:
        requests.saw(ask(request, context))
    except socket.timeout:
        requests.saw(0, TIMED_OUT)
    except Exception as problem:
        requests.saw(0, type(problem).__name__)


def probe_requests(request, requests, stop):
    """Ask the front door on schedule, each time by a new connection, until told to stop.

    A request that hangs holds up no other. Returns when those on their way have ended.
    """
    from crisper_https import trusting

    context = trusting(request["certificates"]) if request["certificates"] else None
    slots = threading.Semaphore(SLOTS)

    def probe():
        try:
            probe_once(request, context, requests)
        finally:
            slots.release()

    # Threads are started as they are needed: one, while nothing hangs.
    with ThreadPoolExecutor(SLOTS) as pool:
        due = time.monotonic()
        while not stop.is_set():
            if not slots.acquire(timeout=0.1):
                continue
            requests.sent()
            pool.submit(probe)
            due = max(due + request["request_interval"], time.monotonic())
            stop.wait(due - time.monotonic())


def listen(app, pattern, ledger):
    """Take what Redis has told of the sentinels' states since the last call."""
    import redis

    try:
        if listen.pubsub is None:
            listen.pubsub = app.backend.client.pubsub(ignore_subscribe_messages=True)
            listen.pubsub.psubscribe(pattern)
        while True:
            message = listen.pubsub.get_message(timeout=0.02)
            if message is None:
                return
            meta = json.loads(message["data"])
            if ledger.hear(meta["task_id"], meta["status"]):
                app.backend.client.delete(message["channel"])
    except (redis.RedisError, OSError):
        listen.pubsub = None  # Redis is restarted: what is missed is asked for at the end


listen.pubsub = None


def waiting_ids(app, queues, ids):
    """Those of `ids` that lie in a queue or with a worker."""
    import redis

    found = set()
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        client = redis.Redis(connection_pool=channel.pool)
        prefix = channel.global_keyprefix
        messages = [raw for queue in queues for raw in client.lrange(prefix + queue, 0, -1)]
        messages += client.hvals(prefix + channel.unacked_key)
        for raw in messages:
            text = raw.decode(errors="replace")
            found.update(task_id for task_id in ids if task_id in text)
    return sorted(found)


def main(request, marker):
    """Run until SIGTERM (or the time limit); print the numbers."""
    from crisper_celery_probe import load_app
    from crisper_ledger import Ledger, Requests

    output = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    ledger, requests = Ledger(), Requests(request["expected"])
    prober = threading.Thread(target=probe_requests, args=(request, requests, stop), daemon=True)
    prober.start()
    app = load_app(request["app"])
    prefix = PREFIX + request["run"] + "-"
    pattern = app.backend.get_key_for_task(prefix).decode() + "*"
    listen(app, pattern, ledger)
    ends = time.monotonic() + request["limit"]
    number, due = 0, time.monotonic()
    while not stop.is_set() and time.monotonic() < ends:
        if time.monotonic() >= due:
            due = time.monotonic() + request["task_interval"]
            for queue in request["queues"]:
                number += 1
                task_id = prefix + str(number)
                try:
                    # No subscription for each call; the worker stores the result all the same.
                    app.send_task(
                        request["task"],
                        task_id=task_id,
                        queue=queue,
                        retry=False,
                        ignore_result=True,
                        headers={"ignore_result": False},
                    )
                    ledger.sent(task_id)
                except Exception:
                    ledger.refused += 1  # the broker said no: the sender knows, nothing is lost
        listen(app, pattern, ledger)
        stop.wait(0.05)
    stop.set()
    last = time.monotonic() + request["wait"]
    while ledger.open() and time.monotonic() < last:
        listen(app, pattern, ledger)
        time.sleep(0.02)
    # Nothing waits here as a rule; a request that hangs has its time to be answered, and no more.
    prober.join(TIMEOUT + 1)
    try:
        for task_id in ledger.open():
            if ledger.hear(task_id, app.backend.get_task_meta(task_id)["status"]):
                app.backend.forget(task_id)
        waiting = waiting_ids(app, request["queues"], ledger.open()) if ledger.open() else []
        reply = {"tasks": ledger.summary(waiting), "requests": requests.summary()}
    except Exception as error:
        reply = {"error": type(error).__name__, "requests": requests.summary()}
    os.write(output, ("\n" + marker + json.dumps(reply) + "\n").encode())
    sys.stderr.flush()
    os._exit(0)
