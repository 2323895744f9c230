"""Paths of the server that containers get: what is there, and where it leads."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.host import checks, facts
from ansible_collections.crisper.stack.plugins.module_utils.host.shared_paths import (
    exposure,
    problems,
)

PLACE = "stack_app.web.volumes[0].host"


def found(path: Path | str, root: str = "/opt/shop", **more: Any) -> list[tuple[str, str]]:
    """What this machine says of a path."""
    wanted = {"place": PLACE, "path": str(path), "read_only": False, **more}
    return problems(facts.shared_paths([wanted]), root)


def test_folders_files_and_devices_that_are_there_are_fit(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file", "/dev/null", "/dev/shm"):
        assert found(path) == []


def test_what_is_not_there_is_named_with_its_variable(tmp_path: Path):
    ((message, remedy),) = found(tmp_path / "gone")
    assert message == f"{PLACE} is {tmp_path}/gone, which is not on this server"
    assert remedy.startswith("create it, for the user of the service")
    ((message, remedy),) = found("/dev/no-such-thing")
    assert remedy.startswith("connect the device")


def test_a_link_is_judged_by_where_it_leads(tmp_path: Path):
    """An inventory says /srv/media, and the server has a link there."""
    (tmp_path / "link").symlink_to("/etc")
    ((message, _remedy),) = found(tmp_path / "link")
    assert message.endswith("/link, which leads to /etc: the server itself lies in /etc")
    (tmp_path / "stack").mkdir()
    (tmp_path / "inner").symlink_to(tmp_path / "stack")
    ((message, _remedy),) = found(tmp_path / "inner", root=str(tmp_path / "stack"))
    assert "secrets of the stack lie in" in message


def test_sockets_are_refused_whatever_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind("api")
        ((message, remedy),) = found(tmp_path / "api")
    assert message.endswith("/api, which is a socket there")
    assert remedy == "give a folder or a file"


@pytest.mark.parametrize(
    ("path", "read_only", "why"),
    [
        ("/srv/media", False, ""),
        ("/home/shop", False, ""),
        ("/var/log", True, ""),
        ("/etc/ssl/certs", True, ""),
        ("/usr/share/zoneinfo", True, ""),
        ("/usr/share/zoneinfo", False, "containers may only read it: set read_only: true"),
        ("/etc/ssl/private", True, "the server itself lies in /etc"),
        ("/usr", True, "the server itself lies in /usr"),
        ("/var/spool", True, "the server itself lies in /var/spool/cron"),
        ("/srv/podman.sock", True, "with the engine's socket a container governs the server"),
        ("/opt/shop/current", True, "secrets of the stack lie in /opt/shop"),
    ],
)
def test_what_gives_the_server_away_is_no_containers(path: str, read_only: bool, why: str):
    assert exposure(path, "/opt/shop", read_only) == why


def test_the_judge_of_a_host_reports_them(tmp_path: Path):
    gone = facts.shared_paths([{"place": PLACE, "path": str(tmp_path / "x"), "read_only": False}])
    host = checks.Host("debian", "12", "x86_64", (3, 11), True, 1, 0.0, shared_paths=gone)
    needs = checks.Needs({"debian": ["12"]}, ["x86_64"])
    (finding,) = checks.judge(host, needs)
    assert (finding.check, finding.severity) == ("path", "error")
