"""What asks workers during a rollout, from inside a container: one import, one request a line.

Fed to Python together with ``celery.busy``, ``probes.queue_head``, ``probes.inspect``,
``celery.drain`` and ``probes.drain``.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time

# Seconds until it ends when nobody asks: longer than any wait of a rollout between two questions.
IDLE = 3600


def leave(app, request, state):
    """Old workers leave their queues; then the new ones are looked at, and the old ones drained.

    ``state["book"]`` knows at any time who was told to leave what.
    """
    from ..celery.drain import Drain, Leave
    from .drain import converge
    from .inspect import inspect

    def look(timeout):
        signal.alarm(int(timeout + request["reply_timeout"]) + 15)
        converge(app, {**request, "look_only": False, "timeout": timeout}, state["book"])

    now, silent_after = time.monotonic(), request["silent_after"]
    state["book"] = first = Leave(request["nodes"], silent_after, now)
    look(request["timeout"])
    state["seen"]["left"] = first.summary(time.time())["done"]
    if request["prove"]:
        signal.alarm(int(request["prove"]["timeout"]) + 15)
        state["seen"].update(inspect(app, request["prove"]))
    state["book"] = Drain(request["nodes"], silent_after, time.monotonic())
    state["book"].recall(first)
    look(request["patience"])


def answering(app, request, state):
    """Ping workers until all have answered, or something else is asked."""
    from .inspect import inspect

    asked = {"methods": ["ping"], "everybody": False}
    asked.update(timeout=request["timeout"], connect_timeout=5.0, settle=0.0)
    seen = set()
    while not seen.issuperset(request["nodes"]) and not state["asked_more"]():
        # Who has answered is left alone: others need the processors to start.
        asked["destination"] = sorted(set(request["nodes"]) - seen)
        replies = inspect(app, asked)["replies"]["ping"]
        seen.update(node for reply in replies if isinstance(reply, dict) for node in reply)
        state["seen"]["answering"] = sorted(seen)


def prove(app, request, state):
    """Everybody is asked everything, and canaries are sent."""
    from .inspect import Failure, canary, inspect

    seen = state["seen"]
    signal.alarm(int(request["timeout"]) * 2 + 15)
    seen.update(inspect(app, request))
    if request["canary"]:
        # The deadline, two looks at workers that do not answer, and a slow broker.
        signal.alarm(int(request["canary"]["timeout"]) * 2 + 30)
        try:
            seen["canary"] = {"problem": "", "error": "", **canary(app, request["canary"])}
        except Failure as failure:
            seen["canary"] = {"problem": failure.problem, "error": str(failure)}
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            seen["canary"] = {"problem": "result_backend_unreachable", "error": why}


def read(stream, lines):
    """Hand lines over, and an empty one when there are no more."""
    for line in stream:
        lines.put(line)
    lines.put(b"")


def main(request, marker):
    """Import the application, then answer a line of JSON for each line of JSON, by its number."""
    from ..text import clean
    from .inspect import Failure, load_app, redact, secrets_of

    output = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    secrets = secrets_of(os.environ)
    lines = queue.SimpleQueue()
    threading.Thread(target=read, args=(sys.stdin.buffer, lines), daemon=True).start()
    state = {"phase": "app_not_importable", "book": None, "seen": {}}
    state["asked_more"] = lambda: not lines.empty()
    commands = {"answering": answering, "leave": leave, "prove": prove}

    def answer(problem="", error=""):
        book = state["book"].summary(time.time()) if state["book"] else {}
        reply = {**book, **state["seen"], "problem": problem, "error": error}
        data = ("\n" + marker + json.dumps(clean(redact(reply, secrets))) + "\n").encode()
        while data:
            data = data[os.write(output, data) :]
        sys.stderr.flush()

    def late(*_):
        answer(state["phase"], "no answer in time")
        os._exit(0)

    signal.signal(signal.SIGALRM, late)
    signal.alarm(max(1, int(request["import_timeout"])))
    try:
        app = load_app(request["app"])
    except Failure as failure:
        answer(failure.problem, str(failure))
        os._exit(0)
    state["phase"] = "broker_unreachable"
    signal.alarm(IDLE)
    for line in iter(lines.get, b""):
        asked = json.loads(line)
        state.update(book=None, seen={"number": asked["number"]})
        try:
            commands[asked["command"]](app, asked, state)
            signal.alarm(IDLE)
            answer()
        except Failure as failure:
            answer(failure.problem, str(failure))
        except Exception as error:
            answer(state["phase"], f"{type(error).__name__}: {error}")
    # Without the application's exit handlers.
    os._exit(0)
