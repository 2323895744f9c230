"""A client that never logs in, and holds every connection of a data service of this machine."""

from __future__ import annotations

import io
import json
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import database_roles
import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends import slots
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.postgres import (
    dump_postgres,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import NoConnectionError
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker
from mariadb_server import NAME, running_mariadb
from postgres_server import Server, running_postgres

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from celery_lab import free_port  # noqa: E402

ADDRESS = "127.0.0.2"  # of the container that holds them
RECORD = {"Name": "/shop-worker-1", "NetworkSettings": {"Networks": {"n": {"IPAddress": ADDRESS}}}}
# As that of conftest, which knows two containers, and stops the attacker's.
DOCKER = f"""#!{sys.executable}
import os, signal, sys
words, folder = sys.argv[1:], os.path.dirname(os.path.abspath(sys.argv[0]))
if words[0] == "ps":
    print("x")
elif words[0] == "container":
    print({json.dumps([RECORD])!r})
elif words == ["stop", "shop-worker-1"]:
    os.kill(int(open(f"{{folder}}/attacker").read()), signal.SIGKILL)
elif words[0] == "exec":
    rest = words[2:]
    while rest[0] == "--env":
        name, _, value = rest[1].partition("=")
        os.environ[name] = value
        rest = rest[2:]
    os.execvp(rest[1], rest[1:])
else:
    sys.exit(f"no engine for {{words}}")
"""
ATTACKER = f"""
import socket, sys, threading, time
port, payload, again = int(sys.argv[1]), bytes.fromhex(sys.argv[2]), sys.argv[3] == "again"
def hold():
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 5, ({ADDRESS!r}, 0)) as held:
                held.settimeout(None)
                held.sendall(payload)
                while held.recv(1000):
                    pass
        except OSError:
            pass
        if not again:
            return
        time.sleep(0.02)
for _ in range(30):
    threading.Thread(target=hold, daemon=True).start()
time.sleep(300)
"""
_WORDS = b"user\0shop\0database\0shop\0\0"
STARTUP = struct.pack("!ii", len(_WORDS) + 8, 196608) + _WORDS


@pytest.fixture
def client(tmp_path: Path) -> Docker:
    """A Docker client that knows the attacker's container, with the secrets of a release."""
    path = tmp_path / "docker"
    path.write_text(DOCKER)
    path.chmod(0o755)
    (tmp_path / "secrets").mkdir()
    for name, text in (
        ("postgres_superuser_password", "superuser's"),
        ("postgres_password", "own"),
        ("mariadb_password", "own"),
    ):
        (tmp_path / "secrets" / name).write_text(text)
    return Docker(str(path), 60)


@contextmanager
def attack(
    client: Docker, port: int, payload: bytes, refused: Callable[[], object], again: bool = True
) -> Iterator[None]:
    """Hold every connection of a service until the container is stopped, or the test ends.

    Args:
        refused: asks the service, and raises when it has no connection left.
    """
    words = [sys.executable, "-c", ATTACKER, str(port), payload.hex(), "again" if again else "once"]
    running = subprocess.Popen(words)
    Path(client.cli).with_name("attacker").write_text(str(running.pid))
    try:
        for _ in range(200):
            try:
                refused()
            except (RuntimeError, subprocess.CalledProcessError):
                break
            time.sleep(0.05)
        else:
            raise AssertionError("the service still takes connections")
        yield
    finally:
        running.kill()
        running.wait()


def listen_at(monkeypatch: pytest.MonkeyPatch, name: str, port: int) -> None:
    """Let a service be known by the port that it has here."""
    service = slots.SERVICES[name]
    other = slots.Service(service.name, port, service.socket, service.words, service.refused)
    monkeypatch.setitem(slots.SERVICES, name, other)


def order_accounts(client: Docker, application: str, mariadb: bool) -> dict[str, Any]:
    """Run the module as the deploy of a release does."""
    options = {"project": "shop", "application": application, "mariadb": mariadb, "wait": 1}
    options |= {"release": str(Path(client.cli).parent), "docker_cli": client.cli}
    defaults = {name: spec.get("default") for name, spec in database_roles.ARGUMENT_SPEC.items()}
    return database_roles.act({**defaults, **options}, False)


def take_remedy(client: Docker, message: str) -> None:
    """Run the command that a message names."""
    (command,) = re.findall("on the server: (docker stop [^;]*);", message)
    path = f"{Path(client.cli).parent}:/usr/bin:/bin"
    subprocess.run(["sh", "-c", command], check=True, env={"PATH": path})


@contextmanager
def small_postgres(**settings: str) -> Iterator[Server]:
    """Run a PostgreSQL of ten connections, three of them for the superuser alone."""
    few = {"max_connections": "10", "superuser_reserved_connections": "3"}
    with running_postgres("postgres", "shop", "x", **few, **settings) as server:
        with (server.folder / "data/pg_hba.conf").open("a") as rules:
            rules.write("host all all 127.0.0.0/8 scram-sha-256\n")
        server.sql("SELECT pg_reload_conf()", "postgres")
        yield server


def test_clients_that_do_not_log_in_lose_their_connections(
    client: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: they kept them for 60 s, those of the superuser too; each deploy failed."""
    template = (ROOT / "templates/docker-compose.prod.yml.j2").read_text()
    assert "-c, authentication_timeout=10s]" in template
    with small_postgres(authentication_timeout="4s") as server:
        listen_at(monkeypatch, "postgres", server.port)
        with attack(client, server.port, STARTUP, lambda: server.sql("", "postgres"), again=False):
            result = order_accounts(client, "shop", mariadb=False)
        assert (result["postponed"], result["changed"]) == ("", True)
        assert server.log_in("shop", "own") == "shop"


def test_a_full_postgresql_postpones_its_roles(
    client: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: no deploy got to the container that held the connections."""
    monkeypatch.setattr(database_roles, "SLOT_SECONDS", 1)
    with small_postgres() as server:
        listen_at(monkeypatch, "postgres", server.port)
        with attack(client, server.port, STARTUP, lambda: server.sql("", "postgres")):
            # The health check of the container: a full server is no dead one.
            ready = ["pg_isready", "-h", "127.0.0.1", "-p", str(server.port)]
            assert subprocess.run(ready, check=False, stdout=subprocess.DEVNULL).returncode == 0
            result = order_accounts(client, "shop", mariadb=False)
            assert (result["changed"], result["done"]) == (False, [])
            told = result["postponed"]
            assert told.startswith("The accounts of PostgreSQL were not put in order: ")
            assert re.search(rf"\d+ of container shop-worker-1 \({ADDRESS}\)", told)
            # A deploy that migrates ends with the same remedy.
            with pytest.raises(NoConnectionError, match="docker stop shop-worker-1;"):
                dump_postgres(client, "x", io.BytesIO())
            take_remedy(client, told)
            time.sleep(0.5)
            assert order_accounts(client, "shop", mariadb=False)["postponed"] == ""
        assert server.log_in("shop", "own") == "shop"


def health_check(name: str) -> str:
    """Return the script of a service's health check."""
    lines = (ROOT / "templates/docker-compose.prod.yml.j2").read_text().partition(f"\n  {name}:")[2]
    (line,) = [each for each in lines.splitlines() if "      test: [CMD" in each][:1]
    return str(yaml.safe_load(line)["test"][1]).replace("$$", "$")


def check_health(folder: Path, name: str, programs: dict[str, str]) -> tuple[int, str]:
    """Return the exit code and the words of a health check, with other programs on its path."""
    (folder / "bin").mkdir(exist_ok=True)
    for program, text in programs.items():
        (folder / "bin" / program).write_text(f"#!/bin/sh\n{text}\n")
        (folder / "bin" / program).chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", health_check(name)],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": f"{folder}/bin:/usr/bin:/bin"},
    )
    return done.returncode, done.stdout


