"""Replies of Celery workers, parsed and judged against what is expected.

Pure functions of plain data. ``crisper_celery_probe`` asks, inside a container; the modules
``celery_inspect`` and ``celery_canary`` carry questions and answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

MARKER = "CRISPER-PROBE-REPLY:"
BEAT = "celerybeat@"
# Methods whose reply has one shape; the others are as the worker's version makes them.
SHAPES: dict[str, type] = {
    "ping": dict,
    "active": list,
    "reserved": list,
    "scheduled": list,
    "registered": list,
    "stats": dict,
    "active_queues": list,
    "conf": dict,
    "revoked": list,
}
REMEDIES = {
    "broker_unreachable": "Is redis up and healthy (docker compose ps redis), and is the password"
    " in the release's .env.prod the one redis runs with?",
    "app_not_importable": "See the traceback in stderr; try it with: docker compose exec <service>"
    " celery -A <app> report.",
    "result_backend_unreachable": "Check CELERY_RESULT_BACKEND in the release's .env.prod, and"
    " whether redis answers.",
    "no_result_backend": "Give the application a result backend (CELERY_RESULT_BACKEND): without"
    " one nobody can see a canary return.",
    "container_not_running": "See why it stopped: docker logs <container>; start it with: docker"
    " compose up -d in the release's folder.",
    "docker_unavailable": "Is the engine up (docker info), and may this user talk to it?",
    "malformed_reply": "See stdout and stderr of the probe; something else than Python or Celery"
    " answered.",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as expected, about one node or queue (empty: about all)."""

    code: str
    node: str
    expected: Any
    actual: Any
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a module's result."""
        return asdict(self)


@dataclass(frozen=True)
class Snapshot:
    """What all workers replied: node -> method -> reply."""

    nodes: Mapping[str, Mapping[str, Any]]
    beats: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    malformed: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Expectation:
    """What must hold of the workers; None and empty expect nothing.

    Keys of `queues` and `concurrency` are node names or pool names (what stands before ``@``).
    """

    nodes: tuple[str, ...] = ()
    count: int | None = None
    queues: Mapping[str, Sequence[str]] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    concurrency: Mapping[str, int] = field(default_factory=dict)
    time_limit: float | None = None
    soft_time_limit: float | None = None
    task_serializer: str | None = None
    result_serializer: str | None = None
    accept_content: tuple[str, ...] = ()
    no_foreign_nodes: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Expectation:
        """The expectation in a module's parameters."""
        given = {key: value for key, value in values.items() if value is not None}
        for key in ("nodes", "tasks", "accept_content"):
            given[key] = tuple(given.get(key, ()))
        return cls(**given)


def parse_output(stdout: str) -> dict[str, Any] | None:
    """The probe's reply in what a process printed; None when there is none."""
    for line in reversed(stdout.splitlines()):
        if line.startswith(MARKER):
            try:
                reply = json.loads(line[len(MARKER) :])
            except ValueError:
                return None
            return reply if isinstance(reply, dict) else None
    return None


def classify_exec(code: int, stderr: str) -> tuple[str, str]:
    """Kind of trouble and a sentence, when ``docker exec`` brought no reply of the probe."""
    last = stderr.strip().splitlines()[-1].strip() if stderr.strip() else ""
    if re.search(r"is not running|is paused|is restarting|No such container", stderr):
        return "container_not_running", last
    if re.search(r"Cannot connect to the Docker daemon|permission denied.*docker", stderr, re.I):
        return "docker_unavailable", last
    if code in (126, 127) or "executable file not found" in stderr:
        return "app_not_importable", f"Python does not start in the container: {last}"
    if code in (137, 143):
        return "malformed_reply", f"The probe was killed (exit code {code}; out of memory?)"
    return "malformed_reply", f"The probe gave no reply (exit code {code}): {last}"


def parse_replies(replies: Any, methods: Iterable[str]) -> Snapshot:
    """Sort the raw replies by node; whatever has not the shape of a reply is a finding."""
    nodes: dict[str, dict[str, Any]] = {}
    beats: set[str] = set()
    duplicates: set[str] = set()
    malformed: list[Finding] = []
    replies = replies if isinstance(replies, Mapping) else {}
    for method in methods:
        items = replies.get(method, [])
        if not isinstance(items, list):
            malformed.append(_malformed("", method, items))
            continue
        for item in items:
            if not isinstance(item, Mapping):
                malformed.append(_malformed("", method, item))
                continue
            for node, value in item.items():
                if str(node).startswith(BEAT):
                    beats.add(node)
                    continue
                known = nodes.setdefault(node, {})
                if method in known:
                    duplicates.add(node)
                elif _well_formed(method, value):
                    known[method] = value
                else:
                    malformed.append(_malformed(node, method, value))
    return Snapshot(nodes, tuple(sorted(beats)), tuple(sorted(duplicates)), tuple(malformed))


