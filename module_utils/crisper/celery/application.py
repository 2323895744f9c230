"""Compare what an application says of itself with the pools that are to run its tasks.

Pure functions of plain data. Python 3.8: ``probes.application`` takes the constants from here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..model.names import CANARY, DEFAULT_QUEUE, QUEUE
from ..shapes import ANY, EACH, like
from ..text import listed, printable

# Kinds of a route, beside the names of settings.
TASK, DEFAULT, CALLABLE = "task", "task_default_queue", "by the function in"
NOUNS = {"broker": "broker", "backend": "result backend"}
# An address that leads nowhere in a container: a default of code, as a rule.
LOCAL = re.compile(r"[a-z+]+://(localhost|127\.0\.0\.1|\[?::1\]?)(:\d+)?(/|\Z)")
# Result backends of which only the sender, or only the worker, sees a result.
UNSHARED = ("rpc", "file", "cache+memory")
# Queues and routes that a sentence names.
MOST = 8
# What a container answers, whatever it is.
FACTS: dict[str, Any] = {
    "default_queue": "celery",
    "consumed": [""],
    "routes": [{"queue": "", "kind": "", "name": ""}],
    "unknown": [""],
    "conf": {EACH: ANY},
    "registered": [""],
    "broker": {"library": "", "command": ""},
    "backend": {"library": "", "command": ""},
    "transport": "",
    "uid": -1,
}


def read_facts(reply: Any) -> dict[str, Any]:
    """Return the facts of a reply, with all their keys."""
    facts: dict[str, Any] = like(reply, FACTS)
    return facts


def adopt(model: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a stack as it is for this application.

    Pools without `queues` consume what Celery's own worker does without ``--queues``: the queues of
    task_queues, or task_default_queue; without those that another pool has in its `queues`.
    Celery's own task is no canary where nobody could see it come back.

    Args:
        model: of the inventory.
        facts: of the application; empty where it could not be asked.
    """
    if not facts:
        return dict(model)
    pools = list(model["pools"])
    taken = {queue for pool in pools if not pool.get("adopts") for queue in pool["queues"]}
    # The application's word goes into commands: a name that an operator may not give stays out.
    named = [queue for queue in facts["consumed"] if QUEUE.match(queue) and queue not in taken]
    own = named or [DEFAULT_QUEUE]
    pools = [{**pool, "queues": own} if pool.get("adopts") else pool for pool in pools]
    celery = dict(model["celery"])
    if celery["canary_task"] == CANARY and unseen_results(facts):
        celery["canary_task"] = ""
    queues = sorted({queue for pool in pools for queue in pool["queues"]})
    return {**model, "pools": pools, "queues": queues, "celery": celery}


def unseen_results(facts: Mapping[str, Any]) -> str:
    """Return why nobody would see Celery's own task come back; empty where one would."""
    if not facts["backend"]["library"]:
        return "the application has no result backend (CELERY_RESULT_BACKEND)"
    if facts["backend"]["library"].partition(":")[0] in UNSHARED:
        return "the application's result backend is not shared between containers"
    if facts["conf"].get("task_ignore_result") is True:
        return "the application stores no results (task_ignore_result)"
    return ""


def unconsumed_queues(
    facts: Mapping[str, Any], queues: Iterable[str], elsewhere: Sequence[str] = ()
) -> list[str]:
    """Return a sentence for each queue that gets tasks and that no pool consumes.

    Args:
        facts: of the application; empty where it could not be asked.
        queues: that the pools consume.
        elsewhere: celery_external_queues; they are consumed outside of this stack.
    """
    known = {*queues, *elsewhere}
    return [_refusal(route) for route in facts.get("routes") or [] if route["queue"] not in known]


def _refusal(route: Mapping[str, str]) -> str:
    queue = printable(route["queue"])
    return (
        f"Queue {queue}: {_reason(route)}, and no pool in celery_workers consumes it: these tasks"
        f" would wait for ever. Add {queue} to the queues of a pool; or, where workers outside of"
        " this stack consume it, to celery_external_queues."
    )


