"""Ask workers during a rollout, from inside a container: one import, one request a line."""

from __future__ import annotations

import time

from ..celery.drain import Drain, Leave
from .canary import canary
from .control import Failure
from .drain import converge
from .inspect import inspect
from .serve import Conversation


class RolloutProbe(Conversation):
    """The workers that are replaced, and those that replace them."""

    COMMANDS = ("answering", "leave", "prove")
    book = None  # knows at any time who was told to leave what

    def forget(self):
        """Begin a reply."""
        super().forget()
        self.book = None

    def summary(self, problem="", error=""):
        """Return what is known of the workers that leave, and of the others."""
        known = self.book.summary(time.time()) if self.book else {}
        return {**known, **self.reply, "problem": problem, "error": error}

    def leave(self, app, request):
        """Old workers leave their queues; then the new ones are looked at, and the old drained."""

        def look(timeout):
            self.enter(self.phase, timeout + request["reply_timeout"] + 15)
            converge(app, {**request, "look_only": False, "timeout": timeout}, self.book)

        now, silent_after = time.monotonic(), request["silent_after"]
        self.book = first = Leave(request["nodes"], silent_after, now)
        look(request["timeout"])
        self.reply["left"] = first.summary(time.time())["done"]
        if request["prove"]:
            self.enter(self.phase, request["prove"]["timeout"] + 15)
            self.reply.update(inspect(app, request["prove"]))
        self.book = Drain(request["nodes"], silent_after, time.monotonic())
        self.book.recall(first)
        look(request["patience"])

    def answering(self, app, request):
        """Ping workers until all have answered, or something else is asked."""
        ping = {"methods": ["ping"], "everybody": False}
        ping.update(timeout=request["timeout"], connect_timeout=5.0, settle=0.0)
        alive = set()
        while not alive.issuperset(request["nodes"]) and not self.asked_more():
            # Who has answered is left alone: others need the processors to start.
            ping["destination"] = sorted(set(request["nodes"]) - alive)
            replies = inspect(app, ping)["replies"]["ping"]
            alive.update(node for reply in replies if isinstance(reply, dict) for node in reply)
            self.reply["answering"] = sorted(alive)

    def prove(self, app, request):
        """Ask everybody everything, and send canaries."""
        self.enter(self.phase, int(request["timeout"]) * 2 + 15)
        self.reply.update(inspect(app, request))
        if request["canary"]:
            # The deadline, two looks at workers that do not answer, and a slow broker.
            self.enter(self.phase, int(request["canary"]["timeout"]) * 2 + 30)
            try:
                found = {"problem": "", "error": "", **canary(app, request["canary"])}
            except Failure as failure:
                found = {"problem": failure.problem, "error": str(failure)}
            except Exception as error:
                why = type(error).__name__ + ": " + str(error)
                found = {"problem": "result_backend_unreachable", "error": why}
            self.reply["canary"] = found


main = RolloutProbe.main
