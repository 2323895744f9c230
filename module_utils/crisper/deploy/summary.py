"""Sentences of a deploy's summary: changes without a new release, and checks that failed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ..rollout.plan import CREATE, RECREATE, REMOVE, ROLL
from ..text import quote

Result = Mapping[str, Any]

ACTIONS = {
    CREATE: "created",
    RECREATE: "recreated",
    REMOVE: "removed",
    ROLL: "replaced",
}
UNCHANGED = "no container, certificate or firewall rule: all were as the release wants them"
# Checks that only give advice: the key that their module always returns, and what a failure means.
ADVISERS = {
    "users": ("shared", "The users of containers could not be compared with accounts of the host"),
    "refusals": ("refused", "The commands that Redis refused could not be read"),
}


def changes_made(
    rollout: Result, certificate: Result, firewall: Result, database: Result
) -> list[str]:
    """Return what a deploy changed on the server, a sentence each; never empty.

    Args:
        rollout: fact ``rollout_report``.
        certificate: fact ``tls_report``.
        firewall: fact ``firewall_report``.
        database: fact ``database_report``.
    """
    return list(_changes(rollout, certificate, firewall, database)) or [UNCHANGED]


def _changes(
    rollout: Result, certificate: Result, firewall: Result, database: Result
) -> Iterator[str]:
    if upgraded := database.get("upgraded"):
        new = upgraded.get("from") == upgraded.get("to")
        text = "moved to a new cluster" if new else f"upgraded to version {upgraded.get('to')}"
        yield f"data of PostgreSQL: {text}"
    if database.get("started"):
        yield "data services: started or recreated"
    for step in rollout.get("changes") or []:
        action = ACTIONS.get(step["action"], step["action"])
        yield f"containers of {step['service']}: {action} ({step['reason']})"
    if certificate.get("changed"):
        yield "certificate of the entry point: installed"
    if firewall.get("changed"):
        yield "firewall rules of the stack: installed"


def page_words(visible_before: bool, visible: bool, upgrade: bool) -> str:
    """Return what to say of the maintenance page at the end of a run; empty for nothing.

    Args:
        visible_before: whether nginx showed the page when the run began.
        visible: whether nginx shows the page now.
        upgrade: whether an upgrade of the data showed the page in this run.
    """
    if visible and upgrade:
        return "shown for the upgrade of the data; playbooks/upgrade.yml takes it away now"
    if visible:
        return (
            "visitors see the maintenance page; to take it away:"
            " ansible-playbook deploy.yml --tags maintenance_off"
        )
    return "this run took the maintenance page away" if visible_before else ""


def run_left(run: Mapping[str, Any]) -> str:
    """Return how an earlier run ended that left something to do.

    Args:
        run: ``unfinished`` of the fact ``deploy``: ``{run, step, purpose, open}``.
    """
    purpose, step = run.get("purpose") or "deploy", run["step"]
    if not run.get("open"):
        return f"was cut off in step {step}"
    # A restore undoes nothing: what it has not overwritten is as before.
    undone = "" if purpose == "restore" else " and could not be undone"
    return f"failed{undone}, after step {step}"


def picked_up(run: Mapping[str, Any], resumed: bool, changed: bool) -> str:
    """Return what this run made of an earlier one.

    Args:
        run: see `run_left`.
        resumed: whether this run went on with the release of that one.
        changed: whether another release serves now.
    """
    purpose = run.get("purpose") or "deploy"
    outcome = "resumed" if resumed else "replaced" if changed else "reverted"
    if purpose == "restore":
        outcome = "another release serves" if changed else "its release serves"
    if purpose == "deploy" and not run.get("open"):
        return f"{run['run']}, cut off in step {run['step']}: {outcome}"
    return f"the {purpose} {run['run']}, which {run_left(run)}: {outcome}"


def answer_words(answers: Sequence[Result]) -> str:
    """Return which paths of the site answered with which status, as verify saw them; or nothing.

    Args:
        answers: of M(http_probe).
    """
    paths: dict[int, list[str]] = {}
    for answer in answers:
        if answer.get("ok"):
            paths.setdefault(answer["status"], []).append(urlsplit(answer["url"]).path or "/")
    parts = [f"{status} at {', '.join(paths[status])}" for status in sorted(paths)]
    return f"answered {'; '.join(parts)}" if parts else ""


def unchecked_warnings(results: Mapping[str, Result]) -> list[str]:
    """Return a warning for each check that gives advice only and did not end as it should.

    Args:
        results: by name of `ADVISERS`, what the module returned.
    """
    found = []
    for name, (key, what) in ADVISERS.items():
        result = results[name]
        why = result.get("problem") or ""
        if key not in result:
            output = result.get("module_stderr") or result.get("exception") or ""
            lines = str(result.get("msg") or output).strip().splitlines()
            why = lines[-1] if lines else f"the module returned no {key!r}"
        if why:
            found.append(f"{what}: {quote(why, 300)}. Nothing else depends on this check.")
    return found
