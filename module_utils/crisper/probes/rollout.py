"""Ask workers during a rollout, from inside a container: one import, one request a line."""

from __future__ import annotations

import time
from typing import Any

from ..celery.drain import Cancel, Drain, DrainTracker
from .canary import canary
from .control import Failure
from .drain import converge
from .inspect import inspect
from .serve import Conversation


class RolloutProbe(Conversation):
    """The workers that are replaced, and those that replace them."""

    COMMANDS = ("answering", "cancel_consumers", "verify")
    tracker: DrainTracker | None = None  # which worker was told to stop consuming what

    def forget(self) -> None:
        """Begin a reply."""
        super().forget()
        self.tracker = None

    def summary(self, problem: str = "", error: str = "") -> dict[str, Any]:
        """Return what is known of the old workers, and of the others."""
        known = self.tracker.summary(time.time()) if self.tracker else {}
        return {**known, **self.reply, "problem": problem, "error": error}

    def cancel_consumers(self, app: Any, request: dict[str, Any]) -> None:
        """Cancel the consumers of old workers; then ask the new ones, and drain the old."""
        now, silent_after = time.monotonic(), request["silent_after"]
        self.tracker = first = Cancel(request["nodes"], silent_after, now)
        self._converge(app, request, first, request["timeout"])
        self.reply["left"] = first.summary(time.time())["done"]
        if request["verify"]:
            self.enter(self.phase, request["verify"]["timeout"] + 15)
            self.reply.update(inspect(app, request["verify"]))
        self.tracker = second = Drain(request["nodes"], silent_after, time.monotonic())
        second.recall(first)
        self._converge(app, request, second, request["patience"])

    def _converge(
        self, app: Any, request: dict[str, Any], tracker: DrainTracker, timeout: float
    ) -> None:
        self.enter(self.phase, timeout + request["reply_timeout"] + 15)
        converge(app, {**request, "look_only": False, "timeout": timeout}, tracker)

    def answering(self, app: Any, request: dict[str, Any]) -> None:
        """Ping workers until all have answered, or something else is asked."""
        ping: dict[str, Any] = {"methods": ["ping"], "everybody": False}
        ping.update(timeout=request["timeout"], connect_timeout=5.0, settle=0.0)
        alive: set[str] = set()
        while not alive.issuperset(request["nodes"]) and not self.asked_more():
            # Who has answered is left alone: others need the processors to start.
            ping["destination"] = sorted(set(request["nodes"]) - alive)
            replies = inspect(app, ping)["replies"]["ping"]
            alive.update(node for reply in replies if isinstance(reply, dict) for node in reply)
            self.reply["answering"] = sorted(alive)

    def verify(self, app: Any, request: dict[str, Any]) -> None:
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
