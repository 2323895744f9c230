"""The load from outside against the awkward application, both of this machine's Python."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

APPS = Path(__file__).resolve().parents[1] / "apps"
# A proxy that does not exist: whoever takes one of the environment fails.
NOWHERE = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
Program = subprocess.Popen[str]


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def start(port: int, tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Start the application; it is killed at the end of the test."""
    started: list[Program] = []

    def begin(release: str, **environment: str) -> Program:
        own = {"PORT": str(port), "RELEASE": release, "MODE_FILE": str(tmp_path / "mode")}
        program = subprocess.Popen(
            [sys.executable, str(APPS / "awkward/awkward.py")],
            env={**os.environ, **own, "DRAIN_SECONDS": "1", **environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(program)
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return program
        pytest.fail(f"nothing listens on port {port} after 10 s")

    yield begin
    for program in started:
        program.kill()
        program.communicate()


@pytest.fixture
def load(port: int, tmp_path: Path) -> Callable[..., tuple[Program, Path]]:
    def begin(*options: str) -> tuple[Program, Path]:
        stop = tmp_path / "stop"
        command = [sys.executable, str(APPS / "outside.py"), f"http://127.0.0.1:{port}", str(stop)]
        command += ["--seconds", "30", *options]
        environment = {**os.environ, **NOWHERE}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True), stop

    return begin


@pytest.fixture
def until(port: int) -> Callable[..., None]:
    """Wait until the application has received a number of requests, of all paths or of each."""

    def wait(count: int, *paths: str) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/-/stats")
            stats = json.load(connection.getresponse())
            connection.close()
            received = [stats["paths"].get(path, 0) for path in paths] or [stats["requests"]]
            if min(received) >= count:
                return
            time.sleep(0.05)
        pytest.fail(f"{received} of {count} requests arrived within 10 s")

    return wait


def told(running: tuple[Program, Path]) -> dict[str, Any]:
    """Stop the load and return its figures."""
    program, stop = running
    stop.touch()
    output, _ = program.communicate(timeout=30)
    assert program.returncode == 0
    return json.loads(output)


def ended(program: Program) -> dict[str, Any]:
    """Stop the application and return its statistics."""
    program.send_signal(signal.SIGTERM)
    output, _ = program.communicate(timeout=10)
    assert program.returncode == 0
    return json.loads(output)["stats"]


def test_a_sound_application_fails_nobody(start: Any, load: Any, until: Any) -> None:
    program = start("r1")
    running = load("--streams", "2", "--websockets", "2", "--uploads", "1", "--upload-seconds", "1")
    until(100)
    until(2, "/upload", "/events", "/ws")
    time.sleep(1.5)
    figures = told(running)
    assert figures["requests"]["failed"] == 0, figures
    assert figures["requests"]["release_timeline"] == [[0, "r1"]]
    assert figures["uploads"]["failed"] == 0, figures
    assert figures["uploads"]["sent"] >= 2
    for kind in ("streams", "websockets"):
        assert figures[kind]["opened"] == figures[kind]["open_at_stop"] == 2, figures
        assert figures[kind]["messages"] >= 4
    stats = ended(program)
    assert stats["paths"]["/"] == figures["requests"]["sent"]
    assert stats["after_term"] == 0


def test_a_sick_application_is_counted_by_kind_and_slows_no_other_request(
    start: Any, load: Any, until: Any, tmp_path: Path
) -> None:
    program = start("r1")
    running = load("--rate", "50", "--deadline", "1")
    until(1)
    for mode in ("ok", "refusing", "ok", "hanging", "ok"):
        (tmp_path / "mode").write_text(mode)
        time.sleep(1)
    everything = told(running)
    seconds, figures = everything["seconds"], everything["requests"]
    assert set(figures["errors"]) == {"HTTP 400", "deadline"}, figures
    assert all(20 <= count <= 80 for count in figures["errors"].values()), figures
    # Open loop: as many as ever, while 50 of them hang.
    assert figures["sent"] >= (seconds - 1) * 50 * 0.9, figures
    stats = ended(program)
    assert stats["while_sick"] == figures["failed"]
    assert stats["answers"]["hung"] == figures["errors"]["deadline"]


def test_streams_end_properly_and_clients_find_the_next_release(
    start: Any, load: Any, until: Any
) -> None:
    first = start("r1")
    running = load("--streams", "2", "--websockets", "2", "--post-fraction", "0")
    until(2, "/events", "/ws")
    ended(first)
    second = start("r2")
    until(2, "/events", "/ws", "/")
    time.sleep(0.5)
    figures = told(running)
    assert figures["streams"]["ends"] == {"end": 2}, figures
    assert figures["websockets"]["ends"] == {"close 1001": 2}, figures
    for kind in ("streams", "websockets"):
        assert figures[kind]["releases"] == {"r1": 2, "r2": 2}
        assert 0 < figures[kind]["reconnect_max_seconds"] < 5
    assert figures["requests"]["release_switches"] == 1, figures
    assert figures["requests"]["releases_mixed_seconds"] == 0
    assert ended(second)["paths"]["/events"] == 2


def test_a_killed_application_cuts_its_streams(start: Any, load: Any, until: Any) -> None:
    program = start("r1")
    running = load("--streams", "2", "--websockets", "2", "--rate", "0")
    until(2, "/events", "/ws")
    time.sleep(0.5)
    program.kill()
    time.sleep(0.5)
    figures = told(running)
    for kind in ("streams", "websockets"):
        assert sum(figures[kind]["ends"].values()) == 2
        assert set(figures[kind]["ends"]) <= {"cut", "ConnectionResetError"}, figures
        assert figures[kind]["open_at_stop"] == 0
        assert figures[kind]["errors"].keys() == {"ConnectionRefusedError"}


def test_requests_in_flight_are_finished(start: Any, load: Any, until: Any) -> None:
    program = start("r1")
    running = load("--rate", "20", "--path", "/slow?seconds=1.5", "--keepalive-fraction", "0")
    until(10)
    (stats, figures) = ended(program), told(running)["requests"]
    # Those that came before SIGTERM; the later ones found no port.
    assert figures["statuses"] == {"200": stats["requests"]}, figures
    assert set(figures["errors"]) <= {"ConnectionRefusedError", "cut", "ConnectionResetError"}
    assert stats["requests"] >= 10
