"""Sends sentinel tasks and requests while a deploy runs, until SIGTERM; then tells the numbers.

Runs in a one-off container of the release that serves, as ``python -c`` with its sources;
imports its siblings by their short names, inside functions.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import threading
import time
import urllib.parse

PREFIX = "crisper-ledger-"


def get(connection, path):
    """Status of an answer, and where it redirects to."""
    try:
        connection.request("GET", path, headers={"User-Agent": "crisper-ledger"})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.getheader("Location") or ""
    finally:
        connection.close()


def ask(request, context):
    """Ask the front door as one who types its name: plainly, and where it says so by HTTPS.

    Whether it does may change while a deploy runs. `context` is what is trusted then; without one
    the redirect is the application's own, and an answer.
    """
    from crisper_https import connect

    plain = http.client.HTTPConnection(request["host"], request["port"], timeout=10)
    status, location = get(plain, request["path"])
    if context and status == 301 and location.startswith("https://"):
        name = urllib.parse.urlsplit(location).hostname
        secure = connect(request["host"], request["secure_port"], name, context, 10)
        status, _ = get(secure, request["path"])
    return status


def probe_requests(request, requests, stop):
    """Ask the front door again and again, each time by a new connection."""
    from crisper_https import trusting

    context = trusting(request["certificates"]) if request["certificates"] else None
    while not stop.is_set():
        begun = time.monotonic()
        error = ""
        try:
            status = ask(request, context)
            if status >= 500:
                error = "HTTP " + str(status)
        except Exception as problem:
            error = type(problem).__name__
        requests.saw(error)
        stop.wait(max(0.0, request["request_interval"] - (time.monotonic() - begun)))


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
    ledger, requests = Ledger(), Requests()
    threading.Thread(target=probe_requests, args=(request, requests, stop), daemon=True).start()
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