def _well_formed(method: str, value: Any) -> bool:
    if isinstance(value, Mapping) and set(value) == {"error"}:
        return False
    if method == "ping":
        return value == {"ok": "pong"}
    return isinstance(value, SHAPES.get(method, object))


def _malformed(node: str, method: str, value: Any) -> Finding:
    shown = json.dumps(value, default=repr)[:200]
    text = f"{node or 'A worker'} answered {method} with {shown}: not what Celery replies."
    return Finding("malformed_reply", node, f"a reply to {method}", shown, text)


def judge(snapshot: Snapshot, expect: Expectation, methods: Sequence[str]) -> list[Finding]:
    """Everything that is not as expected; empty when all of it is."""
    answered = sorted(snapshot.nodes)
    if not answered and expect.count != 0:
        wanted = list(expect.nodes) or "a worker"
        return [
            *(_silent(node) for node in expect.nodes),
            *snapshot.malformed,
            Finding(
                "no_worker_answered",
                "",
                wanted,
                [],
                "No worker answered within the time limit. Do the worker containers run"
                " (docker compose ps), and are they connected to this broker (their log)?",
            ),
        ]
    silent = [node for node in expect.nodes if node not in snapshot.nodes]
    mine = [node for node in answered if not expect.nodes or node in expect.nodes]
    found = [_silent(node) for node in silent]
    found += snapshot.malformed
    for node in snapshot.duplicates:
        text = (
            f"More than one worker answers as {node}: replies of one hide the other's."
            " Give every worker a node name of its own (celery worker --hostname …%h)."
        )
        found.append(Finding("duplicate_node", node, 1, "several", text))
    if expect.no_foreign_nodes:
        found += [_foreign(node) for node in answered if node not in expect.nodes]
    if expect.count is not None and len(answered) != expect.count:
        text = f"{expect.count} worker(s) should answer, {len(answered)} do: {_list(answered)}."
        found.append(Finding("node_count", "", expect.count, len(answered), text))
    for node in mine:
        replies = snapshot.nodes[node]
        broken = {f.expected for f in snapshot.malformed if f.node == node}
        for method in methods:
            if method not in replies and f"a reply to {method}" not in broken:
                text = f"{node} answers, but not to {method}. Is it overloaded, or about to stop?"
                found.append(Finding("reply_missing", node, method, sorted(replies), text))
        found += _judge_node(node, replies, expect)
    for what, wanted in (("queues", expect.queues), ("concurrency", expect.concurrency)):
        for key in wanted:
            if not any(_matches(key, node) for node in (*mine, *silent)):
                text = f"{what} are expected of {key}, but no such node or pool answers."
                found.append(Finding("pool_silent", key, wanted[key], [], text))
    return found


def _judge_node(node: str, replies: Mapping[str, Any], expect: Expectation) -> list[Finding]:
    found = []
    queues = _for_node(expect.queues, node)
    if queues is not None and "active_queues" in replies:
        names = queue_names(replies["active_queues"])
        for queue in sorted(set(queues) - set(names)):
            text = (
                f"{node} does not consume queue {queue}; it consumes {_list(names)}."
                " Compare celery_workers in the inventory with the worker's --queues."
            )
            found.append(Finding("queue_missing", node, queue, names, text))
        for queue in sorted(set(names) - set(queues)):
            text = f"{node} consumes queue {queue}, which its pool in the inventory does not have."
            found.append(Finding("queue_unexpected", node, sorted(queues), queue, text))
    if expect.tasks and "registered" in replies:
        # "name [rate_limit=10/m]" when a task has more to tell
        names = [str(name).split(" [")[0] for name in replies["registered"]]
        for task in expect.tasks:
            if task not in names:
                text = (
                    f"{node} does not know task {task}: messages for it would be discarded."
                    " Is its module imported (include=, autodiscover_tasks), or was it renamed?"
                )
                found.append(Finding("task_missing", node, task, sorted(names), text))
    pool = _mapping(_mapping(replies.get("stats")).get("pool"))
    if "stats" in replies:
        wanted = _for_node(expect.concurrency, node)
        actual = pool.get("max-concurrency")
        if wanted is not None and actual != wanted:
            text = f"{node} has concurrency {actual}, {wanted} is expected."
            found.append(Finding("concurrency", node, wanted, actual, text))
        limits = pool.get("timeouts")
        limits = limits if isinstance(limits, list) and len(limits) == 2 else [None, None]
        for code, wanted_limit, actual_limit in (
            ("soft_time_limit", expect.soft_time_limit, limits[0]),
            ("time_limit", expect.time_limit, limits[1]),
        ):
            if wanted_limit is not None and actual_limit != wanted_limit:
                why = "" if pool.get("timeouts") else " Its pool enforces none: use prefork."
                text = f"{node} has {code} {actual_limit}, {wanted_limit} s is expected.{why}"
                found.append(Finding(code, node, wanted_limit, actual_limit, text))
    conf = _mapping(replies.get("conf"))
    if "conf" in replies:
        for code in ("task_serializer", "result_serializer"):
            wanted = getattr(expect, code)
            actual = conf.get(code, "json")
            if wanted is not None and actual != wanted:
                text = f"{node} has {code} {actual!r}, {wanted!r} is expected."
                found.append(Finding(code, node, wanted, actual, text))
        content = conf.get("accept_content", ["json"])
        names = sorted(map(str, content)) if isinstance(content, list) else [str(content)]
        if expect.accept_content and names != sorted(expect.accept_content):
            wanted = sorted(expect.accept_content)
            text = f"{node} accepts {_list(names)}, only {_list(wanted)} is expected."
            found.append(Finding("accept_content", node, wanted, names, text))
    return found


