"""Sends sentinel tasks and requests while a deploy runs; when it is stopped, tells the numbers.

Runs in a one-off container of the release that serves, as ``python -c`` with its sources.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
import urllib.parse
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ..http import connect, get, trusting
from ..ledger.counts import TIMED_OUT, Ledger, Requests
from .control import connected, load_app
from .inspect import inspect
from .leftovers import leftovers_of_results, result_name
from .queue_head import QueueHead
from .serve import Output, when_told_to_stop

if TYPE_CHECKING:
    import ssl

PREFIX = "crisper-ledger-"
# A sentinel with one of these states has ended.
FINAL_STATES = ("SUCCESS", "FAILURE", "REVOKED")
# Sentinels of one queue that may be open: enough to see tasks lost or run twice, and nothing that a
# backlog would feel.
OPEN = 3
# Seconds after which a sentinel is not merely on its way: a free process takes it in a hundredth.
SETTLE = 1.0
# Seconds without an end of the queue's sentinels after which a worker that holds one is busy.
STILL = 3.0
# Seconds to connect to the broker, to read what workers hold, and for all workers to answer.
CONNECT, SCAN, ANSWER = 2.0, 5.0, 5.0
# Seconds for which one look takes in what was published.
LISTEN = 0.5
# Seconds until a request counts as one without an answer.
TIMEOUT = 10
# Requests on their way at once. While every second one hangs, five new ones a second do: 50.
SLOTS = 64


def ask(request: dict[str, Any], context: ssl.SSLContext | None) -> int:
    """Return the status that a browser gets which types the site's name: plainly, then by HTTPS.

    Only nginx's own redirect to HTTPS is followed, by its certificate: whether there is one may
    change while a deploy runs. `context` is what is trusted then; without one the redirect is the
    application's own, and an answer.
    """
    headers = {"User-Agent": "crisper-ledger", "X-Forwarded-Proto": request["site_scheme"]}
    if request["site_host"]:
        headers["Host"] = request["site_host"]
    plain = http.client.HTTPConnection(request["host"], request["port"], timeout=TIMEOUT)
    status, location = get(plain, request["path"], headers)
    if context and status == 301 and location.startswith("https://"):
        url = urllib.parse.urlsplit(location)
        headers.setdefault("Host", url.netloc)
        port = request["secure_port"]
        secure = connect(request["host"], port, url.hostname or "", context, TIMEOUT)
        status, _ = get(secure, request["path"], headers)
    return status


def probe_once(request: dict[str, Any], context: ssl.SSLContext | None, requests: Requests) -> None:
    """Ask once, and count what came of it."""
    try:
        requests.saw(ask(request, context))
    except socket.timeout:
        requests.saw(0, TIMED_OUT)
    except Exception as problem:
        requests.saw(0, type(problem).__name__)


def probe_requests(request: dict[str, Any], requests: Requests, stop: threading.Event) -> None:
    """Ask the entry point on schedule, each time by a new connection, until told to stop.

    A request that hangs holds up no other. Returns when those on their way have ended.
    """
    context = trusting(request["certificates"]) if request["certificates"] else None
    slots = threading.Semaphore(SLOTS)

    def probe() -> None:
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


class Subscription:
    """Messages of Redis with the sentinels' states, published when results are stored."""

    def __init__(self, app: Any, pattern: str) -> None:
        """Begin without a connection; `pattern` is of the keys of results."""
        self.app, self.pattern = app, pattern
        self.pubsub: Any = None

    def listen(self, ledger: Ledger) -> None:
        """Take what Redis has told since the last call.

        Others may publish there as well: what is no state of a sentinel is left out, and a flood of
        it ends the call. An end that is missed is asked for later.
        """
        import redis

        until = time.monotonic() + LISTEN
        client = self.app.backend.client
        try:
            if self.pubsub is None:
                self.pubsub = client.pubsub(ignore_subscribe_messages=True)
                self.pubsub.psubscribe(self.pattern)
            while time.monotonic() < until:
                message = self.pubsub.get_message(timeout=0.02)
                if message is None:
                    return
                task_id, state = stored_state(message["data"])
                if task_id in ledger.queues and ledger.hear(task_id, state):
                    client.delete(message["channel"])
        except (redis.RedisError, OSError):
            self.pubsub = None  # Redis is restarted: what is missed is asked for at the end


def stored_state(raw: Any) -> tuple[str, str]:
    """Return the id and the state in a stored result; empty ones where it is none."""
    try:
        meta = json.loads(raw)
    except (ValueError, TypeError, RecursionError):
        meta = None
    meta = meta if isinstance(meta, dict) else {}
    task_id, state = meta.get("task_id"), meta.get("status")
    return (
        task_id if isinstance(task_id, str) else "",
        state if isinstance(state, str) else "",
    )


