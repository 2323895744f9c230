"""Why a container is not healthy, from what the engine and Compose really print."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import DockerClient
from ansible_collections.crisper.stack.plugins.module_utils.docker.diagnosis import (
    compose_error,
    describe,
    find_remedies,
    health_words,
    report,
)
from ansible_collections.crisper.stack.plugins.module_utils.probes.health import ask, judge

AOF = (
    "Bad file format reading the append only file appendonly.aof.1.incr.aof: make a backup of your"
    " AOF file, then use ./redis-check-aof --fix <filename.manifest>"
)
MAJOR = (
    "FATAL:  database files are incompatible with server\n"
    "DETAIL:  The data directory was initialized by PostgreSQL version 15, which is not compatible"
    " with this version 17.6."
)


def record(service: str, pool: str = "", **state: Any) -> dict[str, Any]:
    """A container as ``docker container inspect`` has it."""
    labels = {"com.docker.compose.service": service, "crisper.pool": pool}
    return {"Name": f"/demo-{service}-1", "Config": {"Labels": labels}, "State": state}


def checks(*entries: tuple[int, str]) -> dict[str, Any]:
    """The health of a container after these checks."""
    log = [{"ExitCode": code, "Output": output} for code, output in entries]
    return {"Status": "unhealthy", "Log": log}


def test_the_health_check_speaks_for_itself():
    health = checks((0, "ok"), (1, "no answer\n"), (1, "no answer\n"), (7, ""))
    assert health_words({"Health": health}) == "exit code 1: no answer\nexit code 7"
    told = describe([report(record("backend", Status="running", Health=health), "GET / 500\n")])
    assert told.splitlines() == [
        "",
        "--- demo-backend-1 (unhealthy):",
        "Last health checks: exit code 1: no answer",
        "exit code 7",
        "Last lines of its log:",
        "| GET / 500",
    ]


def test_a_container_without_a_health_check_has_no_words_of_one():
    assert health_words({}) == ""
    assert health_words({"Health": {"Log": None}}) == ""
    assert "Its log is empty." in describe([report(record("x", Status="exited"), "")])


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        (AOF, "redis-check-aof --fix"),
        (MAJOR, "playbooks/upgrade.yml"),
        ("write error: No space left on device", "docker system df"),
    ],
)
def test_a_known_cause_comes_with_its_remedy(said: str, remedy: str):
    assert remedy in "".join(find_remedies(f"some\n{said}\nmore"))
    told = describe([report(record("redis", Status="restarting", ExitCode=1), said)] * 2)
    assert told.count(find_remedies(said)[0]) == 1, "once, however many containers say so"
    assert "(restarting, exit code 1)" in told


@pytest.mark.parametrize(
    ("service", "pool", "variable"),
    [
        ("postgres", "", "stack_limits.postgres.memory"),
        ("backend", "", "stack_app.web.memory"),
        ("celery-worker-slow", "slow", "memory of the pool slow in celery_workers"),
    ],
)
def test_out_of_memory_names_the_limit(service: str, pool: str, variable: str):
    killed = record(service, pool, Status="restarting", ExitCode=137, OOMKilled=True)
    (remedy,) = report(killed, "").remedies
    assert remedy == f"{service} was killed by its memory limit: raise {variable}."
    (remedy,) = report(record(service, pool, Status="exited", ExitCode=137), "").remedies
    assert remedy.endswith(f"raise {variable}.")


CURL = "curl: (7) Failed to connect to 127.0.0.1 port 3000 after 0 ms: Couldn't connect to server"


@pytest.mark.parametrize(
    ("service", "said", "variable"),
    [
        ("backend", judge(*ask(1, b"", ["200"]), ["200"]), "stack_app.web.port (1)"),
        ("frontend", CURL, "stack_app.frontend.port (3000)"),
    ],
)
def test_a_port_that_nothing_listens_on_is_named(service: str, said: str, variable: str):
    """Regression: the message was `[Errno 111] Connection refused`, without a port or a remedy."""
    up = record(service, Status="running", Health=checks((1, said)))
    (remedy,) = report(up, "").remedies
    assert remedy.startswith(f"Nothing listens on {variable}")
    assert "bind to 0.0.0.0" in remedy
    assert ("stack_app.web.command" in remedy) is (service == "backend")
    # One that crashes has its cause in its log, and nginx asks itself with curl.
    assert report(up | {"RestartCount": 2}, "").remedies == ()
    assert report(record("nginx", Status="running", Health=checks((1, said))), "").remedies == ()


@pytest.mark.parametrize(
    ("restarts", "code", "state"),
    [
        (0, None, "starting"),
        (1, None, "restarted 1 time, starting"),
        (3, 1, "restarted 3 times, last exit code 1, starting"),
    ],
)
def test_a_container_that_was_restarted_is_not_just_starting(restarts, code, state):
    """Regression: one that crashed was `starting` when its policy had just started it again."""
    again = record("backend", Status="running", ExitCode=0, Health={"Status": "starting"})
    assert report(again | {"RestartCount": restarts}, "", code).state == state


def test_the_progress_of_compose_is_no_error():
    said = (
        " Container demo-redis-1  Creating\n Container demo-redis-1  Waiting\n"
        " Container demo-redis-1  Error\n Container demo-postgres-1  Started 0.3s\n"
        "container demo-redis-1 is unhealthy\n"
    )
    assert compose_error(said) == "“container demo-redis-1 is unhealthy”"
    assert compose_error(" Container demo-redis-1  Error\n") == "“Container demo-redis-1 Error”"
    assert compose_error("") == ""


def test_what_only_is_not_ready_yet_has_no_words_beside_what_failed() -> None:
    """Regression: three innocent workers stood beside the container whose command was wrong."""
    starting = checks((1, "no heartbeat yet")) | {"Status": "starting"}
    waiting = report(record("worker", Status="running", Health=starting), "")
    words = "[FATAL tini (7)] exec uvicornn failed: No such file or directory"
    failed = report(record("backend", Status="restarting", ExitCode=127), words)

    told = describe([waiting, failed])

    assert told.startswith("\nThe program of the container's command is not in its image")
    assert "stack_app.web.command" in told
    assert "no heartbeat yet" not in told
    assert told.endswith("\nNot ready yet when these failed, without an error: demo-worker-1.")
    assert "no heartbeat yet" in describe([waiting]), "alone, its words are all there is"


def test_a_container_without_a_connection_names_who_holds_them(tmp_path: Path) -> None:
    """Regression: the remedy asked PostgreSQL, which had no connection for the question either."""
    said = "psycopg.OperationalError: FATAL:  sorry, too many clients already"
    web = record("backend", Status="exited", ExitCode=1) | {"Id": "web"}
    networks = {"n": {"IPAddress": "9.0.0.2"}}
    worker = {"Name": "/demo-worker-1", "NetworkSettings": {"Networks": networks}}
    sockets = "1: 0100000A:1538 02000009:9C40 01 0:0 0:0 0 999 0 5\n" * 97
    answers = {
        ("container", "inspect", "web"): json.dumps([web]),
        ("container", "inspect", "p", "w"): json.dumps([worker]),
        ("ps", "--quiet", "--no-trunc"): "p w",
    }

    def run_command(words: list[str], **_: object) -> tuple[int, str, str]:
        asked = tuple(words[1:])
        if asked[0] == "exec":
            return 0, sockets, ""
        if "label=com.docker.compose.service=postgres" in asked:
            return 0, "p\n", ""
        return 0, answers[asked], ""

    cli = tmp_path / "docker"
    cli.write_text(f"#!/bin/sh\necho '{said}'\n")
    cli.chmod(0o755)
    module = SimpleNamespace(params={"docker_cli": str(cli)}, run_command=run_command)

    (told,) = DockerClient(module, "demo").diagnose(["web"])

    assert told.remedies[0].startswith("PostgreSQL has no connection left. Who holds")
    assert "97 of container demo-worker-1 (9.0.0.2)" in told.remedies[0]
    assert "docker stop demo-worker-1;" in told.remedies[0]
