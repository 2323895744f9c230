"""Redis: a snapshot, and a restore of one into the volume of a Redis that does not run."""

from __future__ import annotations

import time
from typing import IO, Any

from ...docker.exec import HARDENED, Docker
from ..manifest import BackupError

# The password comes from the file the server reads: it is in no process list.
_REDIS = r"""
if [ -r /run/secrets/redis.conf ]; then
    quoted=$(sed -n 's/^requirepass "\(.*\)"$/\1/p' /run/secrets/redis.conf)
    export REDISCLI_AUTH="$(printf %s "$quoted" | sed 's/\\\(.\)/\1/g')"
fi
"""
# With `appendonly yes` Redis reads the base file that the manifest names, and no dump.rdb.
RESTORE_REDIS = (
    "set -e; umask 077; cd /data; rm -rf .restored; trap 'rm -rf .restored' EXIT; mkdir .restored;"
    " cat >.restored/appendonly.aof.1.base.rdb;"
    " redis-check-rdb .restored/appendonly.aof.1.base.rdb >&2;"
    " echo 'file appendonly.aof.1.base.rdb seq 1 type b' >.restored/appendonly.aof.manifest;"
    " rm -rf appendonlydir dump.rdb; mv .restored appendonlydir; sync"
)


def redis_script(command: str) -> str:
    """Return a script for a shell in the container of Redis; `redis-cli` is its administrator's."""
    return _REDIS + command


def _redis(docker: Docker, container: str, command: str) -> str:
    script = redis_script(command)
    return docker.text("Redis did not answer", docker.inside(container, script))


def _redis_facts(docker: Docker, container: str, section: str) -> dict[str, str]:
    text = _redis(docker, container, f"redis-cli info {section}")
    return dict(line.strip().split(":", 1) for line in text.splitlines() if ":" in line)


def redis_keys(docker: Docker, container: str) -> int:
    """Return the number of keys in all databases; wait while Redis still loads them."""
    deadline = time.monotonic() + docker.timeout
    while _redis_facts(docker, container, "persistence").get("loading") != "0":
        if time.monotonic() > deadline:
            raise BackupError(f"Redis has not loaded its data within {docker.timeout} s.")
        time.sleep(0.2)
    found = _redis_facts(docker, container, "keyspace")
    return sum(int(value.split(",")[0].partition("=")[2]) for value in found.values())


def dump_redis(docker: Docker, container: str, target: IO[bytes]) -> dict[str, Any]:
    """Have Redis save a snapshot beside its log, and copy it.

    `redis-cli --rdb -` would leave the transfer's end mark in the file (Redis 8.0).
    """

    def saves() -> int:
        facts = _redis_facts(docker, container, "persistence")
        if (
            facts.get("rdb_bgsave_in_progress") == "0"
            and facts.get("rdb_last_bgsave_status") == "err"
        ):
            raise BackupError("Redis could not save a snapshot: look at its log and its disk.")
        return int(facts.get("rdb_saves", -1)) if facts.get("rdb_bgsave_in_progress") == "0" else -1

    deadline = time.monotonic() + docker.timeout
    before = -1
    while before < 0 or saves() <= before:
        if time.monotonic() > deadline:
            raise BackupError(f"Redis has not saved a snapshot within {docker.timeout} s.")
        if before < 0:
            before = saves()
            if before >= 0:
                # SCHEDULE: after a rewrite of the log that may go on.
                _redis(docker, container, "redis-cli bgsave schedule")
        time.sleep(0.2)
    command = docker.inside(container, "exec cat /data/dump.rdb")
    docker.out_of("The snapshot of Redis was not read", command, target)
    return {}


def restore_redis(
    docker: Docker, image: str, volume: str, source: IO[bytes], label: str = ""
) -> None:
    """Put a snapshot into the volume of a Redis that does not run, when it is a whole one.

    `label` is of the container that does it, ``name=value``.
    """
    command = [docker.cli, "run", "--rm", "--interactive", *HARDENED, "--log-driver", "none"]
    command += ["--label", label] if label else []
    command += ["--user", "999:999", "--volume", f"{volume}:/data", "--entrypoint", "sh"]
    docker.into("Redis was not restored", [*command, image, "-c", RESTORE_REDIS], source)
