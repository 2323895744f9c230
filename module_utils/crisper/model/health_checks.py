"""Health checks that an operator gives a service in place of the stack's own (no I/O)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict

from ..proxy.public_url import OK, expected_status
from .defaults import unknown_keys
from .validators import HEALTH_PATH, PORT, SECONDS, as_mapping, command_problem, quoted, whole

NONE, HTTP, TCP, COMMAND = "none", "http", "tcp", "command"
TIMES = ("interval", "timeout", "start_period")
WEB = ("backend", "frontend")
BEAT = "celery-beat"


class HealthCheck(TypedDict):
    """A health check as the compose file has it.

    ``kind``: what is asked, empty for the stack's own check. ``words``: the command, or arguments
    of the probe. Times in seconds, and ``retries``: None for those of the stack.
    """

    kind: str
    words: list[str]
    interval: int | None
    timeout: int | None
    start_period: int | None
    retries: int | None


def health_check(option: Any) -> HealthCheck:
    """Return the check of a service from its checked option; None stands for one left out."""
    check: Mapping[str, Any] = {NONE: True} if option == NONE else as_mapping(option)
    kind = next((kind for kind in (NONE, HTTP, TCP, COMMAND) if check.get(kind)), "")
    words: list[str] = []
    if kind == HTTP:
        http = check[HTTP]
        port, statuses = int(http["port"]), expected_status(http.get("status", OK))
        host, wanted = f"127.0.0.1:{port}", ",".join(map(str, statuses))
        words = [str(port), str(http["path"]), host, "http", wanted]
    elif kind == TCP:
        words = [str(int(check[TCP]))]
    elif kind == COMMAND:
        words = [str(word) for word in check[COMMAND]]
    return {
        "kind": kind,
        "words": words,
        "interval": whole(check.get("interval")),
        "timeout": whole(check.get("timeout")),
        "start_period": whole(check.get("start_period")),
        "retries": whole(check.get("retries")),
    }


def judge_check(service: str, where: str, option: Any) -> Iterator[str]:
    """Yield what is wrong with the option healthcheck of a service, with the remedy."""
    if option == NONE:
        if service == BEAT:
            yield (
                f"{where} is none: nobody would see that beat sends nothing. Give http, tcp or"
                " command, or leave it out for the guard's heartbeat."
            )
        return
    if not isinstance(option, Mapping) or not option:
        yield f"{where} is {quoted(option)}: give none, or a mapping such as {{tcp: 8000}}."
        return
    yield from unknown_keys(where, option, (HTTP, TCP, COMMAND, *TIMES, "retries"))
    kinds = [kind for kind in (HTTP, TCP, COMMAND) if option.get(kind) is not None]
    if len(kinds) > 1:
        yield f"{where} has {' and '.join(kinds)}: give one of them."
    if HTTP in kinds:
        yield from _http_problems(service, f"{where}.http", option[HTTP])
    if TCP in kinds and not PORT.matches(option[TCP]):
        yield f"{where}.tcp is {quoted(option[TCP])}: {PORT.remedy}"
    if COMMAND in kinds and (problem := command_problem(f"{where}.command", option[COMMAND])):
        yield problem
    for key in (*TIMES, "retries"):
        if option.get(key) is not None and not SECONDS.matches(option[key]):
            remedy = SECONDS.remedy if key in TIMES else "give a whole number, 1 or more."
            yield f"{where}.{key} is {quoted(option[key])}: {remedy}"


def _http_problems(service: str, where: str, http: Any) -> Iterator[str]:
    if service in WEB:
        section = "web" if service == "backend" else service
        yield (
            f"{where} is not for web servers, which nginx asks too: set"
            f" stack_app.{section}.health_path."
        )
        return
    if not isinstance(http, Mapping):
        yield f"{where} is {quoted(http)}: give a mapping such as {{port: 9000, path: /healthz}}."
        return
    yield from unknown_keys(where, http, ("port", "path", "status"))
    for key, form in (("port", PORT), ("path", HEALTH_PATH)):
        if not form.matches(http.get(key)):
            value = "missing" if http.get(key) is None else quoted(http[key])
            yield f"{where}.{key} is {value}: {form.remedy}"
    if http.get("status") is not None and not expected_status(http["status"]):
        yield f"{where}.status is {quoted(http['status'])}: give a status from 100 to 599."
