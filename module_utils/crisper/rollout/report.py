"""Summary of a rollout for the roles that come after it, from the results of its calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..celery.unfinished import outcome
from .plan import KEEP

UNTRACED = outcome({})

# Of M(compose_rollout), in their order.
CALLS = ("started", "switched", "stopped")


def rollout_report(
    calls: Mapping[str, Mapping[str, Any]],
    release: str,
    put_back: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the fact ``rollout_report``.

    Args:
        calls: results by name: ``started``, ``switched`` and ``stopped`` of M(compose_rollout),
            ``drained`` of M(celery_drain), ``unfinished`` of M(celery_unfinished), ``stranded`` of
            M(celery_stranded). A call that was not made is empty; one that an earlier rollout of
            this run made may be left here.
        release: the release of this rollout.
        put_back: of an earlier rollout of this run, as it was returned.

    Returns:
        ``after`` and ``proof`` of the call that looked at everything after its last act (empty
        where none got so far); ``left``, what came of cancelling the consumers of the old workers;
        ``drained``, what they had finished and had not in the end; ``longest`` task (seconds);
        ``unfinished`` tasks, with what became of each; ``stale`` tasks that old workers listed
        although they had ended; ``stopped`` containers; ``changes``, steps other than C(keep);
        ``put_back``, results of M(celery_stranded) after a restart of Redis; ``unjudged``, why that
        was unknown; and ``cut_off``, whether a call ended early.
    """
    started, switched, stopped = (calls.get(name) or {} for name in CALLS)
    last = _last_look((started, switched, stopped), release)
    departure = _departure(started, switched)
    stranded = calls.get("stranded") or {}
    return {
        "after": last.get("after", {}),
        "proof": last.get("proof", {}),
        "left": departure,
        **_drained(departure, calls.get("drained") or departure),
        "unfinished": _unfinished(calls),
        "stopped": stopped.get("stopped", {}),
        "changes": [step for step in started.get("steps", []) if step["action"] != KEEP],
        "put_back": _with_stranded(put_back, stranded),
        "unjudged": str(stranded.get("msg") or ""),
        "cut_off": any(call.get("failed") and "steps" not in call for call in (started, switched)),
    }


def _drained(departure: Mapping[str, Any], drained: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the old workers had finished, by the first look at them and the last."""
    both = (departure, drained)
    return {
        "drained": drained,
        # One that was seen at the first look may be over at the second.
        "longest": max(float(each.get("longest") or 0) for each in both),
        "stale": [task for each in both for task in each.get("stale") or []],
    }


def _with_stranded(
    put_back: Sequence[Mapping[str, Any]], stranded: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """Return what was put back, with the last call's result if it did something new."""
    again = not stranded.get("done") or stranded in put_back
    return [*put_back, *([] if again else [stranded])]


def _departure(*calls: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what came of cancelling the consumers, by the last call that did so."""
    departures = [call["left"] for call in calls if "left" in call]
    return departures[-1] if departures else {}


def _unfinished(calls: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the tasks that old workers had not finished, with what became of each."""
    tasks = (calls.get("drained") or {}).get("unfinished") or []
    located = (calls.get("unfinished") or {}).get("tasks") or []
    known = {task["id"]: task for task in located}
    return [known.get(task["id"]) or {**task, "outcome": UNTRACED} for task in tasks]


def _last_look(calls: Iterable[Mapping[str, Any]], release: str) -> Mapping[str, Any]:
    """Return the last call that looked at everything of this release; empty without one."""
    looks = [call for call in calls if (call.get("after") or {}).get("release") == release]
    return looks[-1] if looks else {}
