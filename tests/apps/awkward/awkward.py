"""A web application that misbehaves on request: its port opens at once, its health is chosen.

    awkward.py                     serve on port 8000
    awkward.py mode hanging [30]   (docker exec) make this container sick at once; `ok` heals it,
                                   `-` gives it back to the environment
    awkward.py stats               (docker exec) tell what it received, as JSON

Modes, each with a number of seconds that has a default: see MODES. Several with commas follow each
other, each for its seconds: `refusing 30, hanging`. They come from the environment
(MODE, MODE_SECONDS), else from the file MODE_BAKED that an image brings; the file MODE_FILE goes
before both and acts at once. Every path obeys the mode but `/-/stats`. Streams that are open when a
container becomes sick go on.

Paths: /health, /slow?seconds=, /events (SSE), /upload?delay= (seconds per 64 KiB), /ws (WebSocket
echo); all others answer like `/`: release, container and path as JSON. Each answer has the headers
X-Release and X-Container.

On SIGTERM it stops listening, closes idle connections and finishes requests in flight. After
DRAIN_SECONDS it ends event streams with their last chunk and WebSockets with code 1001, drops
requests that hang, and exits with 0. Nothing but Python's standard library is needed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import http.client
import json
import os
import signal
import socket
import struct
import sys
import time
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

PORT = int(os.environ.get("PORT", "8000"))
RELEASE = os.environ.get("RELEASE", "unknown")
CONTAINER = socket.gethostname()
DRAIN_SECONDS = float(os.environ.get("DRAIN_SECONDS", "10"))
MODE_FILE = Path(os.environ.get("MODE_FILE", "/tmp/mode"))
MODE_BAKED = Path(os.environ.get("MODE_BAKED", "/srv/awkward-mode"))

HANG = 0  # in the place of a status
FOR_EVER = float("inf")
# Name -> default seconds. What they mean: judge().
MODES = {
    "ok": 0.0,
    "warming": 20.0,  # 503 for so long, then well
    "not_found": 15.0,  # 404 for so long, then well
    "refusing": FOR_EVER,  # 400 for so long, then well
    "hanging": FOR_EVER,  # no answer for so long, then well
    "failing": 30.0,  # well for so long, then 500 for ever
    "flapping": 5.0,  # well for so long, then 503 for so long, and again
}
SICK_FIRST = {"warming": 503, "not_found": 404, "refusing": 400, "hanging": HANG}
PIECE = 64 * 1024  # bytes
LONGEST_HEAD = 64 * 1024  # bytes
LARGEST_FRAME = 1024 * 1024  # bytes
WEBSOCKET_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def parse_mode(text: str) -> tuple[str, float]:
    """Return name and seconds of a mode such as `hanging` or `warming 30`.

    Raises:
        ValueError: no such mode, or no number of seconds.
    """
    words = text.replace(":", " ").split()
    if not words or words[0] not in MODES or len(words) > 2:
        msg = f"mode {text.strip()!r} is none of {', '.join(MODES)}, with or without seconds"
        raise ValueError(msg)
    return words[0], float(words[1]) if len(words) == 2 else MODES[words[0]]


def judge(mode: str, seconds: float, age: float) -> tuple[int, float]:
    """Return status (or HANG) of a mode that began `age` seconds ago, and for how long it is so."""
    if mode in SICK_FIRST:
        return (SICK_FIRST[mode], age) if age < seconds else (200, age - seconds)
    if mode == "failing":
        return (200, age) if age < seconds else (500, age - seconds)
    if mode == "flapping" and seconds > 0:
        return (200 if age // seconds % 2 == 0 else 503), age % seconds
    return 200, age


class Modes:
    """The mode of now: of the file if there is one, else of the start."""

    def __init__(self, environment: dict[str, str], file: Path, baked: Path) -> None:
        text = environment.get("MODE") or (baked.read_text() if baked.exists() else "ok")
        if seconds := environment.get("MODE_SECONDS"):
            text = f"{text.split()[0]} {seconds}"
        self.first = [parse_mode(part) for part in text.split(",")]
        self.began = time.time()
        self.file = file

    def now(self) -> tuple[int, float]:
        """Return the status of now and for how many seconds it is so; read the file each time."""
        try:
            began, text = self.file.stat().st_mtime, self.file.read_text()
            # Between the shell's `>` and its `echo` the file is empty.
            modes = [parse_mode(text)]
        except (OSError, ValueError):
            began, modes = self.began, self.first
        age = max(0.0, time.time() - began)
        for mode, seconds in modes[:-1]:
            if age < seconds:
                return judge(mode, seconds, age)
            age -= seconds
        return judge(*modes[-1], age)


@dataclass
class Request:
    """The head of a request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]

    def seconds(self, name: str, default: float) -> float:
        """Return a number of the query."""
        return float(self.query.get(name, default))


def parse_head(head: bytes) -> Request:
    """Return the request of a head, header names in lower case.

    Raises:
        ValueError: it is none of HTTP/1.
    """
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, version = first.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError(version)
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    parts = urlsplit(target)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    return Request(method, parts.path, query, headers)


