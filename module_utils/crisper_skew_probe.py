"""What reads the broker's queues from inside a container of the release that is to run.

Fed to ``python -`` together with ``crisper_celery_probe`` and ``crisper_skew``, which it imports
by those names: inside functions, because under Ansible they have longer names.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

PRIORITIES = range(10)


def queue_keys(client, channel, prefix, queues):
    """The lists that tasks wait in, by queue: kombu has one for each priority."""
    from crisper_skew import bound_queue

    names = set(queues)
    # Every queue that was ever declared is bound to an exchange; so are those of old releases.
    for key in client.scan_iter(match=prefix + "_kombu.binding.*", count=1000, _type="SET"):
        names.update(bound_queue(member) for member in client.smembers(key))
    names.discard("")
    steps = sorted({*channel.priority_steps, *PRIORITIES} - {0})
    return {
        name: [prefix + name, *(f"{prefix}{name}{channel.sep}{step}" for step in steps)]
        for name in sorted(names)
    }


def read_list(client, key, take):
    """Every message of a list, in batches of bounded size.

    From the head, where new messages enter: an entering message moves others into the part that
    is still to be read, so that none is missed; one may be counted twice.
    """
    from crisper_skew import next_batch

    start, size, length = 0, 0, 0
    while True:
        size = next_batch(size, length)
        batch = client.lrange(key, start, start + size - 1)
        for raw in batch:
            take(raw)
        if len(batch) < size:
            return
        start, length = start + len(batch), sum(map(len, batch))


def skew(app, request):
    """Names and numbers of waiting tasks, and which of them the application does not know."""
    import redis
    from crisper_celery_probe import Failure, connected
    from crisper_skew import UNACKED, Tally

    connection = connected(app, request["broker_timeout"])
    kind = connection.transport.driver_type
    if kind != "redis":
        raise Failure("broker_unsupported", f"the broker is {kind}; only Redis can be read")
    channel = connection.default_channel
    prefix = channel.global_keyprefix
    # Kombu's own client adds its prefix to some commands only.
    client = redis.Redis(connection_pool=channel.pool)
    tally = Tally()
    queues = set(request["queues"]) | set(app.amqp.queues)
    for queue, keys in queue_keys(client, channel, prefix, queues).items():
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.type(key)
        for key, kind in zip(keys, pipe.execute()):  # noqa: B905 (Python 3.8)
            if kind == b"list":
                read_list(client, key, lambda raw, queue=queue: tally.add(queue, raw))
    # After the queues: what was taken from them meanwhile is found here.
    for _tag, raw in client.hscan_iter(prefix + channel.unacked_key, count=100):
        tally.add(UNACKED, raw)
    connection.release()
    registered = set(request.get("known") or ())
    if request.get("known_only"):
        # Tasks of Celery itself are in every application.
        registered |= {name for name in app.tasks if name.startswith("celery.")}
    else:
        registered = set(app.tasks)
    return {**tally.summary(registered, request["queues"]), "registered": len(registered)}


def main(request, marker):
    """Answer one request and leave without the application's exit handlers."""
    from crisper_celery_probe import Failure, load_app, redact, secrets_of

    output = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    secrets = secrets_of(os.environ)
    phase = ["app_not_importable"]
    begun = time.monotonic()

    def answer(reply):
        reply["seconds"] = round(time.monotonic() - begun, 3)
        # Names of tasks and queues are keys of mappings and no secrets: only texts are masked.
        if "error" in reply:
            reply["error"] = redact(reply["error"], secrets)
        data = ("\n" + marker + json.dumps(reply) + "\n").encode()
        while data:
            data = data[os.write(output, data) :]
        sys.stderr.flush()
        os._exit(0)

    def late(*_):
        what = "The application was not imported" if phase[0][0] == "a" else "Redis was not read"
        answer({"problem": phase[0], "error": what + " in time"})

    signal.signal(signal.SIGALRM, late)
    signal.alarm(max(1, int(request["import_timeout"])))
    try:
        app = load_app(request["app"])
        if not request.get("known_only"):
            # As a worker does at its start: `include`, `imports` and autodiscovery.
            app.loader.import_default_modules()
        app.finalize()
        phase[0] = "broker_unreachable"
        signal.alarm(max(1, int(request["timeout"])))
        reply = skew(app, request)
        signal.alarm(0)
        answer({"problem": "", "error": "", **reply})
    except Failure as failure:
        answer({"problem": failure.problem, "error": str(failure)})
    except BaseException as error:
        answer({"problem": phase[0], "error": f"{type(error).__name__}: {error}"})
