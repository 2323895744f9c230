"""How each fault is made, and what it may cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from faults.server import CannotRunError, Server, ServerError, run, wait_until

CUT = 40.0  # seconds: longer than a lease
FULL = 15.0  # seconds
VOLUME = "/var/lib/docker/volumes/crisper_redis/_data"
# Written to: the kernel counts what is touched.
HOG = 'from itertools import count; x = [b"x" * (16 << 20) for _ in count()]'


@dataclass(frozen=True)
class Fault:
    """A fault.

    Attributes:
        how: how it is made, for the document.
        make: make it; returns when what is broken from outside is whole again.
        bound: seconds to recover at most.
        requests_fail: whether what answers requests dies.
        reason: why it cannot be made here.
    """

    how: str
    make: Callable[[Server], None]
    bound: float = 60
    requests_fail: bool = False
    reason: str = ""


def kill(service: str) -> Callable[[Server], None]:
    """SIGKILL of a service's main process; its container dies with it."""
    return lambda server: _discard(server.sh(f"kill -9 {server.main_process(service)}"))


def restart(service: str) -> Callable[[Server], None]:
    """A restart of a service's container."""
    return lambda server: _discard(server.sh(f"docker restart {server.container(service)}"))


def kill_child(server: Server) -> None:
    """SIGKILL of the youngest process of the worker's pool."""
    server.sh(f"kill -9 $(pgrep --newest --parent {server.main_process('celery-worker')})")


def out_of_memory(server: Server) -> None:
    """A process eats the worker's memory; the kernel is told to take the worker for it."""
    main, container = server.main_process("celery-worker"), server.container("celery-worker")
    since = server.sh("date +%s").strip()
    server.sh(f"echo 1000 >/proc/{main}/oom_score_adj")
    server.sh(f"docker exec {container} python -c '{HOG}' >/dev/null 2>&1 || true")
    wait_until(lambda: not _runs(server, main), "the worker is killed for its memory", 30)
    # Events of the second that --until names are left out, and the engine tells of them late.
    events = f"docker events --since {since} --until $(date +%s) --filter event=oom"
    try:
        wait_until(lambda: container in server.sh(events), "the engine tells of it", 15)
    except ServerError as error:
        raise CannotRunError(f"no sign that it was for want of memory: {error}") from error


def _runs(server: Server, process: int) -> bool:
    return "y" in server.sh(f"[ -e /proc/{process} ] && echo y || echo n")


def cut_network(server: Server) -> None:
    """Redis is taken off its network for longer than a lease."""
    redis = server.container("redis")
    server.sh(f"docker network disconnect --force crisper_data {redis}")
    time.sleep(CUT)
    server.sh(f"docker network connect --alias redis crisper_data {redis}")


def fill_disk(server: Server) -> None:
    """Redis's volume, on a file system of its own, has no byte left for a while."""
    redis = server.container("redis")
    start = f"docker start {redis} >/dev/null"
    with_small_volume = f"""
        docker stop {redis} >/dev/null
        cp -a {VOLUME} /root/kept
        mount -t tmpfs -o size=48m,mode=755,uid=999,gid=999 small {VOLUME}
        cp -a /root/kept/. {VOLUME}/ && rm -rf /root/kept
    """
    as_it_was = f"""
        docker stop {redis} >/dev/null
        cp -a {VOLUME} /root/kept
        umount {VOLUME}
        rm -rf {VOLUME}/* && cp -a /root/kept/. {VOLUME}/ && rm -rf /root/kept
    """
    server.sh(f"{with_small_volume}\n{start}")
    try:
        server.sh(f"cat /dev/zero >{VOLUME}/filler 2>/dev/null || true")
        time.sleep(FULL)
        server.sh(f"rm {VOLUME}/filler")
        time.sleep(2)  # it tries to write again every second
    finally:
        server.sh(f"{as_it_was}\n{start}")


def reboot(server: Server) -> None:
    """The server, its engine and everything on it stop, and start again."""
    address = server.address()
    run("docker", "restart", "-s", "SIGRTMIN+3", "-t", "30", server.name)
    if server.address() != address:
        raise CannotRunError("the server has another address after its reboot; nobody finds it")


def lose_consumers(server: Server) -> None:
    """The worker's channel forgets that it consumes; all else goes on."""
    code = "from backend.celery_app import app; app.control.broadcast('load_test_losing_consumers')"
    server.sh(f'docker exec {server.container("backend")} python -c "{code}"')


def _discard(_output: str) -> None:
    """A fault returns nothing."""


def _never(_server: Server) -> None:
    raise CannotRunError("no way was written")


FAULTS = {
    "worker_kill": Fault("SIGKILL of the worker's main process", kill("celery-worker")),
    "child_kill": Fault("SIGKILL of a process of the worker's pool", kill_child),
    "oom": Fault(
        "the worker's container reaches its memory limit and the kernel kills its main process",
        out_of_memory,
    ),
    "stuck_worker": Fault("the worker stays connected and consumes no more", lose_consumers, 75),
    "redis_kill": Fault("SIGKILL of Redis", kill("redis")),
    "redis_restart": Fault("`docker restart` of Redis", restart("redis")),
    "postgres_restart": Fault("`docker restart` of PostgreSQL", restart("postgres")),
    "qdrant_restart": Fault("`docker restart` of Qdrant", restart("qdrant")),
    "backend_kill": Fault(
        "SIGKILL of the only backend's main process", kill("backend"), requests_fail=True
    ),
    "nginx_kill": Fault("SIGKILL of nginx's main process", kill("nginx"), requests_fail=True),
    "network_cut": Fault(f"Redis is off its network for {CUT:g} s", cut_network),
    "disk_full": Fault(
        f"Redis's volume is a 48 MB file system without a free byte for {FULL:g} s; before and"
        " after it Redis is stopped and started for the volume to be swapped",
        fill_disk,
    ),
    "host_reboot": Fault(
        "restart of the server: systemd, engine and all containers",
        reboot,
        bound=120,
        requests_fail=True,
    ),
    "clock_step": Fault(
        "the host's clock is stepped",
        _never,
        reason="containers share the machine's clock: a step would be one for everything on it,"
        " and a preloaded library that lies about the time is no step. Leases go by Redis's clock"
        " and the heartbeat by the time since boot, so that it should do nothing; nobody saw it",
    ),
}