def frame(opcode: int, payload: bytes, final: bool = True) -> bytes:
    """Return a WebSocket frame of a server: unmasked."""
    size = len(payload)
    head = bytes([(0x80 if final else 0) | opcode])
    if size < 126:
        return head + bytes([size]) + payload
    if size < 1 << 16:
        return head + b"\x7e" + struct.pack(">H", size) + payload
    return head + b"\x7f" + struct.pack(">Q", size) + payload


async def read_frame(reader: asyncio.StreamReader) -> tuple[int, bool, bytes]:
    """Return opcode, whether it is final, and the payload of a frame, masked or not.

    Raises:
        asyncio.IncompleteReadError: the connection ended.
        ValueError: the frame is larger than LARGEST_FRAME.
    """
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size == 126:
        (size,) = struct.unpack(">H", await reader.readexactly(2))
    elif size == 127:
        (size,) = struct.unpack(">Q", await reader.readexactly(8))
    if size > LARGEST_FRAME:
        raise ValueError(size)
    mask = await reader.readexactly(4) if second & 0x80 else b""
    payload = await reader.readexactly(size)
    if mask:
        payload = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
    return first & 0x0F, bool(first & 0x80), payload


class Stats:
    """What this container received since it started; health checks are counted apart."""

    def __init__(self) -> None:
        self.started = time.time()
        self.terminated_at: float | None = None
        self.healthy_at: float | None = None
        self.health = Counter[str]()
        self.answers = Counter[str]()
        self.paths = Counter[str]()
        self.before_healthy = self.while_sick = self.after_term = 0
        self.last_while_sick_after = 0.0
        self.upload_bytes = 0

    def count(self, path: str, status: int, age: float) -> None:
        """Count a request that gets `status`, which this container has been in for `age` s."""
        name = "hung" if status == HANG else str(status)
        if path == "/health":
            self.health[name] += 1
            if status == 200 and self.healthy_at is None:
                self.healthy_at = time.time()
            return
        self.answers[name] += 1
        self.paths[path] += 1
        self.before_healthy += self.healthy_at is None
        self.after_term += self.terminated_at is not None
        if status != 200:
            self.while_sick += 1
            self.last_while_sick_after = round(age, 2)

    def summary(self) -> dict[str, object]:
        """Return everything as plain data."""
        return {
            "release": RELEASE,
            "container": CONTAINER,
            "started": self.started,
            "healthy_at": self.healthy_at,
            "terminated_at": self.terminated_at,
            "requests": sum(self.answers.values()),
            "answers": dict(self.answers),
            "paths": dict(self.paths.most_common(20)),
            "health_checks": dict(self.health),
            "before_healthy": self.before_healthy,
            "while_sick": self.while_sick,
            "last_while_sick_after": self.last_while_sick_after,
            "after_term": self.after_term,
            "upload_bytes": self.upload_bytes,
        }


