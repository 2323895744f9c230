"""The health probes of web and beat, run as their containers run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = yaml.safe_load((ROOT / "roles/release/vars/main.yml").read_text())


def options() -> list[str]:
    """What the compose file gives Python before the program."""
    text = (ROOT / "templates/docker-compose.prod.yml.j2").read_text()
    found = set(re.findall(r"\[CMD, python, (.*?), \{\{ release_\w+_probe", text))
    assert len(found) == 1
    return found.pop().split(", ")


def run(name: str, **values: str) -> subprocess.CompletedProcess[str]:
    """A probe of the role `release`, with values for what it is rendered from."""
    program = VARIABLES[name]
    for key, value in values.items():
        program = program.replace("{{ stack_app.web." + key + " }}", value)
    assert "{{" not in program
    return subprocess.run(
        [sys.executable, *options(), program], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("status", "healthy"), [(200, True), (302, True), (404, False), (503, False)]
)
def test_web_is_healthy_when_its_path_answers(status: int, healthy: bool) -> None:
    asked = []

    class Web(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["Host"]))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = str(server.server_address[1])
        seen = run("release_web_probe", port=port, health_path="/health")
        server.shutdown()
    assert (seen.returncode == 0) is healthy, seen.stderr
    assert asked == [("/health", f"127.0.0.1:{port}")]
    assert healthy or f" {status} " in seen.stderr, "the health log says what was answered"


def test_web_is_not_healthy_when_nobody_answers() -> None:
    assert run("release_web_probe", port="1", health_path="/").returncode != 0


@pytest.mark.parametrize(
    ("age", "healthy"), [(None, False), (5, True), (700, False)], ids=["none", "fresh", "old"]
)
def test_beat_is_healthy_while_its_schedule_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: int | None, healthy: bool
) -> None:
    """Regression: without the module `site` there is no `exit`, and beat was never healthy."""
    here = VARIABLES["release_beat_probe"].replace("/var/lib/celery", str(tmp_path))
    monkeypatch.setitem(VARIABLES, "release_beat_probe", here)
    if age is not None:
        schedule = tmp_path / "beat-schedule"
        schedule.touch()
        os.utime(schedule, (time.time() - age,) * 2)
    assert (run("release_beat_probe").returncode == 0) is healthy