def _reason(route: Mapping[str, str]) -> str:
    name = printable(route["name"])
    if route["kind"] == TASK:
        return f"the application sends the task {name} to it"
    if route["kind"] == DEFAULT:
        return "the application sends tasks without a route to it (task_default_queue)"
    if route["kind"] == "task_queues":
        return "the application declares it (task_queues)"
    return f"the application's {printable(route['kind'])} sends {name} to it"


def connection_refusals(facts: Mapping[str, Any]) -> list[str]:
    """Return a sentence for broker and result backend that web and workers do not share."""
    if not facts:
        return []
    found = []
    for kind, variable, own in (
        ("broker", "CELERY_BROKER_URL", "BROKER_URL"),
        ("backend", "CELERY_RESULT_BACKEND", "RESULT_BACKEND"),
    ):
        library, command = (printable(facts[kind][key]) for key in ("library", "command"))
        if library != command:
            found.append(
                f"The application's {NOUNS[kind]} is {library or 'none'} in web and"
                f" {command or 'none'} in workers and beat, whose command takes {own} of the"
                f" environment before all else: set {variable} and {own} to one address in"
                " stack_app.environment_templates, or remove one of them."
            )
        elif LOCAL.match(library):
            found.append(
                f"The application's {NOUNS[kind]} is {library}, which is its own container: set"
                f" the variable that it reads, or {variable}, in stack_app.environment_templates,"
                ' such as "{{ redis.url(0) }}".'
            )
    return found


def unknown_routes(facts: Mapping[str, Any]) -> list[str]:
    """Return a warning of the routes of which nobody can tell where they lead; or nothing."""
    unknown = [printable(text) for text in facts.get("unknown") or []]
    if not unknown:
        return []
    return [
        f"Routes that depend on the arguments of a call were not compared with celery_workers:"
        f" {listed(unknown, MOST)}. See that a pool consumes every queue which they may name."
    ]


def unasked(error: str) -> list[str]:
    """Return the warning that the application could not be asked; nothing without an error."""
    if not error:
        return []
    return [
        f"The application could not be asked for its queues and settings in its image"
        f" ({printable(error, 300)}): its queues were not compared with celery_workers. Pools"
        f" without queues consume {DEFAULT_QUEUE}."
    ]


def application_replies(facts: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts as the workers of a model would answer them, for ``celery.settings``.

    Args:
        facts: of the application; empty where it could not be asked.
        model: of the stack, with its pools and the time limits that workers are started with.
    """
    if not facts:
        return {}
    celery = model["celery"]
    limits = [celery.get("soft_time_limit"), celery.get("time_limit")]
    reply = {
        "conf": facts["conf"],
        "registered": facts["registered"],
        "stats": {"broker": {"transport": facts["transport"]}, "pool": {"timeouts": limits}},
    }
    return {f"{pool['name']}@application": reply for pool in model["pools"]}


def report(
    wanted: Mapping[str, Any],
    facts: Mapping[str, Any],
    error: str,
    elsewhere: Sequence[str] = (),
) -> dict[str, list[str]]:
    """Return ``{refusals, warnings}`` over the application, a sentence each.

    Args:
        wanted: model of the inventory.
        facts: of the application; empty where it could not be asked.
        error: why it could not be asked; empty where it could, or has no image yet.
        elsewhere: celery_external_queues.
    """
    model = adopt(wanted, facts)
    warnings = [*unasked(error), *unknown_routes(facts)]
    if model["celery"]["canary_task"] != wanted["celery"]["canary_task"]:
        warnings.append(
            f"No canary is sent and no sentinel tasks are counted: {unseen_results(facts)}. Its"
            " workers are proved by their answers alone. Change that, or name a task that stores"
            " its result in stack_app.celery.canary_task."
        )
    refusals = [
        *connection_refusals(facts),
        *unconsumed_queues(facts, model["queues"], elsewhere),
    ]
    return {"refusals": refusals, "warnings": warnings}
