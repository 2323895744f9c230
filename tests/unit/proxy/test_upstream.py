"""Which release nginx sends requests to, as files and links."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.proxy.upstream import (
    Upstreams,
    accept_queue,
    probe_line,
    waiting_connections,
)

BACKEND = {"kind": "web", "port": 8000, "replicas": 2, "probe": {"path": "/health"}}
SERVICES = {"redis": {"kind": "stateful"}, "frontend": {"port": 8080}, "backend": BACKEND}
# Linux 6.1: a listening socket with three in its queue, and a connection with data to be read.
TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F40 00000000:0000 0A 00000000:00000003 00:00000000 00000000  1000 0 34542 1 0
   1: 0500A8C0:1F40 0200A8C0:C350 01 00000000:00000400 00:00000000 00000000  1000 0 34543 1 0
"""


@pytest.fixture
def upstreams(tmp_path: Path) -> Upstreams:
    return Upstreams(str(tmp_path), SERVICES)


def address(upstreams: Upstreams, service: str) -> str:
    """What nginx's $realpath_root ends with."""
    return Path(os.path.realpath(upstreams.folder / "serving" / service)).name


def test_nothing_serves_at_first(upstreams: Upstreams) -> None:
    assert upstreams.serving == ""


def test_a_link_leads_to_the_release(upstreams: Upstreams) -> None:
    for release in ("r1", "r2", "r1"):
        upstreams.prepare(release)
        upstreams.switch(release)
        assert upstreams.serving == release
        assert address(upstreams, "backend") == f"backend-{release}:8000"
        assert address(upstreams, "frontend") == f"frontend-{release}:8080"
    assert not (upstreams.folder / "serving/redis").exists()


def test_static_files_are_switched_by_the_same_link(upstreams: Upstreams) -> None:
    for release in ("r1", "r2", "r1"):
        upstreams.prepare(release)
        upstreams.switch(release)
        assert os.readlink(upstreams.folder / "serving/static") == f"/srv/static/{release}"


def test_links_hold_within_the_container_too(upstreams: Upstreams, tmp_path: Path) -> None:
    """The folder has another path there."""
    upstreams.prepare("r1")
    upstreams.switch("r1")
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    moved = Upstreams(str(tmp_path.with_name("elsewhere")), SERVICES)
    assert address(moved, "backend") == "backend-r1:8000"


def test_only_the_release_that_serves_is_remembered(upstreams: Upstreams) -> None:
    for release in ("r1", "r2", "r3"):
        upstreams.prepare(release)
        upstreams.switch(release)
    upstreams.prune()
    assert [folder.name for folder in (upstreams.folder / "upstreams").iterdir()] == ["r3"]
    assert address(upstreams, "backend") == "backend-r3:8000"


def test_nginx_may_read_it_whatever_the_umask(upstreams: Upstreams) -> None:
    umask = os.umask(0o077)
    try:
        upstreams.prepare("r1")
        upstreams.switch("r1")
    finally:
        os.umask(umask)
    for path in (upstreams.folder / "upstreams").rglob("*"):
        if path.name == "static":
            assert path.is_symlink(), "it leads to a folder of nginx's container"
        else:
            assert path.stat().st_mode & 0o004, path


def test_an_interrupted_switch_is_done_again(upstreams: Upstreams) -> None:
    upstreams.prepare("r1")
    upstreams.switch("r1")
    (upstreams.folder / ".serving.new").symlink_to("upstreams/r2")  # killed before the rename
    assert upstreams.serving == "r1"
    upstreams.prepare("r2")
    upstreams.switch("r2")
    assert upstreams.serving == "r2"


def test_a_kept_release_of_before_has_no_ports(tmp_path: Path) -> None:
    """Its nginx asks Docker's DNS for `backend`: there is nothing to switch."""
    assert Upstreams(str(tmp_path), {"backend": {"kind": "web", "replicas": 1}}).services == {}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (BACKEND, "2 backend http 200 /health\n"),
        ({"port": 1}, "1 backend http 200 /\n"),
        (
            {"port": 1, "probe": {"host": "a.b", "scheme": "https", "status": [200, 204]}},
            "1 a.b https 200,204 /\n",
        ),
    ],
)
def test_how_replicas_are_asked(given: dict, line: str) -> None:
    assert probe_line("backend", given) == line


def test_the_queue_of_a_listening_socket() -> None:
    assert accept_queue(TABLE) == 3
    assert accept_queue("") == 0


def test_connections_that_nobody_has_accepted_are_seen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        clients = [socket.create_connection(server.getsockname()) for _ in range(3)]
        assert waiting_connections(os.getpid()) >= 3
        for client in clients:
            server.accept()[0].close()
            client.close()
    assert waiting_connections(2**22 + 1) == 0
