"""Tell why a container is not healthy: its state, its health check's words, its last log lines.

Pure functions of what ``docker container inspect`` and ``docker logs`` print;
``docker.client.DockerClient.diagnose`` asks the engine.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..output import KILLED, PROGRESS, last_lines, quote_last_lines
from ..text import printable, printable_lines, quoted_lines

LOG_LINES = 20
STARTING = "starting"  # state of a report: it runs, and no health check has succeeded yet
HEALTH_CHECKS = 3  # how many of the last health checks are quoted


@dataclass(frozen=True)
class Report:
    """Report of one container that does not serve."""

    name: str
    service: str
    state: str
    health: str  # the last words of the health check; empty when it has said nothing
    logs: str
    remedies: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for a module's result."""
        return {**asdict(self), "remedies": list(self.remedies)}


@dataclass(frozen=True)
class Cause:
    """A known cause: the words that give it away, and what to do."""

    pattern: re.Pattern[str]
    remedy: str


CAUSES = (
    Cause(
        re.compile(r"Bad file format reading the append only file"),
        "The append-only file of Redis is damaged: check and repair it with"
        " `redis-check-aof --fix` as docs/BACKUP.md says (A damaged file of Redis),"
        " then deploy again.",
    ),
    Cause(
        re.compile(r"database files are incompatible with server"),
        "The data is of another major version of PostgreSQL than image_refs.postgres: set"
        " image_refs.postgres back to the version of the data, or upgrade the data:"
        " ansible-playbook playbooks/upgrade.yml (docs/UPGRADE.md).",
    ),
    Cause(
        re.compile(r"No space left on device|could not write .*: Disk quota exceeded"),
        "The disk of the server is full: free space (`docker system df` shows what Docker holds,"
        " `df -h` the rest), then deploy again.",
    ),
    Cause(
        re.compile(
            r"exec \S+ failed: No such file or directory"
            r"|exec: \S+: (?:executable file not found|no such file or directory)"
        ),
        "The program of the container's command is not in its image: correct the command"
        " (of the service backend: stack_app.web.command), or build the image with it.",
    ),
    # As probes.health words them.
    Cause(
        re.compile(r"GET \S+ with Host \S+ answered 400\b"),
        "The application answers its health check with 400, most often because it does not accept"
        " the Host named there: add that host to what it accepts (Django: ALLOWED_HOSTS), or give"
        " a name that it accepts in stack_server_names or in stack_app.web.health_host.",
    ),
    Cause(
        re.compile(r"GET \S+ with Host \S+ answered 30[12378]\b.*Location https://"),
        "The application redirects its health check to HTTPS: set stack_public_url to the https URL"
        " that browsers use, and let the application believe X-Forwarded-Proto (Django:"
        " SECURE_PROXY_SSL_HEADER), or leave the redirect to what ends TLS.",
    ),
    Cause(
        re.compile(r"GET \S+ with Host \S+ answered 30[12378]\b(?!.*Location https://)"),
        "The application redirects its health check, and redirects are not followed: set"
        " stack_app.web.health_path to a path that answers itself (the Location is named there), or"
        " list the status in stack_app.web.health_status.",
    ),
)

# As probes.health and, in the frontend's container, curl word it.
UNHEARD = {
    "backend": re.compile(r"Connection refused, nothing listens on port (\d+)"),
    "frontend": re.compile(r"Failed to connect to 127\.0\.0\.1 port (\d+)"),
}


def port_remedies(service: str, words: str) -> list[str]:
    """Return what to do when the health check found that nothing listens on its port.

    Args:
        service: name of the container's service in the compose file.
        words: what the health check said.
    """
    pattern = UNHEARD.get(service)
    found = pattern.search(words) if pattern else None
    if not found:
        return []
    if service == "frontend":
        return [
            f"Nothing listens on stack_app.frontend.port ({found[1]}) in the container of the"
            " frontend: compare with the port that its image listens on, and bind to 0.0.0.0."
        ]
    return [
        f"Nothing listens on stack_app.web.port ({found[1]}): compare with the port in"
        " stack_app.web.command, and bind to 0.0.0.0."
    ]


