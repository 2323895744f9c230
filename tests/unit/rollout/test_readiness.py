"""New containers without a health check: the rollout asks them itself."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.rollout import readiness
from rollout_engine import SERVICES, RolloutEngine

PROBE = {"port": 8000, "path": "/health", "host": "", "scheme": "http", "status": [200]}
WEB = {**SERVICES, "backend": {"kind": "web", "replicas": 1, "probe": PROBE}}


@pytest.fixture
def engine(tmp_path: Path, run_module: Callable[..., dict[str, Any]]) -> RolloutEngine:
    """A release that serves, and new containers that the engine has no health of."""
    engine = RolloutEngine(tmp_path, run_module)
    engine.has("web0", "backend", "r0")
    engine.state["health"] = "none"
    return engine


def test_a_web_container_is_ready_when_it_answers(
    engine: RolloutEngine, monkeypatch: pytest.MonkeyPatch
):
    answers = ["Connection refused", "answered 503", ""]
    asked: list[Any] = []

    def ask(pid: int, probe: Any) -> str:
        asked.append(probe)
        return answers.pop(0)

    monkeypatch.setattr(readiness, "ask_inside", ask)
    done = engine.roll("start", services=WEB, wait_timeout=20)
    assert (done["changed"], asked) == (True, [PROBE] * 3)


def test_one_that_does_not_answer_is_removed_and_says_why(
    engine: RolloutEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(readiness, "ask_inside", lambda _pid, _probe: "GET /health answered 503")
    done = engine.roll("start", services=WEB, wait_timeout=1)
    assert done["failed"]
    assert "What ran before still serves." in done["msg"]
    assert "\nn1: GET /health answered 503" in done["msg"]
    assert engine.containers == ["web0"]


def test_a_worker_is_ready_when_it_answers_the_deploy(
    engine: RolloutEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(readiness, "ask_inside", lambda _pid, _probe: "")
    assert engine.roll("start", services=WEB, wait_timeout=20)["changed"]
    for name in [name for name in engine.containers if name != "web0"]:
        del engine.state["records"][name]
    engine.state["pings"] = False
    done = engine.roll("start", services=WEB, wait_timeout=1)
    assert done["failed"]
    assert "Not healthy within 1 s" in done["msg"]


@pytest.fixture
def page() -> Iterator[int]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.headers["Host"] == "app.example" else 400)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.mark.skipif(os.geteuid() != 0, reason="another network namespace is root's to enter")
def test_the_question_is_that_of_the_health_check(page: int):
    """In the network of a process, here of this one."""
    probe = {**PROBE, "port": page, "host": "app.example"}
    assert readiness.ask_inside(os.getpid(), probe) == ""
    assert "answered 400" in readiness.ask_inside(os.getpid(), {**probe, "host": ""})
    assert "Connection refused" in readiness.ask_inside(os.getpid(), {**probe, "port": 1})
    assert readiness.ask_inside(4_000_000, probe) != ""
