"""Modules and their utilities import in tests as they do under Ansible."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest
from ansible.module_utils.testing import patch_module_args

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run a module's main() with arguments; its result as Ansible would read it."""

    def run(module: ModuleType, check_mode: bool = False, **arguments: Any) -> dict[str, Any]:
        with (
            patch_module_args({**arguments, "_ansible_check_mode": check_mode}),
            pytest.raises(SystemExit),
        ):
            module.main()
        return json.loads(capsys.readouterr().out)

    return run


@pytest.fixture
def raw() -> Iterator[Callable[[bytes, float], int]]:
    """Serve bytes to each client, one by one, and close after some seconds; return the port."""
    servers = []

    def serve(answer: bytes, seconds: float) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)

        def talk() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                # A client may have heard enough before the end.
                with client, contextlib.suppress(ConnectionError):
                    client.recv(65536)
                    for number in range(len(answer)):
                        client.sendall(answer[number : number + 1])
                    time.sleep(seconds)

        threading.Thread(target=talk, daemon=True).start()
        return server.getsockname()[1]

    yield serve
    for server in servers:
        server.close()


class FakeEngine(socketserver.ThreadingUnixStreamServer):
    """An engine that answers what registries have behind references."""

    request_queue_size = 32

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket_path = str(folder / "docker.sock")
        # Reference -> status and content of the answer; None never answers.
        self.has: dict[str, tuple[int, Any] | None] = {}
        self.asked: list[str] = []
        self.logins: dict[str, str] = {}
        self.closing = threading.Event()
        super().__init__(self.socket_path, _EngineHandler)


class _EngineHandler(http.server.BaseHTTPRequestHandler):
    server: FakeEngine

    def do_GET(self) -> None:
        """Answer /distribution/<reference>/json."""
        reference = unquote(self.path).removeprefix("/distribution/").removesuffix("/json")
        self.server.asked.append(reference)
        self.server.logins[reference] = self.headers.get("X-Registry-Auth", "")
        reply = self.server.has[reference]
        if reply is None:
            self.server.closing.wait(10)
            return
        status, content = reply
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def address_string(self) -> str:
        """A socket in a file has no address."""
        return "local"

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeEngine]:
    """Serve a stand-in for the engine's API at its own socket."""
    with FakeEngine(tmp_path_factory.mktemp("engine")) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()