class Sentinels:
    """Sends sentinels and hears of their ends; at the end it tells where the others are."""

    def __init__(self, app: Any, request: dict[str, Any], ledger: Ledger) -> None:
        """Begin; `request` is what `main` takes."""
        self.app, self.request, self.ledger = app, request, ledger
        self.prefix = PREFIX + request["run"] + "-"
        pattern = app.backend.get_key_for_task(self.prefix).decode() + "*"
        self.subscription = Subscription(app, pattern)
        self.head = QueueHead(app, lambda: connected(app, CONNECT))
        self.leftovers = leftovers_of_results(app)
        if self.leftovers:
            self.leftovers.sweep()
        self.number = 0
        self.sent_at: dict[str, float] = {}  # those that are open -> seconds
        self.ended_at: dict[str, float] = {}  # queue -> seconds of the last end that was heard
        self.stranded: set[str] = set()  # those that no worker knew at the end
        self.final: set[str] = set()  # open ones whose result was there at the last look

    def send(self, queue: str) -> None:
        """Send one sentinel through the queue, unless enough of its are open already.

        A busy pool gets no backlog of sentinels, and neither does a queue that nobody consumes.
        """
        if len(self.ledger.open(queue)) >= OPEN:
            self.recall(queue)
            return
        self.number += 1
        task_id = self.prefix + str(self.number)
        try:
            # With another broker than Redis it cannot be taken back.
            options: dict[str, Any] = {}
            if not self.head.exact:
                options["expires"] = self.request["limit"]
            # No subscription for each call; the worker stores the result all the same.
            headers = {"ignore_result": False}
            options.update(ignore_result=True, headers=headers)
            self.head.send(self.request["task"], task_id, queue, **options)
        except Exception:
            self.ledger.refused += 1  # the broker said no: the sender knows, nothing is lost
            return
        self.ledger.sent(task_id, queue)
        self._note(task_id)
        self.sent_at[task_id] = time.monotonic()

    def listen(self) -> None:
        """Take in what was told of them since the last call."""
        self.subscription.listen(self.ledger)
        for task_id in [one for one in self.sent_at if one in self.ledger.ends]:
            self._ended(task_id)

    def recall(self, queue: str) -> None:
        """Ask for the results of a queue's open ones: their ends were told while Redis was away.

        One is believed at the second look: its end may be told at this moment, and would count
        twice.
        """
        try:
            for task_id in self.ledger.open(queue):
                self._ask(task_id, task_id in self.final)
        except Exception:  # the backend is away; the next look is soon
            return

    def finish(self, wait: float) -> list[str]:
        """Wait until all have ended that will soon; return those that wait or are unacknowledged.

        Those that lie in a queue are removed and not waited for. Those that workers hold are waited
        for while tasks of their queue end. What is neither may be on its way: it has `wait`
        seconds.
        """
        waiting: set[str] = set()
        deadline, look_at = time.monotonic() + wait, 0.0
        while True:
            self.listen()
            pending, now = set(self.ledger.open()) - waiting, time.monotonic()
            if not pending or now >= deadline:
                break
            if now >= look_at:
                due = (one for one in pending if now - self.sent_at[one] > SETTLE)
                waiting |= self._take_back(due)
                pending -= waiting
                unacked = self._find_unacked(pending)
                look_at = time.monotonic() + SETTLE / 2
                if pending and all(one in unacked and not self._moves(one) for one in pending):
                    break
            time.sleep(0.02)
        for task_id in self.ledger.open():
            self._ask(task_id, final=True)
        pending = set(self.ledger.open()) - waiting
        waiting |= self._take_back(pending)
        unacked = self._find_unacked(pending - waiting)
        try:
            self.stranded = self._unknown(unacked)
        except Exception:  # workers that cannot be asked cost no number that is known
            self.stranded = set()
        return sorted(waiting | unacked)

    def _moves(self, task_id: str) -> bool:
        """Return whether an end of that sentinel may be near: its queue's tasks end."""
        last = self.ended_at.get(self.ledger.queues[task_id], 0.0)
        return time.monotonic() - max(last, self.sent_at[task_id]) < STILL

    def _take_back(self, task_ids: Iterable[str]) -> set[str]:
        import redis

        try:
            return {task_id for task_id in task_ids if self.head.take_back(task_id)}
        except redis.ResponseError:  # another kind of key is where a queue was
            return set()

    def _find_unacked(self, task_ids: Collection[str]) -> set[str]:
        """Return those that workers hold; all, where that cannot be told."""
        import redis

        try:
            found = self.head.find_unacked(task_ids, SCAN) if task_ids else set()
        except redis.ResponseError:  # another kind of key is where messages were
            found = None
        return set(task_ids) if found is None else found

    def _unknown(self, task_ids: Iterable[str]) -> set[str]:
        """Return those that are unacknowledged while no worker tells of them, in two looks.

        None where that cannot be said: nobody answered, or the task has a rate limit, which a
        worker holds it for without telling.
        """
        request: dict[str, Any] = {"methods": ["ping", "active", "reserved", "registered"]}
        request.update(timeout=ANSWER, settle=0.3, everybody=True, destination=[])
        request["arguments"] = {"registered": {"taskinfoitems": ["rate_limit"]}}
        suspects = set(task_ids)
        for pause in (SETTLE, 0.0):
            found = self.head.find_unacked(suspects, SCAN) if suspects else set()
            replies = inspect(self.app, request)["replies"] if found else {}
            if not replies.get("ping") or has_limit(self.request["task"], replies["registered"]):
                return set()
            known = listed_ids(replies["active"]) | listed_ids(replies["reserved"])
            suspects = (found or set()) - known
            if suspects:
                time.sleep(pause)
        return suspects

    def _ask(self, task_id: str, final: bool) -> None:
        """Ask for its result, which counts if `final`."""
        if self._state(task_id) not in FINAL_STATES:
            return
        self.final.add(task_id)
        if not final:
            return
        self.listen()
        if task_id in self.ledger.ends:
            return
        self.ledger.hear(task_id, self._state(task_id))
        self.app.backend.client.delete(self.app.backend.get_key_for_task(task_id))
        self._ended(task_id)

    def _state(self, task_id: str) -> str:
        """Return what the backend knows of it, in the form in which it is published.

        Not by `get_task_meta`, which tries for ever where `result_backend_always_retry` is set.
        """
        raw = self.app.backend.client.get(self.app.backend.get_key_for_task(task_id))
        return (stored_state(raw)[1] if raw else "") or "PENDING"

    def _note(self, task_id: str, removed: bool = False) -> None:
        """Have the next probe remove its result, unless that is removed here."""
        if self.leftovers:
            names = [result_name(self.app, task_id)]
            if removed:
                self.leftovers.forget(names)
            else:
                self.leftovers.note(names)

    def _ended(self, task_id: str) -> None:
        self.ended_at[self.ledger.queues[task_id]] = time.monotonic()
        self.sent_at.pop(task_id, None)
        self.final.discard(task_id)
        self._note(task_id, removed=True)
        self.head.forget(task_id)


