"""Judge what Celery's workers answered against what a release expects of them.

Pure functions of plain data. `replies` is what ``probes.inspect.inspect`` returns:
``{method: [{node: reply}, ...]}``, one entry per message that came back, so that two workers
with one node name are two entries (Celery's own ``inspect`` folds them into one).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from ..shapes import ANY, EACH, like
from ..text import WIDTH, clean, listed, printable, quote
from .busy import (
    BUSY,
    FREE,
    OVERDUE,
    RUNNING,
    SILENT,
    UNCONSUMED,
    duration,
)
from .busy import told as busy_text

# What each method answers with; anything else is a malformed reply.
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
# What an element of a list must be; of ``active_queues`` with a name.
ELEMENTS: dict[str, type] = {
    "active": Mapping,
    "reserved": Mapping,
    "scheduled": Mapping,
    "active_queues": Mapping,
    "registered": str,
    "revoked": str,
}
# What becomes of a canary, and why it is not back.
WHY: dict[str, Any] = {
    "kind": "",
    "nodes": [""],
    "processes": 0,
    "active": 0,
    "tasks": [""],
    "oldest_seconds": 0.0,
    "limit": 0.0,
    "ended": False,
    "taken": False,
    "task_id": "",
    "waited": 0.0,
    "text": "",
}
CANARY: dict[str, Any] = {"task_id": "", "state": "", "seconds": None, "result": ANY, "why": WHY}
# Findings that are told and returned, and names in one of them.
MOST_FINDINGS, MOST_NAMES = 50, 10
# Characters of a finding's sentence, in which several names may stand.
FINDING_WIDTH = 1000
BEAT = "celerybeat@"
REMEDIES = {
    "no_worker_answered": "Start the workers, or see why they do not consume: docker compose logs.",
    "broker_unreachable": "Look at Redis: is it running, and is its password the worker's?",
    "container_not_running": "Start it: docker compose up --detach.",
    "app_not_importable": "The image or its environment is broken; run the import by hand.",
    "malformed_reply": "Does the worker run the Celery version this repository pins?",
    "docker_unavailable": "Start the engine, and let this user reach it.",
    "node_silent": "Look at that container: docker compose ps, docker compose logs.",
    "foreign_node": "Stop that worker: it takes this release's tasks with another release's code.",
    "duplicate_node": "Two workers have one name: stop one, they cannot be told apart.",
    "wrong_count": "Compare celery_workers[].replicas with the containers that run.",
    "wrong_queues": "Compare celery_workers[].queues with what the worker was started with.",
    "wrong_concurrency": "Compare celery_workers[].concurrency with the worker's command.",
    "unregistered_task": "The task's module is not imported by the worker: include=, autodiscover.",
    "wrong_time_limits": "Compare celery_task_time_limit and celery_task_soft_time_limit.",
    "unreadable_data": (
        "Something writes into Redis that is not Celery's: stop the old workers, replace"
        " redis_password in stack_secrets, and remove the key that the message names (redis-cli"
        " DEL). Workers without crisper-worker (plain Celery) end when they read such data: start"
        " them again afterwards."
    ),
    "wrong_serializers": "Set accept_content and task_serializer in the Celery application.",
}


@dataclass(frozen=True)
class Finding:
    """One thing that is not as expected."""

    code: str
    message: str
    node: str = ""
    expected: Any = None
    actual: Any = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with the remedy; of all others' texts as a terminal can show them."""
        return {**clean(asdict(self), width=FINDING_WIDTH), "remedy": REMEDIES[self.code]}


Replies = Mapping[str, Sequence[Any]]


def answers(replies: Replies, method: str) -> dict[str, list[Any]]:
    """Replies to one method by node; more than one reply means more than one such worker."""
    found: dict[str, list[Any]] = {}
    for message in replies.get(method) or []:
        if isinstance(message, Mapping):
            for node, reply in message.items():
                if not str(node).startswith(BEAT):
                    found.setdefault(printable(node), []).append(reply)
    return found


def has_shape(method: str, reply: Any) -> bool:
    """Return whether a worker's reply to a method is what it should be, its elements too."""
    if not isinstance(reply, SHAPES.get(method, object)):
        return False
    if isinstance(reply, Mapping):
        return "error" not in reply
    if not isinstance(reply, list):
        return True
    if not all(isinstance(item, ELEMENTS.get(method, object)) for item in reply):
        return False
    return method != "active_queues" or all(isinstance(q.get("name"), str) for q in reply)


