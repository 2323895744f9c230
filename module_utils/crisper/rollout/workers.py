"""Ask workers during a rollout: old ones to stop consuming, new ones for their state."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ..celery.findings import MOST_FINDINGS, REMEDIES, describe_findings
from ..celery.inspection import report_inspection
from ..celery.judge import SHAPES, judge_named
from ..probes import rollout as rollout_probe
from ..remote.run import RemoteError
from ..remote.session import Session
from ..remote.workers import CANARY_OPTIONS, EXPECT_OPTIONS
from ..shapes import ANY, EACH, like
from ..text import listed

SPEC: dict[str, Any] = {
    "type": "dict",
    "options": {
        "app": {"type": "str", "required": True},
        "service": {"type": "str", "default": "backend"},
        "expect": {"type": "dict", "default": {}},
        "canary": {"type": "dict"},
        "timeout": {"type": "float", "default": 5.0},
        "patience": {"type": "float", "default": 0},
        "import_timeout": {"type": "int", "default": 60},
        "python": {"type": "str", "default": "python"},
    },
}
# Polls of workers whose consumers are cancelled: as M(celery_drain) has them.
CANCEL = {"timeout": 30.0, "interval": 1.0, "reply_timeout": 2.0, "silent_after": 10.0}
# A worker of the release answers at once, or the next second.
PROOF = {"timeout": 5.0, "settle": 0.1}
SETTLE = 0.3
# Of a second look: somebody else may have answered in a worker's name before it did.
SECOND_LOOK = {"timeout": 5.0, "settle": 2.0}
# Seconds until those who did not answer are pinged again: a worker that starts hears nothing yet.
PING = 0.25
LEFT: dict[str, Any] = {
    "queues": {},
    "drained": [],
    "unfinished": [],
    "stale": [],
    "scheduled": 0,
    "longest": 0.0,
    "silent": [],
    "consuming": [],
    "findings": [],
    "problem": "",
}


TASK: dict[str, Any] = {"id": "", "name": "", "node": "", "seconds": 0.0, "state": ""}
STALE: dict[str, Any] = {"id": "", "name": "", "node": ""}
# What the container answers to `cancel_consumers`, whatever it is.
ANSWER: dict[str, Any] = {
    **LEFT,
    "error": "",
    "done": [""],
    "queues": {EACH: [""]},
    "drained": [""],
    "unfinished": [TASK],
    "stale": [STALE],
    "silent": [""],
    "consuming": [""],
    "findings": [ANY],
    "replies": {EACH: [ANY]},
}


class WorkersError(RuntimeError):
    """The new workers are not as they should be, or could not be asked."""


class Workers:
    """Process in a container of the application that asks all workers."""

    def __init__(self, options: Mapping[str, Any], docker_cli: str) -> None:
        """Take how they are asked, an option of type `SPEC`.

        Raises:
            ValueError: what is expected, or the canary, is of a wrong kind.
        """
        expect = typed("expect", EXPECT_OPTIONS, options["expect"])
        canary = options["canary"] and typed("canary", CANARY_OPTIONS, options["canary"])
        known = {name: value for name, value in expect.items() if value is not None}
        self.options = {**options, "expect": known, "canary": canary}
        self.cli = docker_cli
        self.session: Session | None = None
        self.trouble: RemoteError | None = None  # why nobody can be asked
        self.answering: set[str] = set()
        self.pinged: set[str] = set()  # by what was asked last, until all have answered
        self.left_at = 0.0
        self.expected: dict[str, Any] = {}
        self.canaries: dict[str, Any] | None = None  # what came of them, when that is known

    def begin(self, container: str, new: Sequence[str]) -> None:
        """Have the application imported in that container, and new workers pinged; returns at once.

        Raises:
            RemoteError: nobody can be asked.
        """
        command = [self.cli, "exec", "--interactive", container, self.options["python"]]
        start = {"app": self.options["app"], "import_timeout": self.options["import_timeout"]}
        self.session = Session(command, rollout_probe, start)
        self.ping(new)

    def ping(self, nodes: Sequence[str]) -> None:
        """Have workers pinged until each has answered; nothing is sent twice for the same ones."""
        wanted = set(nodes) - self.answering - self.pinged
        if self.session is not None and not self.trouble and wanted:
            self.pinged = set(nodes) - self.answering
            request = {"command": "answering", "nodes": sorted(self.pinged), "timeout": PING}
            self.session.send(request)

    def listen(self) -> Sequence[Any]:
        """Add those that have answered to `answering`; return the streams on which more may come.

        It waits for nothing.
        """
        if self.session is None or self.trouble:
            return ()
        try:
            reply = self.session.poll() or {}
        except RemoteError as error:
            self.trouble = error
            return ()
        if reply.get("problem") == "app_not_importable":
            why = str(reply.get("error") or "no reason given")
            self.trouble = RemoteError("app_not_importable", f"{self.options['app']}: {why}")
            return ()
        self.answering.update(like(reply.get("answering"), [""]))
        return (self.session.output,)

    def cancel_consumers(self, old: Sequence[str], new: Sequence[str]) -> None:
        """Cancel the consumers of old workers, and ask the new ones; see `wait_for_cancelling`.

        Raises:
            RemoteError: nobody can be asked.
        """
        self.left_at = time.time()
        proof = {"methods": list(SHAPES), "destination": list(new), "everybody": False, **PROOF}
        self._session().send(
            {
                **{
                    "command": "cancel_consumers",
                    "nodes": list(old),
                    "verify": proof if new else None,
                },
                **{"patience": self.options["patience"], **CANCEL},
            }
        )

    def wait_for_cancelling(self, new: Sequence[str]) -> tuple[dict[str, Any], str]:
        """Return the result of `cancel_consumers`, and its problem; empty for none."""
        report = {**LEFT, "left_at": self.left_at}
        limit = self.options["import_timeout"] + CANCEL["timeout"] + self.options["patience"] + 60
        try:
            reply = self._session().receive(limit)
        except RemoteError as error:
            return {**report, "problem": error.problem}, f"{error}. {remedy(error.problem)}"
        free = like(reply.get("left"), [""])  # those that consume nothing any more
        has_drained = "left" in reply
        reply = like(reply, ANSWER)
        report |= {key: reply[key] for key in LEFT}
        report["drained"] = reply["done"] if has_drained else []
        if reply["problem"]:
            names = listed(sorted(report["queues"])) or "none"
            wrong = f"{self.options['app']}: {reply['error']}. {remedy(reply['problem'])}"
            return (
                report,
                f"{wrong} Workers that had been ordered to stop consuming queues: {names}.",
            )
        report["consuming"] = sorted(set(report["queues"]) - set(free) - set(report["silent"]))
        findings = self._judge(reply["replies"], new)
        if findings:
            report |= {"findings": findings, "problem": "expectations_not_met"}
        return report, describe_findings(findings)

    def look_again(self, nodes: Sequence[str]) -> list[dict[str, Any]]:
        """Return the findings over these workers, with time for several answers in one name.

        Raises:
            RemoteError: nobody can be asked.
        """
        request = {"command": "verify", "methods": list(SHAPES), "destination": list(nodes)}
        self._session().send({**request, "everybody": False, "canary": None, **SECOND_LOOK})
        limit = self.options["import_timeout"] + 2 * SECOND_LOOK["timeout"] + 60
        reply = like(self._session().receive(limit), ANSWER)
        if reply["problem"]:
            raise RemoteError(reply["problem"], f"{self.options['app']}: {reply['error']}")
        return self._judge(reply["replies"], nodes)

    def _judge(self, replies: Mapping[str, Any], nodes: Sequence[str]) -> list[dict[str, Any]]:
        expect = {**self.options["expect"], "nodes": list(nodes)}
        found = judge_named(replies, expect)[:MOST_FINDINGS] if nodes else []
        return [finding.as_dict() for finding in found]

    def ask(
        self, nodes: Sequence[str], count: int, canaries: Mapping[str, Any] | None = None
    ) -> None:
        """Ask everybody everything, and send canaries; `proof` has what came of it.

        `nodes` are all that there may be, `count` is how many there must be. `canaries` is what
        came of those of a question before: then none are sent.
        """
        expect = {**self.options["expect"], "nodes": list(nodes), "count": count}
        expect["no_foreign_nodes"] = True
        canary, self.canaries = self.options["canary"], dict(canaries) if canaries else None
        wanted = canary and not canaries
        sent = {**canary, "args": [], "kwargs": {}, "nodes": list(nodes)} if wanted else None
        request: dict[str, Any] = {"command": "verify", "methods": sorted(SHAPES)}
        request |= {
            "destination": list(nodes),
            "everybody": True,
            "settle": SETTLE,
            "timeout": self.options["timeout"],
        }
        self.expected = expect
        if self.session is not None and not self.trouble:
            self.session.send({**request, "canary": sent})

    def proof(self) -> dict[str, Any]:
        """Return the results of `ask`, as M(celery_inspect) returns them."""
        canary, expect = self.options["canary"], self.expected
        limit = 2 * (self.options["timeout"] + (canary["timeout"] if canary else 0)) + 60
        try:
            reply = self._session().receive(limit + self.options["import_timeout"])
        except RemoteError as error:
            reply = {"problem": error.problem, "error": str(error)}
        if self.canaries is None:
            return report_inspection(reply, expect, list(expect["nodes"]) if canary else None)
        proof = report_inspection(reply, expect, None)
        return {**proof, "canary": self.canaries}

    def _session(self) -> Session:
        if self.trouble:
            raise self.trouble
        if self.session is None:
            why = f"no container of service {self.options['service']} runs"
            raise RemoteError("container_not_running", why)
        return self.session


def typed(name: str, options: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mapping as a module's option of that kind.

    A number on the command line is a text.

    Raises:
        ValueError: a value is of a wrong kind.
    """
    judged = ArgumentSpecValidator(options).validate(dict(values))
    if judged.error_messages:
        raise ValueError(f"workers.{name}: {'; '.join(judged.error_messages)}.")
    return dict(judged.validated_parameters)


def remedy(problem: str) -> str:
    """Return what to do about that kind of trouble."""
    return REMEDIES.get(problem, "")
