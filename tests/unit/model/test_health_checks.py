"""Health checks of the application's services: what the compose file says, and refusals."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from rendering import ROOT, outcome
from test_service_options import PLACES, with_options

VARIABLES = yaml.safe_load((ROOT / "roles/release/vars/main.yml").read_text())


def rendered_check(service: str, option: Any) -> dict[str, Any]:
    findings, files = outcome(json.dumps(with_options(service, healthcheck=option)))
    assert findings == []
    return yaml.safe_load(files["docker-compose.prod.yml"])["services"][service]["healthcheck"]


@pytest.mark.parametrize("service", PLACES)
def test_a_check_replaces_that_of_the_stack(service: str):
    before = rendered_check(service, None)
    own = rendered_check(service, {"command": ["check", "$x"], "interval": 60, "retries": 5})
    assert own == {**before, "test": ["CMD", "check", "$$x"], "interval": "60s", "retries": 5}
    times = rendered_check(service, {"timeout": 20, "start_period": 300})
    assert times == {**before, "timeout": "20s", "start_period": "300s"}
    tcp = rendered_check(service, {"tcp": 9000})
    assert (tcp["test"][:3], tcp["test"][-1]) == (["CMD", "/bin/sh", "-c"], "9000")


def test_workers_and_beat_are_asked_by_http():
    http = {"port": 9000, "path": "/healthz", "status": [200, 204]}
    for service in ("celery-worker", "celery-beat"):
        test = rendered_check(service, {"http": http})["test"]
        assert test[:4] == ["CMD", "python", "-IS", "-c"]
        assert test[5:] == ["9000", "/healthz", "127.0.0.1:9000", "http", "200,204"]


def test_none_has_no_check():
    for service in ("backend", "frontend", "celery-worker"):
        assert rendered_check(service, "none")["test"] == ["NONE"]


REFUSED = (
    ("nothing", " is 'nothing': give none, or a mapping such as {tcp: 8000}."),
    ([], " is []: give none, or a mapping such as {tcp: 8000}."),
    ({}, " is {}: give none, or a mapping such as {tcp: 8000}."),
    ({"tpc": 80}, " has no such key: did you mean tcp?"),
    ({"tcp": 0}, ".tcp is 0: give a port from 1 to 65535."),
    ({"command": "true"}, ".command is 'true': give a list, one argument each"),
    ({"command": ["x"], "tcp": 1}, " has tcp and command: give one of them."),
    ({"interval": "10s"}, ".interval is '10s': give a whole number of seconds, 1 or more."),
    ({"retries": 0}, ".retries is 0: give a whole number, 1 or more."),
)


@pytest.mark.parametrize("service", PLACES)
@pytest.mark.parametrize(("option", "sentence"), REFUSED)
def test_a_check_that_does_not_fit_is_refused(service: str, option: Any, sentence: str):
    (finding,) = validate(with_options(service, healthcheck=option))
    assert finding.startswith(f"{PLACES[service]}.healthcheck")
    assert sentence in finding


@pytest.mark.parametrize(
    ("service", "option", "sentence"),
    [
        (
            "celery-beat",
            "none",
            "beat.healthcheck is none: nobody would see that beat sends nothing",
        ),
        (
            "backend",
            {"http": {"port": 1, "path": "/"}},
            "nginx asks too: set stack_app.web.health_p",
        ),
        ("frontend", {"http": {}}, "which nginx asks too: set stack_app.frontend.health_path."),
        ("celery-worker", {"http": 80}, ".http is 80: give a mapping such as {port: 9000, path:"),
        (
            "celery-worker",
            {"http": {"port": 80}},
            ".http.path is missing: give a path as it stands",
        ),
        ("celery-worker", {"http": {"path": "/", "port": "x"}}, ".http.port is 'x': give a port"),
        (
            "celery-worker",
            {"http": {"path": "/", "port": 80, "status": "ok"}},
            ".http.status is 'ok': give a status from 100 to 599.",
        ),
        (
            "celery-worker",
            {"http": {"path": "/", "port": 80, "stat": 200}},
            ".http has no such key: did you mean status?",
        ),
    ],
)
def test_what_a_service_is_not_asked_is_refused(service: str, option: Any, sentence: str):
    (finding,) = validate(with_options(service, healthcheck=option))
    assert sentence in finding


def test_a_port_that_somebody_listens_on_is_found_without_any_program(tmp_path: Path):
    """In an image with nothing but a shell."""

    def run(port: int) -> subprocess.CompletedProcess[str]:
        command = ["/bin/sh", "-c", VARIABLES["release_listen_probe"], "sh", str(port)]
        env = {"PATH": str(tmp_path)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=env)

    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as server:
            server.bind((address, 0))
            port = server.getsockname()[1]
            assert (run(port).returncode, run(port).stdout) == (
                1,
                f"nothing listens on port {port}\n",
            )
            server.listen()
            assert run(port).returncode == 0


class Page(BaseHTTPRequestHandler):
    """Answers with the status that the path names; 302 leads to a page."""

    def do_GET(self) -> None:
        status = int(self.path.rpartition("/")[2] or 200)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/200")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("tools", [["curl"], ["wget", "sed", "timeout"], ["bash", "timeout"]])
@pytest.mark.parametrize(
    ("path", "told"),
    [("/200", ""), ("/204", "answered 204"), ("/302", "answered 302"), ("/503", "answered 503")],
)
def test_a_front_end_is_asked_by_what_its_image_has(
    page: str, tmp_path: Path, tools: list[str], path: str, told: str
):
    """Regression: only curl could ask, and a proxy of the environment must not."""
    for tool in tools:
        if (found := shutil.which(tool)) is None:
            pytest.skip(f"{tool} is not on this machine")
        os.symlink(found, tmp_path / tool)
    command = ["/bin/sh", "-c", VARIABLES["release_page_probe"], "sh", f"{page}{path}", "200"]
    env = {"PATH": str(tmp_path), "http_proxy": "http://127.0.0.1:1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=5)
    assert (done.returncode == 0) is (told == ""), done
    assert told in done.stdout


def test_an_image_without_any_of_them_is_told_what_to_set(tmp_path: Path):
    command = ["/bin/sh", "-c", VARIABLES["release_page_probe"], "sh", "http://127.0.0.1:1/", "200"]
    env = {"PATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 1
    assert "neither curl nor wget nor bash: set stack_app.frontend.healthcheck" in done.stdout