def folded(replies: Replies) -> dict[str, dict[str, Any]]:
    """``{node: {method: reply}}`` for callers; of duplicates the first.

    Replies of another shape are left out, as if they had not come: `judge` has findings of them.
    """
    nodes: dict[str, dict[str, Any]] = {}
    for method in replies:
        for node, found in answers(replies, method).items():
            known = nodes.setdefault(node, {})
            if has_shape(method, found[0]):
                known[method] = clean(found[0])
    return nodes


def judge(replies: Replies, expect: Mapping[str, Any]) -> list[Finding]:
    """Return every way in which the workers differ from `expect`; empty when they do not.

    Two answers in one name are a finding, whatever they say: one of them may be forged, and a
    forged good one must not prove a worker that does not work.

    Args:
        replies: by method.
        expect: any of ``nodes`` (exact names), ``count``, ``no_foreign_nodes``, ``pools``
            (``{pool: {queues, concurrency}}``), ``registered``, ``time_limit``,
            ``soft_time_limit`` (seconds), ``accept_content``, ``task_serializer``.
    """
    alive = answers(replies, "ping")
    if not alive:
        return [Finding("no_worker_answered", "No worker answered.", expected=expect.get("nodes"))]
    nodes = list(expect.get("nodes") or [])
    judged = [node for node in nodes if node in alive] if nodes else sorted(alive)
    by_node = folded(replies)
    return [
        *_malformed(replies),
        *(_silent(node) for node in nodes if node not in alive),
        *_duplicates(replies),
        *_others(alive, nodes, expect),
        *(finding for node in judged for finding in _node(node, by_node.get(node, {}), expect)),
    ]


def judge_named(replies: Replies, expect: Mapping[str, Any]) -> list[Finding]:
    """Return how the named workers differ from `expect`, by the best of several answers of each.

    Whoever can write into Redis can answer in the name of any worker. Where a look only decides
    whether to go on, a forged bad answer must not make a good worker look bad: of each method the
    answer with the fewest findings counts, and other nodes do not. Such a look proves nothing;
    `judge` does.

    Args:
        replies: by method.
        expect: as `judge` takes it, with ``nodes``; no other node is looked at.
    """
    nodes = list(expect.get("nodes") or [])
    answered_by = {method: answers(replies, method) for method in replies}
    alive = answered_by.get("ping", {})
    if not any(node in alive for node in nodes):
        return [Finding("no_worker_answered", "No worker answered.", expected=nodes)]
    return [
        finding
        for node in nodes
        for finding in (
            _best(node, {m: a[node] for m, a in answered_by.items() if node in a}, expect)
            if node in alive
            else [_silent(node)]
        )
    ]


def _best(
    node: str, replies: Mapping[str, Sequence[Any]], expect: Mapping[str, Any]
) -> list[Finding]:
    """Return the findings over one worker's best answers; `replies` are all of each method."""

    def faults(method: str, reply: Any) -> int:
        if not has_shape(method, reply):
            return 1 + sum(1 for _ in _node(node, {}, expect, method))
        return sum(1 for _ in _node(node, {method: reply}, expect, method))

    best = {
        method: min(candidates, key=partial(faults, method))
        for method, candidates in replies.items()
    }
    shaped = {method: reply for method, reply in best.items() if has_shape(method, reply)}
    malformed = [_bad(method, node, best[method]) for method in best if method not in shaped]
    return [*malformed, *_node(node, shaped, expect)]


def _malformed(replies: Replies) -> Iterator[Finding]:
    for method, messages in replies.items():
        for message in messages or []:
            if not isinstance(message, Mapping):
                yield _bad(method, "", message)
                continue
            for node, reply in message.items():
                if not has_shape(method, reply):
                    yield _bad(method, printable(node), reply)


def _bad(method: str, node: str, reply: Any) -> Finding:
    # Not the text of all of it: a list of a million numbers takes seconds.
    kinds = (dict, list, tuple)
    shown = printable(reply if isinstance(reply, kinds) and len(reply) > 20 else repr(clean(reply)))
    text = f"{node or 'Somebody'} answered {method} with {shown}."
    return Finding("malformed_reply", text, node, actual=shown)


def _silent(node: str) -> Finding:
    return Finding("node_silent", f"{node} did not answer.", node, "an answer", "none")


