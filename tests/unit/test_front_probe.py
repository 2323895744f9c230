"""front_probe against a real server on the loopback."""

from __future__ import annotations

import http.server
import socket
import threading

import front_probe
import pytest
from ansible.module_utils.crisper_verify import http_finding


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers 200 to /ok, to /late from the third time on, and to /pass with the header."""

    late = 0

    def do_GET(self) -> None:
        Handler.late += self.path == "/late"
        passed = self.path == "/pass" and self.headers.get("X-Crisper-Pass") == "verify"
        good = self.path == "/ok" or passed or (self.path == "/late" and Handler.late > 2)
        self.send_response(200 if good else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def port():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_paths_and_ports_are_told(run_module, port):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refused
        result = run_module(
            front_probe,
            url=f"http://127.0.0.1:{port}",
            paths=["/ok", "/late", "/broken", "/pass"],
            headers={"X-Crisper-Pass": "verify"},
            address="127.0.0.1",
            ports=[port, closed.getsockname()[1]],
        )
    assert [answer["status"] for answer in result["answers"]] == [200, 200, 503, 200]
    assert result["open"] == [port]


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_no_proxy_of_the_environment_stands_between(run_module, port, monkeypatch, name):
    """Regression: behind a proxy, the deploy asked that proxy for the server's own front door."""
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))  # bound and not listening: refused
        monkeypatch.setenv(name, f"http://127.0.0.1:{dead.getsockname()[1]}")
        for other in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(other, raising=False)
        url = f"http://127.0.0.1:{port}"
        result = run_module(front_probe, url=url, paths=["/ok"], retries=0)
    assert result["answers"][0]["status"] == 200, result["answers"]


def test_no_answer_is_told_with_its_reason(run_module):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        result = run_module(front_probe, url=url, paths=["/"], retries=0)
    (answer,) = result["answers"]
    assert answer["status"] == -1
    assert "refused" in answer["msg"]


def test_only_http_is_asked(run_module):
    result = run_module(front_probe, url="file:///etc/passwd", paths=["/"])
    assert result["failed"]
    assert "give http://" in result["msg"]


def test_a_site_that_the_controller_does_not_reach_is_a_finding_with_a_way_out():
    silent = http_finding({"url": "http://192.0.2.7:80/health", "status": -1, "msg": "timed out"})
    assert "did not answer (timed out) from the controller" in silent
    assert "verify_url" in silent
    answered = http_finding({"url": "http://192.0.2.7:80/health", "status": 503, "msg": ""})
    assert "answered 503" in answered
    assert "verify_url" not in answered