def problem_of(findings: Sequence[Finding]) -> str:
    """The gravest kind of trouble among the findings; empty without any."""
    codes = [finding.code for finding in findings]
    for code, problem in (
        ("no_worker_answered", "no_worker_answered"),
        ("node_silent", "nodes_silent"),
        ("malformed_reply", "malformed_reply"),
    ):
        if code in codes:
            return problem
    return "expectations" if codes else ""


def workers_of(snapshot: Snapshot) -> list[dict[str, Any]]:
    """One line per worker for people: node, pool, concurrency, queues, tasks under way."""
    lines = []
    for node in sorted(snapshot.nodes):
        replies = snapshot.nodes[node]
        stats = _mapping(replies.get("stats"))
        lines.append(
            {
                "node": node,
                "pool": node.partition("@")[0],
                "concurrency": _mapping(stats.get("pool")).get("max-concurrency"),
                "queues": queue_names(replies.get("active_queues")),
                "active": len(replies.get("active", [])),
                "reserved": len(replies.get("reserved", [])),
                "scheduled": len(replies.get("scheduled", [])),
            }
        )
    return lines


def queue_names(queues: Any) -> list[str]:
    """Names in a reply to ``active_queues``."""
    items = queues if isinstance(queues, list) else []
    return sorted(
        str(item["name"]) for item in items if isinstance(item, Mapping) and "name" in item
    )


def judge_canaries(
    queues: Mapping[str, Any], task: str, timeout: float, nodes: Sequence[str]
) -> list[Finding]:
    """What is wrong with the canaries that were sent: lost, failed, or taken by a stranger.

    Args:
        queues: queue -> ``{task_id, state, seconds, result, waiting}`` of the probe.
        task: name of the task that was sent.
        timeout: seconds it had.
        nodes: node names that may answer; empty to accept any. A result that does not tell its
            worker (key ``worker``) is accepted.
    """
    found = []
    for queue in sorted(queues):
        entry = _mapping(queues[queue])
        state, result = str(entry.get("state")), entry.get("result")
        worker = canary_node(result)
        if state == "SUCCESS":
            if nodes and worker and worker not in nodes:
                text = (
                    f"The canary through queue {queue} was run by {worker}, which is none of this"
                    f" release's workers ({_list(nodes)}). Stop it, or give it another broker."
                )
                found.append(Finding("canary_foreign", queue, list(nodes), worker, text))
            continue
        if state in ("FAILURE", "REVOKED"):
            code = "canary_failed"
            text = f"The canary {task} through queue {queue} ended as {state}: {result}."
        elif state == "UNROUTABLE":
            code = "canary_unroutable"
            text = f"The canary {task} could not be sent to queue {queue}: {result}."
        elif entry.get("waiting"):
            code = "canary_lost"
            text = (
                f"Nobody took the canary {task} from queue {queue} within {timeout:g} s. Does a"
                " worker consume this queue (celery_workers), and has it a free process?"
            )
        else:
            code = "canary_lost"
            text = (
                f"The canary {task} through queue {queue} was taken, but did not come back within"
                f" {timeout:g} s (state {state}). See the worker's log; is the task registered?"
            )
        found.append(Finding(code, queue, "SUCCESS", state, text))
    return found


def canary_node(result: Any) -> str:
    """The worker that a canary's result names; empty when it names none."""
    return str(_mapping(result).get("worker") or "")


def message_of(head: str, findings: Sequence[Finding]) -> str:
    """One message with every finding."""
    lines = [f"{number}. {finding.text}" for number, finding in enumerate(findings, 1)]
    return "\n".join([f"{head}: {len(findings)} finding(s).", *lines])


def _silent(node: str) -> Finding:
    text = (
        f"{node} does not answer. Does its container run and is it healthy (docker ps), is it"
        " stuck or out of memory (docker logs)?"
    )
    return Finding("node_silent", node, "an answer", None, text)


def _foreign(node: str) -> Finding:
    text = (
        f"{node} answers, but is not a worker of this release. Stop it, or give it another broker."
    )
    return Finding("foreign_node", node, None, "an answer", text)


def _matches(key: str, node: str) -> bool:
    return key in (node, node.partition("@")[0])


def _for_node(values: Mapping[str, Any], node: str) -> Any:
    return values.get(node, values.get(node.partition("@")[0]))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(names: Iterable[Any]) -> str:
    return ", ".join(map(str, names)) or "none"