def health_words(state: Mapping[str, Any]) -> str:
    """Return what the last health checks said, each with its exit code, without repetitions.

    Args:
        state: ``State`` of ``docker container inspect``.
    """
    texts: list[str] = []
    for entry in (state.get("Health") or {}).get("Log") or []:
        code, output = entry.get("ExitCode"), last_lines(str(entry.get("Output") or ""), 5)
        if code != 0:
            # Further lines are marked: none of them can pass for one of ours.
            marked = output.replace("\n", "\n| ")
            line = f"exit code {code}" + (f": {marked}" if marked else "")
            texts = [*(text for text in texts if text != line), line]
    return "\n".join(texts[-HEALTH_CHECKS:])


def memory_variable(service: str, pool: str = "") -> str:
    """Return the variable that sets the memory limit of a service."""
    if pool:
        return f"memory of the pool {pool} in celery_workers"
    return "stack_app.web.memory" if service == "backend" else f"stack_limits.{service}.memory"


def find_remedies(text: str) -> list[str]:
    """Return what to do about every known cause that `text` shows."""
    return [cause.remedy for cause in CAUSES if cause.pattern.search(text)]


def restart_words(restarts: int, code: int | None) -> str:
    """Return how often a container was restarted, and the exit code before, if it is known."""
    count = f"restarted {restarts} time{'' if restarts == 1 else 's'}, "
    return count + (f"last exit code {code}, " if code is not None else "")


def report(record: Mapping[str, Any], logs: str, last_code: int | None = None) -> Report:
    """Return the report of a container.

    Args:
        record: one element of ``docker container inspect``.
        logs: its last log lines.
        last_code: exit code before its last restart; the engine forgets that in the record.
    """
    labels = (record.get("Config") or {}).get("Labels") or {}
    state = record.get("State") or {}
    service = printable(labels.get("com.docker.compose.service", ""))
    status = printable(state.get("Status", ""))
    health = printable((state.get("Health") or {}).get("Status", "none"))
    code = int(state.get("ExitCode") or 0)
    restarts = int(record.get("RestartCount") or 0)
    words, logs = health_words(state), last_lines(logs, LOG_LINES)
    remedies = find_remedies(f"{words}\n{logs}")
    if status == "running" and not restarts:
        # One that crashes listens on nothing either: its log has the cause.
        remedies += port_remedies(service, words)
    condition = f"{status}, exit code {code}" if code else status
    if status == "running":
        condition = (restart_words(restarts, last_code) if restarts else "") + health
    variable = memory_variable(service, printable(labels.get("crisper.pool", "")))
    if state.get("OOMKilled"):
        condition += ", out of memory"
        remedies.append(f"{service} was killed by its memory limit: raise {variable}.")
    elif status != "running" and code == KILLED:
        condition += ", killed"
        remedies.append(
            f"{service} was killed by hand or by the memory of the host; if it needs more memory,"
            f" raise {variable}."
        )
    name = printable(record.get("Name", "")).lstrip("/")
    return Report(name, service, condition, words, logs, tuple(remedies))


def describe(reports: Iterable[Report]) -> str:
    """Return the reports as the end of a message: remedies first, then the last words of each.

    Beside a container that has failed, one that only is not ready yet has just its name.
    """
    reports = list(reports)
    remedies = dict.fromkeys(remedy for each in reports for remedy in each.remedies)
    parts = list(remedies)
    failed = [each for each in reports if each.state != STARTING] or reports
    for each in failed:
        parts.append(f"--- {each.name} ({each.state}):")
        if each.health:
            parts.append(f"Last health checks: {printable_lines(each.health)}")
        # Marked, so that no line of a log passes for one of ours.
        logs = quoted_lines(each.logs)
        parts.append(f"Last lines of its log:\n{logs}" if each.logs else "Its log is empty.")
    if waiting := [each.name for each in reports if each not in failed]:
        parts.append(f"Not ready yet when these failed, without an error: {', '.join(waiting)}.")
    return "".join(f"\n{part}" for part in parts)


def compose_error(text: str) -> str:
    """Return what Compose said went wrong, without the progress that it prints meanwhile."""
    lines = [line for line in text.splitlines() if line.strip() and not PROGRESS.match(line)]
    return quote_last_lines("\n".join(lines), 5) or quote_last_lines(text, 2)
