"""What runs inside a worker's container: asks the workers, sends canaries, prints JSON.

The modules feed this file to ``python -`` in the container, for canaries together with
``celery.busy`` and ``probes.queue_head``. It imports nothing but those, the standard library and
what the application itself has (Celery, kombu), and runs on Python 3.8+. It answers with one line
after a marker; whatever the application prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import time
import traceback
import uuid

# What ids of canaries begin with: no other results are removed (as in probes.leftovers).
CANARY_ID = "crisper-canary-"
# Seconds after which a canary is not merely on its way, and seconds between two looks at the pools.
FIRST_LOOK, LOOK_INTERVAL = 0.5, 1.0
# Seconds that workers have to answer a look: a machine whose processors are all busy takes a while.
LOOK_TIMEOUT = 5.0
# Seconds for a canary that was taken while it was about to be removed.
LATE = 1.0
# A worker with 100,000 tasks that have an ETA is busy for seconds with an answer of 35 MB to
# `scheduled`: it is not asked where workers hold more messages than this (as in celery.drain).
MOST_HELD = 1000
# A worker of 5,000 tasks answers `registered` with 0.3 MB, one with 50,000 revoked ids with 2 MB.
# What is larger is not read, and neither is more than this of all workers together.
MOST_OF_ONE, MOST_OF_ALL, MOST_REPLIES = 4_000_000, 24_000_000, 20_000
# What kombu raises at a message that is none of Celery's. No reason to end: whoever may write into
# Redis would end every deploy with it. Of compression errors the consumer tells `ignored`.
UNREADABLE = (LookupError, ValueError, TypeError, AttributeError, RecursionError)
# Lists and mappings within each other: `clean` keeps 12.
MOST_DEPTH = 40
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
SECRET_NAME = re.compile(r"PASS|SECRET|TOKEN|KEY|URL|DSN|CREDENTIAL|BROKER|BACKEND", re.IGNORECASE)
# Settings that may leave the container: what tells how a worker works, never where it connects.
CONF_SHOWN = re.compile(r"(task_|worker_|result_|beat_|accept_content\Z|timezone\Z|enable_utc\Z)")
CONF_HIDDEN = re.compile(
    r"pass|secret|token|api_?key|security|credential|url|dsn|_backend|transport_options|scheduler"
    r"|annotations"
)


class Failure(Exception):
    """The probe cannot go on; `problem` is the kind of trouble."""

    def __init__(self, problem, error):
        super().__init__(error)
        self.problem = problem


def secrets_of(environment):
    """Values of the environment that must not leave it, longest first."""
    found = set()
    for name, value in environment.items():
        if SECRET_NAME.search(name) and len(value) >= 6:
            found.add(value)
            userinfo = re.match(r"[a-z0-9+]+://([^/@]*)@", value, re.IGNORECASE)
            password = userinfo.group(1).partition(":")[2] if userinfo else ""
            if len(password) >= 4:
                found.add(password)
    return sorted(found, key=len, reverse=True)


def redact(value, secrets, depth=MOST_DEPTH):
    """The value without secrets, in whatever depth they stand."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")
        return re.sub(r"://[^/@\s]*@", "://***@", value)
    if isinstance(value, (dict, list, tuple)) and depth <= 0:
        return "(too deep)"
    if isinstance(value, dict):
        return {
            redact(str(key), secrets): redact(item, secrets, depth - 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [redact(item, secrets, depth - 1) for item in value]
    return value


def ignored(*_):
    """Take a message that cannot be decoded: it answers nothing."""


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


def load_app(name):
    """The Celery application, found as ``celery -A`` finds it."""
    sys.path.insert(0, os.getcwd())
    try:
        from celery.app.utils import find_app

        app = find_app(name)
        app.finalize()
    except BaseException as error:  # an import may raise anything, SystemExit included
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise Failure(
            "app_not_importable",
            f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})",
        ) from error
    return app


def connected(app, timeout):
    """A connection to the broker that has answered."""
    options = {**(app.conf.broker_transport_options or {}), "socket_connect_timeout": timeout}
    connection = app.connection_for_write(connect_timeout=timeout, transport_options=options)
    try:
        connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        # Redis connects lazily: only a channel has shown that the password is right.
        connection.default_channel  # noqa: B018
    except Exception as error:
        cause = error.__cause__ or error
        raise Failure("broker_unreachable", f"{type(cause).__name__}: {cause}") from error
    return connection


def held(connection):
    """How many messages all workers hold; None where the broker cannot tell."""
    if connection.transport.driver_type != "redis":
        return None
    import redis

    channel = connection.default_channel
    # Kombu's own client adds its prefix to some commands only.
    client = redis.Redis(connection_pool=channel.pool)
    try:
        return client.hlen((getattr(channel, "global_keyprefix", "") or "") + channel.unacked_key)
    except redis.ResponseError:  # no hash, or a user without the right to read it
        return None