class Body:
    """The body of a request, in pieces."""

    def __init__(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.reader, self.writer = reader, writer
        self.chunked = "chunked" in request.headers.get("transfer-encoding", "").lower()
        self.left = 0 if self.chunked else int(request.headers.get("content-length", "0"))
        self.done = not self.chunked and self.left == 0
        self.expected = request.headers.get("expect", "").lower() == "100-continue"

    async def read(self) -> bytes:
        """Return the next piece; nothing at its end."""
        if self.expected and not self.done:
            self.expected = False
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.done:
            return b""
        if self.chunked and self.left == 0:
            self.left = int((await self.reader.readline()).split(b";")[0], 16)
            if self.left == 0:
                while (await self.reader.readline()).strip():
                    pass  # trailers
                self.done = True
                return b""
        piece = await self.reader.read(min(PIECE, self.left))
        if not piece:
            raise asyncio.IncompleteReadError(b"", self.left)
        self.left -= len(piece)
        if self.left == 0:
            if self.chunked:
                await self.reader.readline()
            else:
                self.done = True
        return piece


class Server:
    """The application."""

    def __init__(self, modes: Modes) -> None:
        self.modes = modes
        self.stats = Stats()
        self.stopping = asyncio.Event()  # SIGTERM came
        self.ending = asyncio.Event()  # DRAIN_SECONDS later
        self.idle: set[asyncio.StreamWriter] = set()
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Serve until SIGTERM, then drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        server = await asyncio.start_server(
            self._accept,
            "0.0.0.0",  # noqa: S104  (a container's port)
            PORT,
            limit=LONGEST_HEAD,
            backlog=1024,
        )
        await self.stopping.wait()
        self.stats.terminated_at = time.time()
        server.close()
        for writer in list(self.idle):
            writer.close()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=DRAIN_SECONDS)
        self.ending.set()
        if self.tasks:
            await asyncio.wait(self.tasks)
        print(json.dumps({"stats": self.stats.summary()}), flush=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while await self._answer(reader, writer):
                pass
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # a client that left, or no HTTP
        finally:
            self.idle.discard(writer)
            self.tasks.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection stays open."""
        if self.stopping.is_set():
            return False
        self.idle.add(writer)
        head = await reader.readuntil(b"\r\n\r\n")
        self.idle.discard(writer)
        request = parse_head(head)
        body = Body(request, reader, writer)
        if request.path == "/-/stats":
            return await self._send(request, writer, 200, self.stats.summary())
        status, age = self.modes.now()
        self.stats.count(request.path, status, age)
        if status == HANG:
            await self._hang(reader)
            return False
        if status == 200 and request.path == "/ws":
            await self._websocket(request, reader, writer)
            return False
        if status == 200 and request.path == "/events":
            await self._events(request, writer)
            return False
        size, delay = 0, request.seconds("delay", 0) if request.path == "/upload" else 0.0
        while piece := await body.read():
            size += len(piece)
            if status == 200:
                await asyncio.sleep(delay)
        if request.path == "/upload":
            self.stats.upload_bytes += size
        if status == 200 and request.path == "/slow":
            await asyncio.sleep(request.seconds("seconds", 2))
        answer = {"release": RELEASE, "container": CONTAINER, "path": request.path, "bytes": size}
        return await self._send(request, writer, status, answer)

    async def _hang(self, reader: asyncio.StreamReader) -> None:
        """Answer nothing until the client leaves or the drain is over."""
        end = asyncio.create_task(self.ending.wait())
        try:
            while not end.done():
                rest = asyncio.create_task(reader.read(PIECE))
                await asyncio.wait({end, rest}, return_when=asyncio.FIRST_COMPLETED)
                if not rest.done():
                    rest.cancel()
                elif not rest.result():
                    return
        finally:
            end.cancel()

    def _head(self, status: int, headers: dict[str, str]) -> bytes:
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        headers |= {"X-Release": RELEASE, "X-Container": CONTAINER}
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def _send(
        self, request: Request, writer: asyncio.StreamWriter, status: int, answer: object
    ) -> bool:
        text = json.dumps(answer).encode() + b"\n"
        asked = request.headers.get("connection", "").lower()
        stays = not self.stopping.is_set() and asked != "close"
        headers = {"Content-Type": "application/json", "Content-Length": str(len(text))}
        headers["Connection"] = "keep-alive" if stays else "close"
        writer.write(self._head(status, headers) + (b"" if request.method == "HEAD" else text))
        await writer.drain()
        return stays

    async def _events(self, request: Request, writer: asyncio.StreamWriter) -> None:
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        headers |= {"Transfer-Encoding": "chunked", "Connection": "close"}
        writer.write(self._head(200, headers))
        number, interval = 0, request.seconds("interval", 1)
        while not self.ending.is_set():
            number += 1
            text = json.dumps({"n": number, "release": RELEASE, "container": CONTAINER})
            event = f"id: {number}\ndata: {text}\n\n".encode()
            writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ending.wait(), interval)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _websocket(
        self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        key = request.headers.get("sec-websocket-key", "")
        if request.headers.get("upgrade", "").lower() != "websocket" or not key:
            await self._send(request, writer, 426, {"error": "no WebSocket handshake arrived"})
            return
        digest = hashlib.sha1((key + WEBSOCKET_GUID).encode()).digest()  # noqa: S324  (RFC 6455)
        accept = base64.b64encode(digest).decode()
        headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept}
        writer.write(self._head(101, headers))
        hello = {"release": RELEASE, "container": CONTAINER}
        writer.write(frame(TEXT, json.dumps(hello).encode()))
        echo = asyncio.create_task(self._echo(reader, writer))
        end = asyncio.create_task(self.ending.wait())
        await asyncio.wait({echo, end}, return_when=asyncio.FIRST_COMPLETED)
        end.cancel()
        if not echo.done():
            writer.write(frame(CLOSE, struct.pack(">H", 1001) + b"going away"))
            # The client closes in answer; one that does not is left behind.
            await asyncio.wait({echo}, timeout=2)
        echo.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await echo

    async def _echo(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Send back what arrives until the client closes."""
        while True:
            opcode, final, payload = await read_frame(reader)
            if opcode == CLOSE:
                if not self.ending.is_set():
                    writer.write(frame(CLOSE, payload[:2]))
                await writer.drain()
                return
            if opcode == PING:
                writer.write(frame(PONG, payload))
            elif opcode in (TEXT, BINARY, CONTINUATION):
                writer.write(frame(opcode, payload, final))
            await writer.drain()


def show_stats() -> str:
    """Return the statistics of the server in this container."""
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)
    try:
        connection.request("GET", "/-/stats")
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def set_mode(text: str) -> None:
    """Write the mode file in one act; `-` removes it."""
    if text == "-":
        MODE_FILE.unlink(missing_ok=True)
        return
    parse_mode(text)
    new = MODE_FILE.with_suffix(".new")
    new.write_text(text + "\n")
    new.replace(MODE_FILE)


def main(arguments: list[str]) -> None:
    """Serve, or act on the server of this container."""
    if arguments[:1] == ["stats"]:
        print(show_stats(), end="")
    elif arguments[:1] == ["mode"]:
        set_mode(" ".join(arguments[1:]))
    else:
        modes = Modes(dict(os.environ), MODE_FILE, MODE_BAKED)
        asyncio.run(_serve(modes))


async def _serve(modes: Modes) -> None:
    await Server(modes).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
