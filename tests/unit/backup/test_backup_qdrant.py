"""An export of Qdrant whose points are large: it takes a bounded part of the server's memory."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import threading
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends import qdrant
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.docker import exec as docker_exec

MIB = 1 << 20


class Server(ThreadingHTTPServer):
    """A Qdrant with one collection, of points of given sizes."""

    daemon_threads = True
    sizes: list[int]
    limits: list[int]
    written: list[int]


class Handler(BaseHTTPRequestHandler):
    """The part of its API that an export and a restore use."""

    server: Server
    protocol_version = "HTTP/1.1"

    def answer(self, pieces: Iterator[bytes]) -> None:
        """Answer piece by piece: what is large is not whole in this process either."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for piece in pieces:
                self.wfile.write(piece)
        except OSError:
            pass  # the client has enough

    def do_GET(self) -> None:
        """Collections, one of them, or aliases."""
        config = {"params": {"vectors": {"size": 1, "distance": "Dot"}}}
        result: Any = {"config": config}
        if self.path == "/collections":
            result = {"collections": [{"name": "it\\ems"}]}
        elif self.path == "/aliases":
            result = {"aliases": []}
        self.answer(iter([json.dumps({"result": result}).encode()]))

    def do_PUT(self) -> None:
        """Points are written."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "points" in json.loads(body):
            self.server.written.append(len(body))
        self.answer(iter([b'{"result": true}']))

    def do_DELETE(self) -> None:
        """A collection is removed."""
        self.answer(iter([b'{"result": true}']))

    def do_POST(self) -> None:
        """A page of points."""
        ask = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.limits.append(ask["limit"])
        first = ask.get("offset", 0)
        after = min(first + ask["limit"], len(self.server.sizes))
        following = after if after < len(self.server.sizes) else None

        def pieces() -> Iterator[bytes]:
            yield b'{"result": {"points": ['
            for number in range(first, after):
                yield b"," if number > first else b""
                yield f'{{"id": {number}, "vector": [1], "payload": {{"text": "'.encode()
                size = self.server.sizes[number] if ask["with_payload"] else 0
                for begin in range(0, size, MIB):
                    yield b"x" * min(MIB, size - begin)
                yield b'"}}'
            yield f'], "next_page_offset": {json.dumps(following)}}}}}'.encode()

        self.answer(pieces())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.sizes, running.limits, running.written = [], [], []
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        real = http.client.HTTPConnection

        def connect(_host: str, _port: int, timeout: float) -> http.client.HTTPConnection:
            return real("127.0.0.1", running.server_port, timeout=timeout)

        monkeypatch.setattr(qdrant.http.client, "HTTPConnection", connect)
        yield running
        running.shutdown()


class Docker(docker_exec.Docker):
    """A container at this machine's own address."""

    def inspect(self, container: str) -> dict[str, Any]:
        networks = {"data": {"IPAddress": "127.0.0.1"}}
        seen = {"NetworkSettings": {"Networks": networks}, "Config": {"Env": []}}
        return {**seen, "State": {"Pid": 1}}


DOCKER = Docker("docker", 20)


def exported() -> tuple[dict[str, Any], bytes, int]:
    """Return what is told of an export, the export, and the most bytes it had in memory."""
    stream = io.BytesIO()
    tracemalloc.start()
    try:
        told = qdrant.dump_qdrant(DOCKER, "", stream)
        return told, stream.getvalue(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_large_points_are_exported_few_at_a_time(server: Server) -> None:
    """Regression: 25 points of 6 MB took 472 MB, and Qdrant made one answer of all of them."""
    server.sizes = [MIB] * 40
    told, export, peak = exported()
    assert told == {"vectors": {"it\\ems": 40}}
    assert peak < 30 * MIB
    lines = [json.loads(line) for line in gzip.decompress(export).splitlines()]
    ids = [point["id"] for line in lines for point in line.get("points", [])]
    assert ids == list(range(40))


def test_small_points_are_exported_by_the_page(server: Server) -> None:
    server.sizes = [10] * 1000
    told, _export, _peak = exported()
    assert told == {"vectors": {"it\\ems": 1000}}
    assert len(server.limits) < 20
    assert max(server.limits) == qdrant.PAGE


def test_a_page_that_is_too_large_is_halved_and_grows_again(server: Server) -> None:
    server.sizes = [10] * 300 + [5 * MIB] * 3 + [10] * 300
    told, export, peak = exported()
    assert told == {"vectors": {"it\\ems": 603}}
    assert peak < 60 * MIB
    assert len(server.limits) < 60
    assert server.limits[-1] == qdrant.PAGE
    lines = [json.loads(line) for line in gzip.decompress(export).splitlines()]
    ids = [point["id"] for line in lines for point in line.get("points", [])]
    assert ids == list(range(603))


def test_a_point_that_is_too_large_alone_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant, "MOST_ANSWER", 3 * MIB)
    server.sizes = [10, 10, 10, 50 * MIB, 10]
    tracemalloc.start()
    with pytest.raises(BackupError) as told:
        qdrant.dump_qdrant(DOCKER, "", io.BytesIO())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "The point 3 of the collection 'it\\\\ems' has more than 3 MiB" in str(told.value)
    assert "delete the point" in str(told.value)
    assert peak < 30 * MIB


def test_an_answer_without_points_is_bounded_too(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.sizes = [4 * MIB]
    ask = {"limit": 1, "with_payload": True}
    api = qdrant.Qdrant(DOCKER, "")
    with pytest.raises(qdrant.TooLargeError, match="more than 1048576 bytes"):
        api.ask("POST", "/collections/a/points/scroll", ask, most=MIB)


def test_a_set_of_an_older_edition_is_written_in_requests_that_qdrant_takes(
    server: Server,
) -> None:
    """Regression: all points of a page went into one request, and of more than 32 MB none does."""
    points = [{"id": n, "vector": [1], "payload": {"text": "x" * 3 * MIB}} for n in range(12)]
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1) as packed:
        for entry in ({"collection": "a", "request": {}, "indexes": {}}, {"points": points}):
            packed.write(json.dumps(entry).encode() + b"\n")
        packed.write(b'{"aliases": []}\n')
    stream.seek(0)
    qdrant.restore_qdrant(DOCKER, "", stream)
    assert sum(server.written) > 36 * MIB
    assert max(server.written) < 2 * qdrant.MOST_PAGE


def test_an_export_with_an_endless_line_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qdrant, "MOST_LINE", MIB)
    stream = io.BytesIO(gzip.compress(b'{"collection": "' + b"x" * 20 * MIB))
    with pytest.raises(BackupError, match="which no backup writes: choose another set"):
        qdrant.restore_qdrant(DOCKER, "", stream)


def test_the_timer_bounds_a_backup_as_a_whole() -> None:
    unit = Path(__file__).resolve().parents[3] / "roles/backup/templates/service.j2"
    assert "\nMemoryMax=2G\n" in unit.read_text()