def restarted(connection):
    """When the broker was started, Unix seconds; None where it does not tell."""
    if connection.transport.driver_type != "redis":
        return None
    import redis

    client = redis.Redis(connection_pool=connection.default_channel.pool)
    try:
        return time.time() - float(client.info("server")["uptime_in_seconds"])
    except Exception:  # a user without the right to ask; it is a help only
        return None


def read_reply(message, accept=None):
    """Return the ticket and the body of a reply; the body is a text where it is not read.

    It is JSON, unless the application's workers serialize otherwise and `accept` has the kinds.
    """
    headers = message.headers if isinstance(message.headers, dict) else {}
    ticket = headers.get("ticket")
    ticket = ticket if isinstance(ticket, str) else None
    size = len(message.body or "")
    if size > MOST_OF_ONE:
        return ticket, "(a reply of " + str(size) + " bytes)"
    try:
        if accept and str(message.content_type) != "application/json":
            from kombu.serialization import prepare_accept_content

            message.accept = prepare_accept_content(accept)
            return ticket, message.decode()
        return ticket, json.loads(message.body)
    except Exception as error:  # whatever a serializer raises
        return ticket, "(a reply that cannot be read: " + type(error).__name__ + ")"


def inspect(app, request):
    """Replies of all workers to all methods: ``{method: [{node: reply}, ...]}``.

    All methods are sent at once and their replies collected together, by ticket. Kombu's own
    collector takes one call at a time and counts any message as one of the expected replies, so
    that the second answer of a duplicate node name costs the next method a reply. Without
    ``scheduled`` where workers hold more than `MOST_HELD` messages.
    """
    methods, timeout = request["methods"], request["timeout"]
    expected = set(request.get("destination") or ())
    arguments = request.get("arguments") or {}
    settle = request["settle"]
    from .leftovers import Replies

    connection = connected(app, request.get("connect_timeout", timeout))
    own = Replies(app, connection)
    mailbox = own.mailbox
    channel = connection.default_channel
    if connection.transport.driver_type == "redis":
        # Closing waits for the read that is under way, by default a second.
        channel.brpop_timeout = 0.1
    unacknowledged = held(connection) if "scheduled" in methods else None
    since = restarted(connection) if unacknowledged else None
    if (unacknowledged or 0) > MOST_HELD:
        methods = [method for method in methods if method != "scheduled"]
    tickets = {uuid.uuid4().hex: method for method in methods}
    replies = {method: [] for method in methods}
    missing = {method: set(expected) for method in methods}
    taken = {"bytes": 0, "replies": 0}

    def on_message(message):
        ticket, body = read_reply(message)
        method = tickets.get(ticket)
        taken["bytes"] += min(len(message.body or ""), MOST_OF_ONE)
        taken["replies"] += 1
        if method is not None:
            replies[method].append(body)
            if isinstance(body, dict):
                missing[method].difference_update(body)

    def complete():
        return not any(missing.values())

    def too_much():
        return taken["bytes"] > MOST_OF_ALL or taken["replies"] > MOST_REPLIES

    started = time.monotonic()
    # A destination would keep foreign nodes silent: everybody is asked when they matter.
    destination = None if not expected or request["everybody"] else sorted(expected)
    for ticket, method in tickets.items():
        mailbox._publish(
            method,
            arguments.get(method, METHODS.get(method, {})),
            destination=destination,
            reply_ticket=ticket,
            channel=channel,
            timeout=timeout,
        )
    from kombu import Consumer

    consumer = Consumer(
        *(channel, [mailbox.reply_queue]),
        **{"no_ack": True, "on_message": on_message, "on_decode_error": ignored},
    )
    last = started
    with consumer:
        while not too_much():
            now = time.monotonic()
            left = started + timeout - now
            if complete() and any(replies.values()):
                # Everyone named has answered; others may follow within the settling time.
                left = min(left, last + settle - now)
            if left <= 0:
                break
            try:
                connection.drain_events(timeout=left)
                last = time.monotonic()
            except socket.timeout:
                continue
            except UNREADABLE:
                taken["replies"] += 1  # no message of Celery's: somebody else has put it there
    own.close()
    for reply in replies.get("conf", []):
        if isinstance(reply, dict):
            reply.update({node: shown_conf(conf) for node, conf in reply.items()})
    seconds = round(time.monotonic() - started, 4)
    return {"replies": replies, "seconds": seconds, "held": unacknowledged, "restarted": since}