def listed_ids(replies: Iterable[Any]) -> set[str]:
    """Return the ids of the tasks that workers told of."""
    found: set[str] = set()
    for reply in replies:
        for tasks in reply.values() if isinstance(reply, dict) else ():
            if isinstance(tasks, list):
                found.update(
                    task["id"]
                    for task in tasks
                    if isinstance(task, dict) and isinstance(task.get("id"), str)
                )
    return found


def has_limit(task: str, replies: Iterable[Any]) -> bool:
    """Return whether a worker has a rate limit on that task."""
    for reply in replies:
        for names in reply.values() if isinstance(reply, dict) else ():
            for name in names if isinstance(names, list) else ():
                named = isinstance(name, str) and name.startswith(task + " [")
                if named and "rate_limit=" in name:
                    return True
    return False


def count_tasks(
    app: Any, request: dict[str, Any], ledger: Ledger, stop: threading.Event
) -> dict[str, Any]:
    """Send sentinels until told to stop; return their numbers, or why there are none."""
    if leftovers_of_results(app) is None:
        stop.wait(request["limit"])
        return {"error": "Tasks are not counted: their results are not stored in Redis"}
    sentinels = Sentinels(app, request, ledger)
    sentinels.listen()
    ends = time.monotonic() + request["limit"]
    due = time.monotonic()
    while not stop.is_set() and time.monotonic() < ends:
        if time.monotonic() >= due:
            due = time.monotonic() + request["task_interval"]
            for queue in request["queues"]:
                sentinels.send(queue)
        sentinels.listen()
        stop.wait(0.05)
    try:
        waiting = sentinels.finish(request["wait"])
        return {"tasks": ledger.summary(waiting, sentinels.stranded)}
    except Exception as error:
        return {"error": type(error).__name__}


def main(request: dict[str, Any], marker: str) -> None:
    """Run until the container is stopped (or the time limit); print the numbers."""
    output = Output(marker)
    stop = threading.Event()
    when_told_to_stop(stop.set)
    ledger, requests = Ledger(), Requests(request["expected"])
    prober = threading.Thread(target=probe_requests, args=(request, requests, stop), daemon=True)
    prober.start()
    reply = count_tasks(load_app(request["app"]), request, ledger, stop)
    stop.set()
    # Nothing waits here as a rule; a request that hangs has its time to be answered, and no more.
    prober.join(TIMEOUT + 1)
    reply["requests"] = requests.summary()
    output.write(reply)
    os._exit(0)
