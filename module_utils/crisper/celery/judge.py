"""Judge what Celery's workers answered against what a release expects of them.

Pure functions of plain data. `replies` is what ``probes.inspect.inspect`` returns:
``{method: [{node: reply}, ...]}``, one entry per message that came back, so that two workers
with one node name are two entries (Celery's own ``inspect`` folds them into one).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from ..text import clean, listed, printable
from .findings import MOST_NAMES, Finding
from .pool_findings import pool_findings

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
BEAT = "celerybeat@"
Replies = Mapping[str, Sequence[Any]]


def answers(replies: Replies, method: str) -> dict[str, list[Any]]:
    """Return the replies to one method by node; two replies mean that two answer in that name."""
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


def fold_replies(replies: Replies) -> dict[str, dict[str, Any]]:
    """Return ``{node: {method: reply}}`` for callers; of duplicates the first.

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
    by_node = fold_replies(replies)
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
    text = printable(reply if isinstance(reply, kinds) and len(reply) > 20 else repr(clean(reply)))
    message = f"{node or 'Somebody'} answered {method} with {text}."
    return Finding("malformed_reply", message, node, actual=text)


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
        queues = (queue for queue in reply or [] if isinstance(queue, Mapping))
        # The name of a broadcast is its worker's own.
        names = sorted(str(queue.get("alias") or queue.get("name")) for queue in queues)
        wanted = sorted(pool["queues"])
        if names != wanted:
            text = f"{node} consumes {_words(names)}, expected {_words(wanted)}."
            yield Finding("wrong_queues", text, node, wanted, names)


def _pool_facts(stats: Any) -> Mapping[str, Any]:
    facts = (stats or {}).get("pool")
    return facts if isinstance(facts, Mapping) else {}


def _concurrency(node: str, reply: Any, expect: Mapping[str, Any]) -> Iterator[Finding]:
    pool = (expect.get("pools") or {}).get(node.partition("@")[0], {})
    expected = pool.get("expected") or {}
    if "concurrency" in pool:
        least, most = expected.get("processes") or [pool["concurrency"]] * 2
        actual = _pool_facts(reply).get("max-concurrency")
        if not isinstance(actual, int) or not least <= actual <= most:
            wanted = least if least == most else f"{least} to {most}"
            text = f"{node} runs {actual} processes, expected {wanted}."
            yield Finding("wrong_concurrency", text, node, wanted, actual)
    yield from pool_findings(node, _pool_facts(reply), expected)


def _tasks(node: str, reply: Any, expect: Mapping[str, Any]) -> Iterator[Finding]:
    registered = {str(name).partition(" ")[0] for name in reply or []}
    for task in expect.get("registered") or []:
        if task not in registered:
            text = f"{node} does not know the task {task}."
            yield Finding("unregistered_task", text, node, task, None)


def _time_limits(node: str, reply: Any, expect: Mapping[str, Any]) -> Iterator[Finding]:
    timeouts = _pool_facts(reply).get("timeouts")
    soft, hard = timeouts if isinstance(timeouts, Sequence) and len(timeouts) == 2 else (None, None)
    pool = (expect.get("pools") or {}).get(node.partition("@")[0], {})
    limits = pool.get("expected") or expect
    for name, actual in (("soft_time_limit", soft), ("time_limit", hard)):
        wanted = limits.get(name)
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
