"""Word what is known of unacknowledged tasks: sentences for operators, rows of a status.

Pure functions of what M(celery_stranded) and its probe return.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .stale import word

COMMAND = "ansible-playbook playbooks/status.yml --tags requeue -e status_tasks=stranded"


def tasks_of(number: int) -> str:
    """Return ``1 task``, ``2 tasks``."""
    return f"{number} task{'' if number == 1 else 's'}"


def sentence(found: Mapping[str, Any]) -> str:
    """Return what was seen in one sentence; empty where nothing is unacknowledged for long.

    Args:
        found: of the probe; ``{held, stranded, ended, listed, limited, later, unreadable}``,
            ``{blind, partial, tasks}``.
    """
    unjudged = found["limited"] + found["later"]
    if not (found["stranded"] or found["ended"] or unjudged or found["unreadable"]):
        return ""
    one = found["held"] == 1
    begin = f"{tasks_of(found['held'])} {'is' if one else 'are'} unacknowledged"
    if found["stranded"] and found["blind"]:
        why = "; ".join(found["blind"][:3])
        more = len(found["blind"]) - 3
        why += f"; and {more} more reasons" if more > 0 else ""
        state = f"no worker reported {found['stranded']} of them, but that is not certain: {why}"
    elif found["stranded"]:
        names = ", ".join(f"{task['task']} {task['id']}" for task in found["tasks"][:3])
        more = found["stranded"] - min(3, len(found["tasks"]))
        names += f" and {more} more" if more > 0 else ""
        state = f"no worker knows {found['stranded']} of them ({names})"
    else:
        state = "workers reported all that could be checked"
    parts = [f"{begin}, {state}"]
    if found["ended"]:
        parts.append(f"{tasks_of(found['ended'])} ended without an acknowledgement")
    if found["listed"]:
        parts.append(f"workers still list {found['listed']} of these as running")
    if found["limited"]:
        parts.append(f"{found['limited']} with a rate limit cannot be judged")
    if found["later"]:
        parts.append(f"{found['later']} with a later ETA were not judged")
    if found["unreadable"]:
        parts.append(f"{found['unreadable']} that cannot be read as a task stay where they are")
    if found["partial"]:
        parts.append("not all could be read in time")
    return "; ".join(parts)


def deed(found: Mapping[str, Any]) -> str:
    """Return what was done in one sentence; empty where nothing was."""
    parts = []
    if found["put_back"]:
        one = found["put_back"] == 1
        parts.append(
            f"{tasks_of(found['put_back'])} that no worker knew any more"
            f" {'was' if one else 'were'} put back in {'its queue' if one else 'their queues'}"
        )
    if found["acknowledged"]:
        was = "was" if found["acknowledged"] == 1 else "were"
        parts.append(f"{tasks_of(found['acknowledged'])} had ended and {was} acknowledged")
    return "; ".join(parts)


def warning(found: Any) -> str:
    """Return what an operator is told of tasks that no worker knows; empty where there are none.

    Args:
        found: of M(celery_stranded), or whatever its failure left.
    """
    result = found if isinstance(found, Mapping) else {}
    if not result.get("text") or not (result.get("stranded") or result.get("ended")):
        return ""
    both = "put back what did not end and acknowledge the rest"
    act = both if result.get("ended") else "put them back"
    act = act if result.get("stranded") else "acknowledge them"
    then = f"When all workers answer, {act}" if result.get("blind") else act[0].upper() + act[1:]
    return f"{word(result['text'])}. {then}: {COMMAND}"


def rows(found: Any) -> list[str]:
    """Return the rows of a status about tasks that no worker knows."""
    result = found if isinstance(found, Mapping) else {}
    lines: list[str] = []
    if result.get("done"):
        lines.append(
            f"{'Put back' if result.get('put_back') else 'Ended   '}  {word(result['done'])}"
        )
        stranded, put_back = (result.get(key) for key in ("stranded", "put_back"))
        remaining = (
            stranded - put_back if isinstance(stranded, int) and isinstance(put_back, int) else 0
        )
        if remaining > 0:
            lines.append(f"          {remaining} could not be put back: run it again")
        return lines
    text = warning(result)
    if text:
        lines.append(f"Stranded  {text}")
    elif result.get("text"):
        lines.append(f"Held      {word(result['text'])}")
    return lines
