"""A drill's containers on the real engine: they restore, and reach nothing."""

from __future__ import annotations

import gzip
import io
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup import drill
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends import (
    postgres,
    qdrant,
    redis,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.backup.set import Settings

PROJECT = f"crispertest-drill-{os.getpid()}"
# As the compose file has them, but for their volumes: these are never started.
SERVICES = {
    "postgres": ["--user", "999:60902", "--env", "POSTGRES_DB=shop", "postgres:17-trixie"],
    "redis": ["--user", "999:60903", "redis:8.0"],
    "qdrant": ["--user", "60905:60905", "qdrant/qdrant:v1.19.1-unprivileged"],
    # Of an edition that had no user for it.
    "mariadb": ["--env", "MARIADB_DATABASE=shop", "mariadb:11.8"],
}
# What somebody tries whose statements a restore runs: the host, clouds' metadata, files, rights.
ATTACK = r"""
for target in {gateway}/{port} 169.254.169.254/80; do
    timeout 2 bash -c "exec 3<>/dev/tcp/$target" 2>/dev/null && echo "reached $target"
done
[ "$(ls /sys/class/net)" = lo ] || echo "is on a network"
touch /usr/bin/planted 2>/dev/null && echo "wrote to the image"
[ "$(id -u)" != 0 ] || echo "is root"
grep -qE '^CapBnd:\s+0+$' /proc/self/status || echo "may get rights"
grep -qE '^NoNewPrivs:\s+1$' /proc/self/status || echo "may become root"
"""


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def away() -> Iterator[drill.Throwaway]:
    live = {}
    try:
        for service, options in SERVICES.items():
            live[service] = docker(
                *("create", "--pull", "never", "--network", "none", "--memory", "512m"), *options
            )
        containers = drill.Throwaway(Settings(Path("/"), PROJECT, timeout=60), live)
        with containers.room():
            yield containers
    finally:
        docker("rm", "--force", "--volumes", *live.values())


@pytest.fixture
def attack() -> Iterator[str]:
    """The attack, on a port that the host listens on at all of its addresses."""
    with socket.create_server(("", 0)) as listening:
        config = docker("network", "inspect", "--format", "{{json .IPAM.Config}}", "bridge")
        gateway = json.loads(config)[0]["Gateway"]
        yield ATTACK.format(gateway=gateway, port=listening.getsockname()[1])


def export() -> io.BytesIO:
    """Return an export of Qdrant with three points."""
    request = {"vectors": {"size": 2, "distance": "Cosine"}}
    points = [{"id": n, "vector": [1.0, 0.0], "payload": {"n": n}} for n in range(3)]
    lines = [{"collection": "items", "request": request, "indexes": {}}]
    lines += [{"points": points}, {"aliases": []}]
    return io.BytesIO(gzip.compress("".join(f"{json.dumps(line)}\n" for line in lines).encode()))


def dump_of_redis(away: drill.Throwaway) -> io.BytesIO:
    """Return a dump of a Redis with one key."""
    container = away.start("redis", "redis-server", "--appendonly", "yes", "--dir", "/data")
    away.ready("redis", container)
    docker("exec", container, "redis-cli", "set", "key", "value")
    stream = io.BytesIO()
    redis.dump_redis(away.docker, container, stream)
    away.remove()
    stream.seek(0)
    return stream


def restored_postgres(away: drill.Throwaway) -> dict:
    """Return what a PostgreSQL has that was restored from its own dump: each start takes long."""
    container = away.start("postgres")
    away.ready("postgres", container)
    sql = ("exec", container, "psql", "-qU", "postgres", "shop", "-c")
    docker(*sql, "CREATE ROLE shop LOGIN")  # the application's, as a live stack has it
    docker(*sql, "CREATE TABLE items (id int); INSERT INTO items VALUES (1), (2)")
    stream = io.BytesIO()
    postgres.dump_postgres(away.docker, container, stream)
    docker(*sql, "DROP TABLE items")
    stream.seek(0)
    postgres.restore_postgres(away.docker, container, stream)
    return postgres.postgres_state(away.docker, container)


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        ("postgres", {"rows": {"public.items": 2}, "migration_head": []}),
        ("redis", {"keys": 1}),
        ("qdrant", {"vectors": {"items": 3}}),
        ("mariadb", {"tables": ["items"]}),
    ],
)
def test_what_a_drill_restores_reaches_nothing(
    away: drill.Throwaway, attack: str, service: str, expected: dict
) -> None:
    """Regression: its containers reached the host at the bridge's address, with root's rights."""
    if service == "postgres":
        found = restored_postgres(away)
    elif service == "mariadb":
        dump = gzip.compress(b"USE shop; CREATE TABLE items (id int);")
        found = drill.RESTORE[service](away, io.BytesIO(dump))
    else:
        source = export() if service == "qdrant" else dump_of_redis(away)
        found = drill.RESTORE[service](away, source)
    assert found == expected
    assert docker("exec", f"{PROJECT}-drill-{service}", "bash", "-c", attack + "true") == ""
    assert docker("network", "ls", "--quiet", "--filter", f"label={away.label}") == ""
    away.remove()
    for kind in ("ps", "volume"):
        listing = (kind, "--all") if kind == "ps" else (kind, "ls")
        assert docker(*listing, "--quiet", "--filter", f"label={away.label}") == ""


def test_a_qdrant_that_has_ended_is_told(away: drill.Throwaway) -> None:
    container = away.start("qdrant")
    docker("kill", container)
    with pytest.raises(BackupError, match="Qdrant did not answer GET /collections"):
        qdrant.Qdrant(away.docker, container).names()


def test_a_database_that_ends_at_its_start_is_told_with_its_log(away: drill.Throwaway) -> None:
    """Not after three minutes."""
    container = away.start("redis", "redis-server", "--no-such-option", "yes")
    with pytest.raises(BackupError, match=r"not ready \(exited\)(?s:.*)aborting"):
        away.ready("redis", container)