def canary(app, request):
    """One task through every queue: ``{queue: {task_id, state, seconds, result, why}}``.

    Each is published as the next message that its queue's consumer takes, and removed again if
    nobody took it. While one is not back, the workers are looked at: where every process is busy,
    its state becomes BUSY, and where nothing ends it is not waited for. `why` has the evidence.
    """
    from celery.backends.base import DisabledBackend

    from .leftovers import leftovers_of_results, result_name
    from .queue_head import QueueHead

    if isinstance(app.backend, DisabledBackend):
        raise Failure("no_result_backend", "The application has no result backend")
    timeout = request["timeout"]
    head = QueueHead(app, lambda: connected(app, timeout))
    begun = time.monotonic()
    results, sent, gone = {}, {}, set()
    exact = head.exact
    left = leftovers_of_results(app)
    if left:
        left.sweep()
    for queue in request["queues"]:
        entry = results[queue] = {
            "task_id": CANARY_ID + str(uuid.uuid4()),
            "state": "PENDING",
            "seconds": None,
            "result": None,
        }
        if left:
            left.note([result_name(app, entry["task_id"])], timeout)
        try:
            head.send(
                request["task"],
                entry["task_id"],
                queue,
                args=request["args"],
                kwargs=request["kwargs"],
                # It counts when a worker looks: one that was taken and not begun does no harm.
                expires=timeout,
                ignore_result=False,
            )
        except Exception as error:
            entry.update(state="UNROUTABLE", result=f"{type(error).__name__}: {error}")
            if left:
                left.forget([result_name(app, entry["task_id"])])
            entry["task_id"] = ""
            continue
        sent[queue] = time.monotonic()
    pools = Pools(app, request.get("nodes") or (), timeout)
    await_canaries(app, results, sent, begun + timeout, pools, exact)
    if sent:
        pools.complete()
        waited = round(time.monotonic() - begun, 1)
        ids = {queue: results[queue]["task_id"] for queue in sent}
        why = {queue: pools.judge(queue, task_id, exact) for queue, task_id in ids.items()}
        removed = {queue for queue, task_id in ids.items() if head.take_back(task_id)}
        gone.update(removed)
        # One that a worker took just now is seen by no look; with another broker all expire.
        late = {q: at for q, at in sent.items() if exact and q not in removed and not why[q].taken}
        await_canaries(app, results, late, time.monotonic() + LATE)
        for queue in [queue for queue in sent if results[queue]["seconds"] is None]:
            explain(results[queue], why[queue], waited)
    if left:
        # Of one that a worker holds the result may come later: the next probe removes it.
        over = [entry for queue, entry in results.items() if queue in gone or is_back(entry)]
        left.forget([result_name(app, entry["task_id"]) for entry in over if entry["task_id"]])
    head.close()
    return {"queues": results, "seconds": round(time.monotonic() - begun, 4)}


def is_back(entry):
    """Return whether a canary's result was there, or it was never sent."""
    return entry["seconds"] is not None or not entry["task_id"]


def await_canaries(app, results, sent, deadline, pools=None, exact=True):
    """Wait until all canaries of `sent` are back, or nothing is to be waited for.

    Those that are back leave `sent` (queue -> when it was sent). With `pools` the workers are
    looked at meanwhile, and nothing is waited for where no process is free and none becomes so.
    """
    from ..celery import busy

    look_at = time.monotonic() + FIRST_LOOK
    while sent and time.monotonic() < deadline:
        for queue, since in list(sent.items()):
            entry = results[queue]
            meta = result_of(app, entry["task_id"])
            entry["state"] = meta["status"]
            if entry["state"] in ("SUCCESS", "FAILURE", "REVOKED"):
                entry["seconds"] = round(time.monotonic() - since, 4)
                entry["result"] = meta["result"]
                app.backend.forget(entry["task_id"])
                del sent[queue]
        if sent and pools and look_at <= time.monotonic() < deadline - LOOK_INTERVAL:
            pools.look()
            look_at = time.monotonic() + LOOK_INTERVAL
            found = [pools.judge(queue, results[queue]["task_id"], exact) for queue in sent]
            kinds = {verdict.kind for verdict in found}
            if kinds == {busy.BUSY} and min(v.still for v in found) >= busy.STILL:
                return
        elif sent:
            time.sleep(0.01)


def result_of(app, task_id):
    """Return what the backend stored; of what cannot be read, a failure that says so."""
    try:
        meta = app.backend.get_task_meta(task_id)
        return {"status": str(meta.get("status")), "result": plain(meta.get("result"))}
    except (OSError, *getattr(app.backend, "connection_errors", ())):
        raise  # the backend is away
    except Exception as error:  # somebody else has stored it
        why = "(a result that cannot be read: " + type(error).__name__ + ")"
        return {"status": "FAILURE", "result": why}