def _duplicates(replies: Replies) -> Iterator[Finding]:
    """Yield a finding for each name in which two answered one question, whichever that was."""
    most: Counter[str] = Counter()
    for method in replies:
        for node, found in answers(replies, method).items():
            most[node] = max(most[node], len(found))
    for node, number in sorted(most.items()):
        if number > 1:
            text = f"{number} workers answer as {node}."
            yield Finding("duplicate_node", text, node, 1, number)


def _others(
    alive: Mapping[str, Sequence[Any]], nodes: Sequence[str], expect: Mapping[str, Any]
) -> Iterator[Finding]:
    if expect.get("no_foreign_nodes"):
        for node in sorted(set(alive) - set(nodes)):
            text = f"{node} answers and is not of this release."
            yield Finding("foreign_node", text, node, sorted(nodes), node)
    count = expect.get("count")
    total = sum(len(found) for found in alive.values())
    if count is not None and total != count:
        yield Finding("wrong_count", f"{total} workers answer, {count} expected.", "", count, total)


def _node(
    node: str, replies: Mapping[str, Any], expect: Mapping[str, Any], only: str = ""
) -> Iterator[Finding]:
    """Yield how a worker's replies, which have their shapes, differ; `only` of one method."""
    for method, check in CHECKS:
        if only in ("", method):
            yield from check(node, replies.get(method), expect)


def _queues(node: str, reply: Any, expect: Mapping[str, Any]) -> Iterator[Finding]:
    pool = (expect.get("pools") or {}).get(node.partition("@")[0], {})
    if "queues" in pool:
        names = sorted(str(q.get("name")) for q in reply or [] if isinstance(q, Mapping))
        wanted = sorted(pool["queues"])
        if names != wanted:
            text = f"{node} consumes {_words(names)}, expected {_words(wanted)}."
            yield Finding("wrong_queues", text, node, wanted, names)


def _pool_facts(stats: Any) -> Mapping[str, Any]:
    facts = (stats or {}).get("pool")
    return facts if isinstance(facts, Mapping) else {}


def _concurrency(node: str, reply: Any, expect: Mapping[str, Any]) -> Iterator[Finding]:
    pool = (expect.get("pools") or {}).get(node.partition("@")[0], {})
    if "concurrency" in pool:
        actual = _pool_facts(reply).get("max-concurrency")
        if actual != pool["concurrency"]:
            text = f"{node} runs {actual} processes, expected {pool['concurrency']}."
            yield Finding("wrong_concurrency", text, node, pool["concurrency"], actual)


def _tasks(node: str, reply: Any, expect: Mapping[str, Any]) -> Iterator[Finding]:
    registered = {str(name).partition(" ")[0] for name in reply or []}
    for task in expect.get("registered") or []:
        if task not in registered:
            text = f"{node} does not know the task {task}."
            yield Finding("unregistered_task", text, node, task, None)


def _time_limits(node: str, reply: Any, expect: Mapping[str, Any]) -> Iterator[Finding]:
    timeouts = _pool_facts(reply).get("timeouts")
    soft, hard = timeouts if isinstance(timeouts, Sequence) and len(timeouts) == 2 else (None, None)
    for name, actual in (("soft_time_limit", soft), ("time_limit", hard)):
        wanted = expect.get(name)
        if wanted is not None and actual != wanted:
            text = f"{node} has {name} {actual}, expected {wanted}."
            yield Finding("wrong_time_limits", text, node, wanted, actual)


def _serializers(node: str, reply: Any, expect: Mapping[str, Any]) -> Iterator[Finding]:
    for key in ("accept_content", "task_serializer"):
        wanted, actual = expect.get(key), (reply or {}).get(key)
        if wanted is not None and _sorted(actual) != _sorted(wanted):
            text = f"{node} has {key} {actual!r}, expected {wanted!r}."
            yield Finding("wrong_serializers", text, node, wanted, actual)


# What is compared, and of which method's reply.
CHECKS: tuple[tuple[str, Callable[[str, Any, Mapping[str, Any]], Iterator[Finding]]], ...] = (
    ("active_queues", _queues),
    ("stats", _concurrency),
    ("registered", _tasks),
    ("stats", _time_limits),
    ("conf", _serializers),
)


def _sorted(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, (list, tuple)) else value


def _words(names: Iterable[str]) -> str:
    return listed(names, MOST_NAMES, "more") or "nothing"


