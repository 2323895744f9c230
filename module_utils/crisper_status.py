"""What a stack's status is made of: pure functions of the engine's and the journal's records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.module_utils.crisper_journal import BEGIN, END


def containers_of(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Containers of ``docker inspect``'s JSON, by service and name; those of ``compose run`` too.

    Each is ``{name, service, release, state, health, since, restarts, exit_code}``; `since` is the
    time of its start (RFC 3339, as the engine tells it), or of its end.
    """
    found = []
    for record in records:
        labels = (record.get("Config") or {}).get("Labels") or {}
        state = record.get("State") or {}
        runs = bool(state.get("Running"))
        found.append(
            {
                "name": str(record.get("Name", "")).lstrip("/"),
                "service": str(labels.get("com.docker.compose.service", "")),
                "release": str(labels.get("crisper.release", "")),
                "state": str(state.get("Status", "")),
                "health": str((state.get("Health") or {}).get("Status", "none")),
                "since": str(state.get("StartedAt" if runs else "FinishedAt", ""))[:19],
                "restarts": int(record.get("RestartCount") or 0),
                "exit_code": None if runs else int(state.get("ExitCode") or 0),
            }
        )
    return sorted(found, key=lambda container: (container["service"], container["name"]))


def last_run(entries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The newest run of the journal that ended: ``{run, purpose, who, at, result}``; or nothing."""
    entries = list(entries)
    ends = [entry for entry in entries if entry["step"] == END]
    if not ends:
        return {}
    end = ends[-1]
    begins = [e for e in entries if e["run"] == end["run"] and e["step"] == BEGIN]
    begin = begins[-1] if begins else {}
    return {
        "run": str(end["run"]),
        "purpose": str(begin.get("purpose", "")),
        "who": str(begin.get("who", "")),
        "at": str(end.get("at", "")),
        "result": str(end.get("result", "")),
    }