def explain(entry, verdict, waited):
    """Write into a canary's entry why it is not back."""
    from ..celery import busy

    why = {**verdict.as_dict(), "waited": waited}
    if verdict.kind == busy.BUSY:
        why["text"] = busy.describe_busy(why, waited)
        entry["state"] = busy.BUSY
    entry["why"] = why


class Pools:
    """Looks at what the workers run."""

    def __init__(self, app, nodes, timeout):
        """Begin without a look; `nodes` are asked, or else everybody who answers the first."""
        self.app = app
        self.timeout = min(LOOK_TIMEOUT, max(1.0, timeout))
        self.nodes = list(nodes)
        self.looks = []
        self.looked_at = -LOOK_INTERVAL  # when the last look ended
        self.limits = None  # by node: time limits of tasks that have one of their own

    def look(self):
        """Ask the workers."""
        from ..celery import busy

        request = {"methods": list(busy.METHODS), "timeout": self.timeout}
        request.update(destination=self.nodes, everybody=not self.nodes)
        request["settle"] = 0.0 if self.nodes else 0.3
        if self.limits is None:
            request["methods"].append("registered")
            request["arguments"] = {"registered": {"taskinfoitems": ["time_limit"]}}
        try:
            replies = inspect(self.app, request)["replies"]
        except Exception:  # the broker is away: that nobody answers is told
            replies = {}
        now, wall, nodes = time.monotonic(), time.time(), {}
        self.looked_at = now
        for method, messages in replies.items():
            for message in messages:
                for node, reply in message.items() if isinstance(message, dict) else ():
                    nodes.setdefault(str(node), {})[method] = reply
        if self.limits is None and nodes:
            limits = {node: found.get("registered") for node, found in nodes.items()}
            self.limits = {n: busy.own_limits(names) for n, names in limits.items()}
        known = self.limits or {}
        found = {n: busy.pool_of(r, now, wall, known.get(n, {})) for n, r in nodes.items()}
        self.looks.append({node: pool for node, pool in found.items() if pool is not None})
        # Who has answered once is waited for.
        self.nodes = self.nodes or sorted(self.looks[-1])

    def complete(self):
        """Look until the last look is recent, and there are as many as a verdict needs."""
        from ..celery import busy

        recent = time.monotonic() - self.looked_at < LOOK_INTERVAL / 2
        if recent and not any(self.looks):
            return  # nobody has ever answered
        if not recent:
            self.look()
        while len(self.looks) < busy.LOOKS:
            time.sleep(LOOK_INTERVAL / 2)
            self.look()

    def judge(self, queue, task_id, exact):
        """Return the verdict on a canary that is not back."""
        from ..celery import busy

        return busy.judge(queue, task_id, self.looks, exact=exact)


def plain(value):
    """The value as JSON can hold it; exceptions as their text."""
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    return json.loads(json.dumps(value, default=repr))


def main(request, marker):
    """Answer one request and leave without the application's exit handlers."""
    from ..text import clean

    output = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    secrets = secrets_of(os.environ)
    phase, seen = ["app_not_importable"], {}

    def answer(reply):
        # Secrets first: the end of one that is cut would not be found any more.
        text = json.dumps(clean(redact(reply, secrets)))
        data = f"\n{marker}{text}\n".encode()
        while data:
            data = data[os.write(output, data) :]
        sys.stderr.flush()
        os._exit(0)

    def late(*_):
        what = {
            "app_not_importable": "The application was not imported",
            "broker_unreachable": "The broker did not answer",
            "result_backend_unreachable": "The result backend did not answer",
        }[phase[0]]
        trouble(phase[0], f"{what} in time")

    def trouble(problem, error):
        found = {"problem": problem, "error": error}
        # What the workers answered is told although a canary could not be sent.
        answer({"problem": "", "error": "", **seen, "canary": found} if seen else found)

    signal.signal(signal.SIGALRM, late)
    signal.alarm(max(1, int(request["import_timeout"])))
    try:
        app = load_app(request["app"])
        # From here the waiting has deadlines of its own; the alarm only ends what has none.
        signal.alarm(int(request["timeout"] * 2) + 5)
        if request.get("methods"):
            phase[0] = "broker_unreachable"
            seen.update(inspect(app, request))
        if request.get("canary"):
            phase[0] = "result_backend_unreachable"
            # The deadline, two looks at workers that do not answer, and a slow broker.
            signal.alarm(int(request["canary"]["timeout"] * 2) + 30)
            seen["canary"] = {"problem": "", "error": "", **canary(app, request["canary"])}
        answer({"problem": "", "error": "", **seen})
    except Failure as failure:
        trouble(failure.problem, str(failure))
    except Exception as error:
        trouble(phase[0], f"{type(error).__name__}: {error}")