def problem_of(findings: Iterable[Finding]) -> str:
    """The kind of trouble in one word: what an operator must look at first."""
    codes = Counter(finding.code for finding in findings)
    if not codes:
        return ""
    for code, problem in (
        ("no_worker_answered", "no_worker_answered"),
        ("malformed_reply", "malformed_reply"),
        ("node_silent", "nodes_silent"),
    ):
        if codes[code]:
            return problem
    return "expectations_not_met"


def told(findings: Iterable[Mapping[str, Any]]) -> str:
    """All findings as one text, numbered, each with its remedy."""
    findings = list(findings)
    lines = [f"{n}. {f['message']} {f['remedy']}" for n, f in enumerate(findings, 1)]
    more = len(lines) - MOST_FINDINGS
    return "\n".join(lines[:MOST_FINDINGS] + ([f"And {more} more findings."] if more > 0 else []))


def judge_canaries(
    queues: Mapping[str, Mapping[str, Any]], nodes: Sequence[str]
) -> list[dict[str, Any]]:
    """Findings over the canaries of all queues: lost, failed, or answered by a stranger.

    A canary that a busy pool has not taken is none: see `busy_canaries`.

    Args:
        queues: queue -> ``{task_id, state, seconds, result, why}``; `why` is a verdict of
            ``celery.busy``, where the canary is not back.
        nodes: node names that may have run them; empty accepts any.
    """
    findings = []
    for queue, entry in sorted(queues.items()):
        state, result = str(entry.get("state")), entry.get("result")
        worker = result.get("worker") if isinstance(result, Mapping) else None
        if state == BUSY:
            continue
        if state in ("PENDING", "STARTED", "RECEIVED", "RETRY"):
            text, remedy = absent(queue, state, entry.get("why") or {})
        elif state != "SUCCESS":
            text = f"The canary in queue {queue} ended as {state}: {quote(_plain(result), WIDTH)}."
            remedy = "Look at the worker's log for that task id."
        elif nodes and worker and worker not in nodes:
            text = f"The canary in queue {queue} was run by {worker}, which is not of this release."
            remedy = REMEDIES["foreign_node"]
        else:
            continue
        findings.append(
            {"queue": queue, "task_id": entry.get("task_id"), "message": text, "remedy": remedy}
        )
    return findings


def absent(queue: str, state: str, why: Mapping[str, Any]) -> tuple[str, str]:
    """Return the message and the remedy for a canary that did not come back.

    Args:
        queue: its name.
        state: the state that the result backend told last.
        why: of ``celery.busy``, with the seconds waited; empty where nobody could look.
    """
    text = f"The canary in queue {queue} did not come back"
    text += f" within {why['waited']:g} s (state {state})" if why else f" (state {state})"
    names = listed(why.get("nodes") or [], MOST_NAMES) or "nobody"
    kind = why.get("kind")
    if kind == UNCONSUMED:
        return (
            f"{text}: no worker that answers consumes that queue.",
            "Add the queue to the queues of a pool in celery_workers, or correct its name there.",
        )
    if kind == FREE:
        free = why["processes"] - why["active"]
        did = "took it and did not begin it" if why["taken"] else "did not take it"
        return (
            f"{text}: {names} consumes that queue, has {free} of {why['processes']} processes free"
            f" and {did}.",
            "See the log of that worker. Restart it if it is stuck (docker restart); raise"
            " verify_canary_timeout if the broker or the machine is slow. A rate limit on the"
            " canary task holds it up as well.",
        )
    if kind == OVERDUE:
        task = f"{listed(why['tasks'], MOST_NAMES)} ({why['task_id']})"
        return (
            f"{text}: {names} runs {task} for {duration(why['oldest_seconds'])}, beyond its time"
            f" limit of {duration(why['limit'])}: the pool is stuck.",
            "Restart that worker (docker restart); its log tells what the task does. If the task is"
            " called with a time_limit of its own, set that on the task or raise"
            " celery_task_time_limit: workers do not tell the limit of a call.",
        )
    if kind == RUNNING:
        return (
            f"{text}: {names} began it {duration(why['oldest_seconds'])} ago and has not ended it.",
            "The canary (stack_app.celery.canary_task) must be a task that returns at once; see the"
            " log of that worker, or raise verify_canary_timeout.",
        )
    if kind == SILENT:
        who = f"{names} did not answer" if why["nodes"] else "no worker answered"
        return (
            f"{text}: {who} when the workers were looked at meanwhile.",
            "See the log of that worker: is it running, and connected to the broker? A pool of kind"
            " solo cannot answer while it runs a task, and so cannot be proved then: use prefork or"
            " threads with concurrency 1 in celery_workers, or deploy when it is idle.",
        )
    return f"{text}.", "Does a worker of this release consume that queue? See celery_workers."


