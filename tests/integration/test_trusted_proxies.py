"""Whose forwarded headers the application believes: real containers on the networks of a stack.

A stack's web containers share `edge` with nginx alone, and `data` with the workers.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAME = f"crispertest-proxies-{os.getpid()}"
EDGE, DATA = f"{NAME}-edge", f"{NAME}-data"
IMAGE = "python:3.13-slim-trixie"
AGAIN = 1.1  # seconds after which a stranger is worth another look at the name
WEB = """
import asyncio
from proxies import Proxies

proxies = Proxies(["nginx"])

async def answer(reader, writer):
    peer = writer.get_extra_info("peername")[0]
    await proxies.refresh(peer)
    writer.write(b"proxy" if proxies.trusts(peer) else b"stranger")
    writer.close()

async def serve():
    # Of both versions: peers of IPv4 are told as ::ffff:172.20.0.2.
    import socket
    both = socket.create_server(("::", 8000), family=socket.AF_INET6, dualstack_ipv6=True)
    await asyncio.start_server(answer, sock=both)
    print("serving", flush=True)
    await asyncio.Event().wait()

asyncio.run(serve())
"""
ASK = """
import socket, sys
for host in sys.argv[1:]:
    with socket.create_connection((host, 8000), 5) as connection:
        print(connection.recv(99).decode())
"""


def docker(*arguments: str, check: bool = True, **options: str) -> str:
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, check=False, text=True, **options
    )
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout.strip()


def start(name: str, network: str, *options: str, command: tuple[str, ...] = ()) -> str:
    """Start a container as the template has them: without capabilities."""
    arguments = ["run", "--detach", "--init", "--name", f"{NAME}-{name}", "--network", network]
    arguments += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges:true", *options]
    docker(*arguments, IMAGE, *(command or ("sleep", "120")))
    return f"{NAME}-{name}"


def answers(container: str, *hosts: str) -> list[str]:
    return docker("exec", container, "python", "-c", ASK, *hosts).split()


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """A web container of release r1, before nginx is there."""
    try:
        docker("network", "create", EDGE)
        docker("network", "create", "--internal", DATA)
        mount = f"{ROOT}/app/backend/proxies.py:/srv/proxies.py:ro"
        conf = f"{ROOT}/tests/apps/channels/gunicorn.conf.py:/srv/gunicorn.conf.py:ro"
        options = ("--volume", mount, "--volume", conf, "--env", "PYTHONPATH=/srv")
        options += ("--env", "RELEASE=r1", "--network-alias", "backend-r1")
        container = start("web", EDGE, *options, command=("python", "-c", WEB))
        docker("network", "connect", DATA, container)
        deadline = time.monotonic() + 20
        while "serving" not in docker("logs", container):
            assert time.monotonic() < deadline, docker("logs", container)
            time.sleep(0.1)
        yield container
    finally:
        names = docker("ps", "--all", "--quiet", "--filter", f"name={NAME}-", check=False)
        docker("rm", "--force", "--volumes", *names.split(), check=False)
        docker("network", "rm", EDGE, DATA, check=False)


def test_only_nginx_is_believed_whatever_its_address(web: str) -> None:
    """Regression: web believed X-Forwarded-For of the workers, which then passed every limit."""
    worker = start("worker", DATA, "--network-alias", "celery-worker")
    # Without nginx there is nobody to believe.
    assert answers(worker, f"{NAME}-web") == ["stranger"]
    first = start("nginx-1", EDGE, "--network-alias", "nginx")
    time.sleep(AGAIN)
    assert answers(first, "backend-r1") == ["proxy"]
    assert answers(worker, f"{NAME}-web") == ["stranger"]
    # Recreated with another address, while the old one still finishes its requests.
    second = start("nginx-2", EDGE, "--network-alias", "nginx")
    time.sleep(AGAIN)
    assert answers(second, "backend-r1") == ["proxy"]
    assert answers(first, "backend-r1") == ["proxy"]
    docker("rm", "--force", first)
    assert answers(second, "backend-r1") == ["proxy"]
    assert answers(worker, f"{NAME}-web") == ["stranger"]


def test_gunicorn_trusts_the_network_that_only_nginx_is_on(web: str) -> None:
    """A server that takes no names gets the network, which stays when nginx is recreated."""
    script = "import runpy; print(runpy.run_path('/srv/gunicorn.conf.py')['forwarded_allow_ips'])"
    subnet = docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Subnet}}", EDGE)
    assert docker("exec", web, "python", "-c", script) == f"127.0.0.1,{subnet}"
    # Where it runs without a stack, only this host is trusted.
    alone = ("exec", "--env", "RELEASE=none", web, "python", "-c", script)
    assert docker(*alone) == "127.0.0.1"
