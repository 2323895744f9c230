"""The health probes of web and beat, run as their containers run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.docker.diagnosis import find_remedies
from ansible_collections.crisper.stack.plugins.module_utils.probes import health as health_probe
from hypothesis import given
from hypothesis import strategies as st
from proxy_files import rendered

ROOT = Path(__file__).resolve().parents[3]
VARIABLES = yaml.safe_load((ROOT / "roles/release/vars/main.yml").read_text())
HEALTH = (ROOT / "module_utils/crisper/probes/health.py").read_text()


def options() -> list[str]:
    """What the compose file gives Python before the program."""
    text = (ROOT / "templates/docker-compose.prod.yml.j2").read_text()
    found = set(re.findall(r"\[CMD, python, (.*?), \{\{ release_\w+_probe", text))
    assert len(found) == 1
    return found.pop().split(", ")


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A probe as its container runs it; its time limit there is 5 s."""
    command = [sys.executable, *options(), program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=5)


def ask(
    port: int, path: str = "/health", host: str = "app.example", scheme: str = "https", ok="200"
) -> subprocess.CompletedProcess[str]:
    """The probe of web with its arguments."""
    return run(HEALTH, str(port), path, host, scheme, ok)


class Web(BaseHTTPRequestHandler):
    """An application as Django is: one Host, HTTPS only, and the status that the path names."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        last = self.path.rpartition("/")[2]
        status, location = int(last) if last.isdigit() else 200, ""
        if self.headers["Host"] != "app.example":
            status = 400
        elif self.headers["X-Forwarded-Proto"] != "https":
            status, location = 301, f"https://app.example{self.path}"
        elif status // 100 == 3:
            location = "/login?next=/health"
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def web() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Web)
    server.seen = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "expected", "healthy"),
    [
        (200, "200", True),
        (204, "200,204", True),
        (302, "302", True),
        # Regressions: everything from 200 to 399 was healthy.
        (204, "200", False),
        (302, "200", False),
        (404, "200", False),
        (503, "200", False),
    ],
)
def test_web_is_healthy_when_its_path_answers_as_expected(
    web: Any, status: int, expected: str, healthy: bool
) -> None:
    seen = ask(web.server_address[1], f"/health/{status}", ok=expected)
    assert (seen.returncode == 0) is healthy, seen.stderr
    (asked,) = web.seen
    assert asked[0] == f"/health/{status}", "a redirect is not followed"
    said = f"GET /health/{status} with Host app.example answered {status} "
    assert healthy or seen.stderr.startswith(said), "the health log says what was answered"
    assert healthy or f"(expected {expected})" in seen.stderr


def test_web_is_asked_as_a_browser_asks_for_the_site(web: Any) -> None:
    """Regression: Django with ALLOWED_HOSTS answered 400 to Host 127.0.0.1:8000, or redirected."""
    assert ask(web.server_address[1]).returncode == 0
    ((_, headers),) = web.seen
    assert (headers["Host"], headers["X-Forwarded-Proto"]) == ("app.example", "https")
    assert headers["Connection"] == "close"


def test_a_refused_host_is_told_with_its_remedy(web: Any) -> None:
    port = web.server_address[1]
    seen = ask(port, host=f"127.0.0.1:{port}")
    assert seen.returncode != 0
    assert f"with Host 127.0.0.1:{port} answered 400" in seen.stderr
    assert "ALLOWED_HOSTS" in seen.stderr
    (remedy,) = find_remedies(seen.stderr)
    assert "stack_app.web.health_host" in remedy
    assert "stack_server_names" in remedy


def test_a_redirect_is_told_with_where_it_leads_and_its_remedy(web: Any) -> None:
    seen = ask(web.server_address[1], scheme="http")
    assert seen.returncode != 0
    assert "answered 301 Moved Permanently, Location https://app.example/health" in seen.stderr
    (remedy,) = find_remedies(seen.stderr)
    assert "stack_public_url" in remedy
    seen = ask(web.server_address[1], "/302")
    assert "answered 302 Found, Location /login?next=/health" in seen.stderr
    (remedy,) = find_remedies(seen.stderr)
    assert "stack_app.web.health_path" in remedy


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_no_proxy_of_the_environment_is_asked(
    web: Any, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv(proxy, "http://127.0.0.1:1")
    assert ask(web.server_address[1]).returncode == 0


@pytest.mark.parametrize(
    ("said", "seconds", "told"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 0, ""),
        (b"HTTP/1.0 200\n\n", 0, ""),
        (b"HTTP/1.1 200 OK\r\nDate: now\r\n", 30, ""),
        # Regressions: half a line was read as a whole one.
        (b"HTTP/1.1 200", 0, "was not answered; it said only 'HTTP/1.1 200'"),
        (b"HTTP/1.1 20", 30, "did not answer within 4 s; it said only 'HTTP/1.1 20'"),
        (b"HTTP/1.1 2000 Many\r\n\r\n", 0, "it said only 'HTTP/1.1 2000 Many'"),
        (b"220 mail ESMTP\r\n\r\n", 0, "it said only '220 mail ESMTP'"),
        (b"HTTP/1.1 500 \x1b[31mred\r\n\r\n", 0, "answered 500 ?[31mred (expected 200)"),
        (b"HTTP/1.1 503 Busy\r\nLocation: x", 30, "answered 503 Busy, Location x (expected"),
        (b"", 0, "was not answered"),
        (b"", 30, "did not answer within 4 s"),
    ],
)
def test_an_answer_is_read_to_the_end_of_its_first_line(raw, said, seconds, told) -> None:
    seen = ask(raw(said, seconds))
    assert (seen.returncode == 0) is (told == ""), seen.stderr
    assert told in seen.stderr
    assert seen.stderr.count("\n") <= 1, "no traceback"


def test_web_is_not_healthy_when_nobody_listens() -> None:
    seen = ask(1)
    assert seen.returncode != 0
    said = "GET /health with Host app.example failed: Connection refused, nothing listens on port 1"
    assert said in seen.stderr


@given(st.binary(max_size=200))
def test_whatever_is_said_is_judged_in_one_line(said: bytes) -> None:
    reason = health_probe.judge(said, "was not answered", ["200"])
    assert reason.isprintable()
    assert reason or re.match(rb"HTTP/1\.\S*\s+200\s", said)


def test_the_compose_file_asks_what_the_model_says() -> None:
    text = rendered("docker-compose.prod.yml.j2", stack_public_url="https://app.example")
    services = yaml.safe_load(text)["services"]
    *_, port, path, host, scheme, status = services["backend"]["healthcheck"]["test"]
    assert (port, path, host, scheme, status) == ("8000", "/health", "app.example", "https", "200")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/200", ""),
        # Regressions: curl's own judgement took these for healthy.
        ("/204", "answered 204"),
        ("/302", "answered 302 http://127.0.0.1"),
        ("/404", "answered 404"),
        ("/503", "answered 503"),
    ],
)
def test_the_front_end_is_healthy_when_it_answers_200(
    web: Any, monkeypatch: pytest.MonkeyPatch, path: str, told: str
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    services = yaml.safe_load(rendered("docker-compose.prod.yml.j2"))["services"]
    kind, *command, url, status = services["frontend"]["healthcheck"]["test"]
    assert (kind, url, status) == ("CMD", "http://127.0.0.1:1/", "200")
    web.RequestHandlerClass = FrontEnd
    ours = f"http://127.0.0.1:{web.server_address[1]}{path}"
    command = [word.replace("$$", "$") for word in command]
    seen = subprocess.run(
        [*command, ours, status], capture_output=True, text=True, check=False, timeout=3
    )
    assert (seen.returncode == 0) is (told == ""), seen
    assert told in seen.stdout
    assert len(web.seen) == 1, "a redirect is not followed"


class FrontEnd(Web):
    """One that takes any Host."""

    def do_GET(self) -> None:
        self.headers.replace_header("Host", "app.example")
        self.headers["X-Forwarded-Proto"] = "https"
        super().do_GET()


def test_a_front_end_that_hangs_is_not_healthy(raw) -> None:
    services = yaml.safe_load(rendered("docker-compose.prod.yml.j2"))["services"]
    _, *command, _, status = services["frontend"]["healthcheck"]["test"]
    url = f"http://127.0.0.1:{raw(b'', 30)}/"
    command = [word.replace("$$", "$") for word in command]
    seen = subprocess.run(
        [*command, url, status], capture_output=True, text=True, check=False, timeout=3
    )
    assert seen.returncode != 0
    assert "timed out" in seen.stderr


@pytest.mark.parametrize(
    ("age", "healthy"), [(None, False), (5, True), (700, False)], ids=["none", "fresh", "old"]
)
def test_beat_is_healthy_while_its_schedule_moves(
    tmp_path: Path, age: int | None, healthy: bool
) -> None:
    """Regression: without the module `site` there is no `exit`, and beat was never healthy."""
    here = VARIABLES["release_beat_probe"].replace("/var/lib/celery", str(tmp_path))
    if age is not None:
        schedule = tmp_path / "beat-schedule"
        schedule.touch()
        os.utime(schedule, (time.time() - age,) * 2)
    assert (run(here).returncode == 0) is healthy