def busy_canaries(queues: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the queues whose canary a busy pool has not taken, with the evidence that it works.

    Each ``{queue, nodes, processes, active, oldest_seconds, tasks, text}``.
    """
    keys = ("nodes", "processes", "active", "oldest_seconds", "tasks", "text")
    return [
        {"queue": queue, **{key: entry["why"][key] for key in keys}}
        for queue, entry in sorted(queues.items())
        if entry.get("state") == BUSY
    ]


def judged_canaries(reply: Mapping[str, Any], nodes: Sequence[str]) -> dict[str, Any]:
    """What became of the canaries: ``{problem, queues, findings, busy}``.

    Args:
        reply: the probe's: ``{problem, error, queues}``, the last only without a problem.
        nodes: node names that may have run them; empty accepts any.
    """
    problem = str(reply.get("problem") or "")
    queues = like(clean(reply.get("queues")), {EACH: CANARY})
    for entry in queues.values():
        # Without evidence nobody could look.
        why = entry["why"] = entry["why"] if entry["why"]["kind"] else {}
        if why and entry["state"] == BUSY:
            why["text"] = busy_text(why, why["waited"])  # of names that are printable
        if entry["state"] == BUSY and not entry["why"]:
            entry["state"] = "PENDING"
    findings = judge_canaries(queues, nodes)
    if not problem and not isinstance(reply.get("queues"), Mapping):
        problem, reply = "malformed_reply", {"error": "no queues in the answer"}
    if problem:
        text = f"{problem}: {reply.get('error') or 'no reason given'}"
        findings = [{"queue": "", "task_id": "", "message": text, "remedy": ""}]
        findings[0]["remedy"] = REMEDIES.get(problem, "")
    busy = busy_canaries(queues)
    return {"problem": problem, "queues": queues, "findings": findings, "busy": busy}


def answered(
    reply: Mapping[str, Any], expect: Mapping[str, Any], canary_nodes: Sequence[str] | None
) -> dict[str, Any]:
    """What celery_inspect tells of a reply: ``{nodes, findings, problem, seconds, held, canary}``.

    Args:
        reply: the probe's: ``{problem, error}``, and without a problem ``{replies, seconds}`` and,
            if canaries were sent, ``canary``.
        expect: as `judge` takes it.
        canary_nodes: node names that may have run the canaries; None when none were sent.
    """
    problem = str(reply.get("problem") or "")
    error = str(reply.get("error") or "no reason given")
    if not problem and not isinstance(reply.get("replies"), Mapping):
        problem, error = "malformed_reply", "no replies in the answer"
    if problem:
        finding = {"code": problem, "message": f"{problem}: {error}", "node": ""}
        finding |= {"expected": None, "actual": None, "remedy": REMEDIES.get(problem, "")}
        return {"nodes": {}, "findings": [finding], "problem": problem}
    replies = {m: r if isinstance(r, list) else [r] for m, r in reply["replies"].items()}
    found = judge(replies, expect)
    result: dict[str, Any] = {
        "nodes": folded(replies),
        "findings": [finding.as_dict() for finding in found[:MOST_FINDINGS]],
        "problem": problem_of(found),
        "seconds": like(reply.get("seconds"), 0.0),
        "held": like(reply.get("held"), None),
        "restarted": like(reply.get("restarted"), None),
    }
    if len(found) > MOST_FINDINGS:
        result["findings"].append(_more(len(found) - MOST_FINDINGS))
    if canary_nodes is not None:
        canary = reply.get("canary")
        canary = canary if isinstance(canary, Mapping) else {}
        result["canary"] = judged_canaries(canary, canary_nodes)
    return result


def _more(count: int) -> dict[str, Any]:
    """Return what stands for findings that are left out."""
    text = f"{count} more findings are not listed."
    return {"code": "malformed_reply", "message": text, "node": "", "expected": None} | {
        "actual": None,
        "remedy": "Mend those that are, and run again.",
    }


def _plain(result: Any) -> str:
    """Return what a task returned, or raised, as a text."""
    return result if isinstance(result, str) else repr(result)[:1000]
