"""A real server process per test, its storage in a temporary folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from qdrant_client import QdrantClient

SERVER = Path(__file__).parents[1] / "server"
sys.path.insert(0, str(SERVER))
API_KEY = "a-key-for-tests"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Server:
    storage: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = os.environ | {
            "PYTHONPATH": str(SERVER),
            "QDRANT__SERVICE__API_KEY": API_KEY,
            "QDRANT__SERVICE__HOST": "127.0.0.1",
            "QDRANT__SERVICE__HTTP_PORT": str(self.port),
            "QDRANT__SERVICE__MAX_REQUEST_SIZE_MB": "1",
            "QDRANT__STORAGE__STORAGE_PATH": str(self.storage),
        }
        self.process = subprocess.Popen([sys.executable, "-m", "qdrant_standin"], env=environment)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert self.process.poll() is None, "the server ended at its start"
            try:
                if httpx.get(f"{self.url}/readyz", timeout=1).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("the server was not ready within 20 s")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(timeout=15)

    def client(self, api_key: str | None = API_KEY) -> QdrantClient:
        # https would be asked for because of the key; this is the loopback.
        return QdrantClient(url=self.url, api_key=api_key, timeout=10, prefer_grpc=False)


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("storage"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "storage")
    server.start()
    yield server
    assert server.process is not None
    if server.process.poll() is None:
        server.stop()
