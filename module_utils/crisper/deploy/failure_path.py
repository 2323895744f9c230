"""Decide what a failed run may undo, and word it: pure functions of the deploy state.

`state` is what M(deploy_state) returned. It is empty where the server was not asked, and has
``failed`` or ``unreachable`` where it was asked in vain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..output import first_line

UNTOUCHED, RESTORED, UNKNOWN = "untouched", "restored", "unknown"
START_ENGINE = (
    "Start the engine (systemctl status docker), then run this again: it continues from here."
)
MEND = "Correct that, then run this again: it continues from here."


def may_act(state: Mapping[str, Any]) -> bool:
    """Return whether this run has the lock, and the engine would do what it is told."""
    return bool(state.get("locked")) and not state.get("error")


def undo_wanted(state: Mapping[str, Any], passed: bool) -> bool:
    """Return whether a deploy that failed is to be undone.

    Args:
        state: what was seen.
        passed: whether every host got through role begin; before that none has changed anything.
    """
    return passed and may_act(state) and bool(state.get("staged"))


def not_asked(state: Mapping[str, Any]) -> str:
    """Return why the server did not tell its state; empty when it did."""
    if not state:
        return "not checked; this run had not begun to change anything"
    if state.get("unreachable") or "locked" not in state:
        return f"could not be checked: {first_line(str(state.get('msg') or 'no answer'))}"
    return ""


def lock_lost(state: Mapping[str, Any]) -> str:
    """Return who has the lock that this run has not."""
    lock = state.get("lock") or {}
    if not lock.get("run"):
        return "No run has the lock of the stack, and this run has undone nothing."
    return (
        f"This run has no lock: {lock.get('purpose', 'deploy')} {lock['run']} of"
        f" {lock.get('who', 'somebody')} has it (step {lock.get('step', 'unknown')}), and this run"
        " has undone nothing."
    )


def begun(state: Mapping[str, Any]) -> str:
    """Return which steps this run has begun, as a sentence."""
    steps = list(dict.fromkeys(state.get("steps") or []))
    if not steps:
        return "This run has changed nothing."
    return f"This run has begun: {', '.join(steps)}. Nothing was undone."


def deploy_outcome(
    state: Mapping[str, Any], undo: bool, trouble: str, after: Mapping[str, Any]
) -> str:
    """Return what serves after a deploy that failed.

    Args:
        state: what was seen before anything was undone.
        undo: whether it was undone.
        trouble: what went wrong with that; empty when nothing did.
        after: what was seen after that, where something went wrong.
    """
    if unasked := not_asked(state):
        return unasked
    serves = str(state["serves"]).rstrip(".")
    if not state["locked"]:
        return f"{serves}. {lock_lost(state)}"
    if state["error"]:
        remedy = START_ENGINE if "the engine" in state["error"] else MEND
        return f"{serves}. Nothing was undone. {remedy}"
    if not undo:
        return f"{serves}. {begun(state)}"
    if trouble:
        was = (
            f"release {state['current']} was to be put back"
            if state["current"]
            else "nothing; the containers of this first deploy were to be removed"
        )
        state_now = not_asked(after) or str(after["serves"])
        return f"{was}, and that failed too: {trouble}\nAfter that: {state_now}"
    if not state["current"]:
        return "nothing; the containers of this first deploy were removed, volumes and images stay"
    return f"release {state['current']}, put back and verified"


def database_words(intent: Mapping[str, Any], database: str) -> str:
    """Return what state the database is in after a rollback that was to restore it.

    Args:
        intent: ``{backup, target, migrated}``: the file, the release that was to be put back, and
            whether the migrations of the release that served were applied again since.
        database: what was seen of it.
    """
    if database == UNTOUCHED:
        return "as before; the restore had changed nothing."
    if database == RESTORED:
        text = f"restored from {intent['backup']}; what was written since then is lost"
        if intent.get("migrated"):
            return f"{text}. The migrations of the release that served are applied again."
        return f"{text}. The migrations of the release that served are missing in it."
    return (
        "unknown: the database did not answer. It is as before, or restored from"
        f" {intent['backup']}."
    )


def go_on(intent: Mapping[str, Any], database: str, current: str) -> str:
    """Return how to go on where the maintenance page stays."""
    if database == UNTOUCHED or intent.get("migrated"):
        return (
            "The maintenance page stays, because the release was not verified. Correct what failed,"
            " deploy (ansible-playbook deploy.yml), and take the page away: ansible-playbook"
            " deploy.yml --tags maintenance_off"
        )
    return (
        "The maintenance page stays, because an application without its database schema does harm."
        " Correct what failed, then choose.\n"
        f"  Back to {intent['target']}: ansible-playbook deploy.yml --tags rollback"
        f" -e release={intent['target']} -e restore_database=true\n"
        f"  On with {current}, whose migrations are applied again: ansible-playbook deploy.yml,"
        " then --tags maintenance_off"
    )


def rollback_outcome(
    state: Mapping[str, Any], recovered: bool, trouble: str, after: Mapping[str, Any]
) -> str:
    """Return what serves after a rollback that failed.

    Args:
        state: what was seen before anything was put in order.
        recovered: whether the release that served was put in order.
        trouble: what went wrong with that; empty when nothing did.
        after: what was seen after that, where something went wrong.
    """
    if recovered and not trouble:
        return f"release {state['current']}, put back and verified"
    return deploy_outcome(state, recovered, trouble, after)