def test_a_full_mariadb_postpones_its_accounts(
    client: Docker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Regression: PostgreSQL's sibling; it was unhealthy, too, which ended each deploy."""
    port = free_port()
    here = ("--bind-address=127.0.0.1", f"--port={port}", "--skip-name-resolve")
    small = ("--max-connections=10", "--connect-timeout=60")
    monkeypatch.setattr(database_roles, "SLOT_SECONDS", 1)
    monkeypatch.setattr(database_roles, "order_postgres", lambda *_: {})
    listen_at(monkeypatch, "mariadb", port)
    # The port of the container is another one here; healthcheck.sh fails without a connection.
    real = f'exec /usr/bin/mariadb "$@" --port={port}'
    programs = {"healthcheck.sh": "echo no >&2; exit 1", "mariadb": real}
    with running_mariadb(*here, *small) as sql:
        sql(f"CREATE OR REPLACE USER {NAME}@'%' IDENTIFIED BY 'its own'")
        assert check_health(tmp_path, "mariadb", programs)[0] == 1
        with attack(client, port, b"", lambda: sql("SELECT 1")):
            assert check_health(tmp_path, "mariadb", programs)[0] == 0
            told = order_accounts(client, NAME, mariadb=True)["postponed"]
            assert told.startswith("The accounts of MariaDB were not put in order: ")
            assert re.search(rf"\d+ of container shop-worker-1 \({ADDRESS}\)", told)
            take_remedy(client, told)
            time.sleep(0.5)
            result = order_accounts(client, NAME, mariadb=True)
        assert result["postponed"] == ""
        (said,) = [each for each in result["done"] if "password" in each]
        assert said.startswith(f"MariaDB: the account {NAME} gets the password mariadb_password")
        again = order_accounts(client, NAME, mariadb=True)
        assert (again["done"], again["changed"]) == ([], False)


def test_a_full_redis_says_so(client: Docker, tmp_path: Path) -> None:
    port = free_port()
    words = ["redis-server", "--port", str(port), "--save", "", "--maxclients", "10"]
    running = subprocess.Popen([*words, "--dir", str(tmp_path)], stdout=subprocess.DEVNULL)
    programs = {"redis-cli": f'exec /usr/bin/redis-cli -p {port} "$@"'}

    told: list[str] = []

    def ask() -> None:
        code, said = check_health(tmp_path, "redis", programs)
        if slots.full_service(said):
            assert code == 1
            told.append(said)
            raise RuntimeError(said)

    try:
        for _ in range(100):
            if check_health(tmp_path, "redis", programs) == (0, ""):
                break
            time.sleep(0.05)
        with attack(client, port, b"PING\r\n", ask):
            assert slots.full_service(told[0]) == "redis"
    finally:
        running.kill()
        running.wait()
