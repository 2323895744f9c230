"""Load a site from outside until a file appears, then tell as JSON what its users would have seen.

    outside.py URL STOP_FILE [--rate 50] [--path /] [--host app.example.com] [--expect 200]
               [--post-fraction 0.2] [--keepalive-fraction 0.5] [--deadline 10] [--insecure]
               [--header 'Name: value'] [--streams N] [--websockets N]
               [--uploads N --upload-seconds S --upload-bytes B]

Requests start RATE times a second whatever became of those before (open loop): a hanging answer
slows no other, and durations count from the moment a request was due. What is not answered whole
within the deadline, or by a status that --expect does not list, is failed. Long-lived clients
connect again whenever their connection ends, and tell how it ended. No proxy of the environment is
used, no redirect followed. The program also stops at SIGTERM, SIGINT, or after --seconds.

    {"requests": {"sent": …, "failed": …, "errors": {"HTTP 503": …, "deadline": …, "cut": …},
                  "samples": [first failures], "failed_at": [[second, count], …],
                  "statuses": {…}, "stale_retries": …, "p50_ms": …, "p99_ms": …, "max_ms": …,
                  "latest_start_ms": …,
                  "releases": {release: answers}, "release_timeline": [[second, "r1"], …],
                  "release_switches": …, "releases_mixed_seconds": …},
     "streams": {"opened": …, "refused": …, "messages": …, "ends": {"end": …, "cut": …},
                 "errors": {…}, "reconnect_max_seconds": …, "longest_gap_seconds": …,
                 "first_message_max_seconds": …, "open_at_stop": …, "releases": {…}},
     "websockets": {the same; ends are such as "close 1012"},
     "uploads": {"sent": …, "failed": …, "errors": {…}, "releases": {…}}}

Requests belong to the second in which they were due. `release_timeline` names the releases that
answered, wherever that changes ("r1+r2": both in one second). `release_switches` counts
neighbouring requests that different releases answered; `releases_mixed_seconds` is how long
releases took turns: 0 when each switch was one act. The release is that of the header X-Release,
else of `"release": "…"` in the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import itertools
import json
import os
import random
import re
import signal
import ssl
import struct
import time
from asyncio import LimitOverrunError
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LONGEST = 1800.0  # seconds: no load goes on for ever
CLUSTER = 5.0  # seconds: switches nearer to each other than that are one mixture
IDLE_CONNECTIONS = 50
RECONNECT_DELAY = 0.2  # seconds
PIECES = 20  # of an upload, spread over its seconds
LIMIT = 1024 * 1024  # bytes of a line or a frame
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10


class CutError(Exception):
    """The connection ended in the middle of an answer, or before one."""


class StatusError(Exception):
    """An answer of another status than a long-lived client needs."""


@dataclass
class Answer:
    """An answer, whole."""

    status: int
    headers: dict[str, str]
    body: bytes
    reusable: bool = False

    @property
    def release(self) -> str:
        """The release that answered; empty when it does not tell."""
        return release_of(self.headers, self.body)


@dataclass
class Outcome:
    """What became of a request; times in seconds since the load began."""

    due: float
    ended: float
    error: str  # empty: as expected
    status: int = 0
    release: str = ""
    excerpt: str = ""


def release_of(headers: dict[str, str], body: bytes) -> str:
    """Return the release that an answer names; empty when it names none."""
    if release := headers.get("x-release"):
        return release
    found = re.search(rb'"release":\s*"([^"]*)"', body[:4096])
    return found[1].decode(errors="replace") if found else ""


def percentile(values: list[float], share: float) -> float:
    """Return the value that `share` (0 to 1) of all are not above; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def timeline(outcomes: list[Outcome]) -> list[list[Any]]:
    """Return [second, releases] wherever the releases that answer change."""
    seconds: dict[int, set[str]] = {}
    for outcome in outcomes:
        if outcome.release:
            seconds.setdefault(int(outcome.due), set()).add(outcome.release)
    changes: list[list[Any]] = []
    for second in sorted(seconds):
        names = "+".join(sorted(seconds[second]))
        if not changes or changes[-1][1] != names:
            changes.append([second, names])
    return changes


def switches(outcomes: list[Outcome]) -> list[float]:
    """Return when neighbouring requests, by their start, were answered by different releases."""
    known = sorted((o.due, o.release) for o in outcomes if o.release)
    return [late[0] for early, late in itertools.pairwise(known) if early[1] != late[1]]


def mixed_seconds(moments: list[float]) -> float:
    """Return for how long releases took turns: clusters of switches, from first to last of each."""
    total = 0.0
    for early, late in itertools.pairwise(moments):
        if late - early < CLUSTER:
            total += late - early
    return round(total, 3)


def summarize(outcomes: list[Outcome]) -> dict[str, Any]:
    """Return the figures of the requests."""
    failed = [outcome for outcome in outcomes if outcome.error]
    durations = [1000 * (o.ended - o.due) for o in outcomes if o.status]
    moments = switches(outcomes)
    at = Counter(int(outcome.due) for outcome in failed)
    samples = [
        {"second": round(o.due, 2), "error": o.error, "release": o.release, "answer": o.excerpt}
        for o in failed[:5]
    ]
    return {
        "sent": len(outcomes),
        "failed": len(failed),
        "errors": dict(Counter(outcome.error for outcome in failed).most_common()),
        "samples": samples,
        "failed_at": [[second, at[second]] for second in sorted(at)][:60],
        "statuses": dict(Counter(str(o.status) for o in outcomes if o.status).most_common()),
        "p50_ms": round(percentile(durations, 0.5), 1),
        "p99_ms": round(percentile(durations, 0.99), 1),
        "max_ms": round(max(durations, default=0.0), 1),
        "releases": dict(Counter(o.release for o in outcomes if o.release)),
        "release_timeline": timeline(outcomes),
        "release_switches": len(moments),
        "releases_mixed_seconds": mixed_seconds(moments),
    }


def kind_of(error: BaseException) -> str:
    """Return a short name of what failed: one per kind, without addresses."""
    if isinstance(error, CutError):
        return "cut"
    if isinstance(error, StatusError):
        return str(error)
    if isinstance(error, TimeoutError):
        return "deadline"
    if isinstance(error, asyncio.IncompleteReadError):
        return "cut"
    if isinstance(error, ssl.SSLError):
        return f"TLS {error.reason}"
    return type(error).__name__


class Connection:
    """A connection that speaks HTTP/1.1."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.used = False

    @property
    def stale(self) -> bool:
        """Whether the server has closed it meanwhile, as far as is known here."""
        return self.reader.at_eof() or self.writer.is_closing()

    def close(self) -> None:
        """Close it, whatever is left unread."""
        self.writer.close()

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        self.writer.write(data)
        await self.writer.drain()

    async def head(self) -> tuple[int, str, dict[str, str]]:
        """Return status, version and headers of the next answer; interim ones are skipped.

        Raises:
            CutError: there is none, or no whole one.
        """
        while True:
            try:
                text = await self.reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError as error:
                raise CutError from error
            first, *lines = text.decode("latin-1").split("\r\n")
            version, status, *_ = first.split(" ")
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.strip().lower()] = value.strip()
            if int(status) == 101 or int(status) >= 200:
                return int(status), version, headers

    async def chunk(self) -> bytes:
        """Return the next chunk; nothing at the proper end.

        Raises:
            CutError: the connection ended before.
        """
        try:
            size = int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16)
            data = await self.reader.readexactly(size + 2)
        except asyncio.IncompleteReadError as error:
            raise CutError from error
        return data[:size]

    async def answer(self, method: str) -> Answer:
        """Return the answer, whole.

        Raises:
            CutError: the connection ended before.
        """
        status, version, headers = await self.head()
        reusable = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        if method == "HEAD" or status in (204, 304):
            return Answer(status, headers, b"", reusable)
        if "chunked" in headers.get("transfer-encoding", "").lower():
            parts = []
            while part := await self.chunk():
                parts.append(part)
            return Answer(status, headers, b"".join(parts), reusable)
        if "content-length" in headers:
            try:
                body = await self.reader.readexactly(int(headers["content-length"]))
            except asyncio.IncompleteReadError as error:
                raise CutError from error
            return Answer(status, headers, body, reusable)
        return Answer(status, headers, await self.reader.read(-1), False)


class Site:
    """Where the load goes, and how requests to it look."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        parts = urlsplit(arguments.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            msg = f"URL {arguments.url!r} is none such as http://127.0.0.1:8080"
            raise SystemExit(msg)
        self.scheme = parts.scheme
        self.address = parts.hostname
        self.port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        self.host = arguments.host or parts.netloc
        self.tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            self.tls = ssl.create_default_context()
            if arguments.insecure:
                self.tls.check_hostname = False
                self.tls.verify_mode = ssl.CERT_NONE
        self.extra = list(arguments.header)

    async def connect(self) -> Connection:
        """Open a connection; as SNI the name that the site has."""
        name = urlsplit(f"//{self.host}").hostname if self.tls else None
        reader, writer = await asyncio.open_connection(
            self.address, self.port, ssl=self.tls, server_hostname=name, limit=LIMIT
        )
        return Connection(reader, writer)

    def head(self, method: str, path: str, *headers: str) -> bytes:
        """Return the head of a request."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", "User-Agent: outside"]
        return ("\r\n".join([*lines, *self.extra, *headers]) + "\r\n\r\n").encode()


class Requests:
    """The open loop of short requests."""

    def __init__(self, site: Site, arguments: argparse.Namespace, began: float) -> None:
        self.site, self.arguments, self.began = site, arguments, began
        self.outcomes: list[Outcome] = []
        self.idle: list[Connection] = []
        self.stale_retries = 0
        self.latest_start = 0.0
        self.chance = random.Random(14)  # noqa: S311

    async def run(self, stop: asyncio.Event) -> None:
        """Start requests until `stop`, then wait for those in flight."""
        flying: set[asyncio.Task[None]] = set()
        number = 0
        while not stop.is_set() and self.arguments.rate > 0:
            due = self.began + number / self.arguments.rate
            if (ahead := due - time.monotonic()) > 0:
                await asyncio.sleep(ahead)
            self.latest_start = max(self.latest_start, time.monotonic() - due)
            task = asyncio.create_task(self._one(number, due))
            flying.add(task)
            task.add_done_callback(flying.discard)
            number += 1
        if flying:
            await asyncio.wait(flying)
        for connection in self.idle:
            connection.close()

    async def _one(self, number: int, due: float) -> None:
        post = self.chance.random() < self.arguments.post_fraction
        keep = self.chance.random() < self.arguments.keepalive_fraction
        outcome = Outcome(due - self.began, 0.0, "")
        try:
            async with asyncio.timeout_at(
                asyncio.get_running_loop().time() + due - time.monotonic() + self.arguments.deadline
            ):
                answer = await self._exchange(number, post, keep)
        except (OSError, ValueError, CutError, LimitOverrunError) as error:
            outcome.error = kind_of(error)
        else:
            outcome.status, outcome.release = answer.status, answer.release
            if answer.status not in self.arguments.expect:
                outcome.error = f"HTTP {answer.status}"
                outcome.excerpt = answer.body[:120].decode(errors="replace")
        outcome.ended = time.monotonic() - self.began
        self.outcomes.append(outcome)

    async def _exchange(self, number: int, post: bool, keep: bool) -> Answer:
        method = "POST" if post else "GET"
        body = json.dumps({"number": number}).encode() if post else b""
        headers = [f"Connection: {'keep-alive' if keep else 'close'}"]
        if post:
            headers += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        path = (
            self.arguments.post_path if post and self.arguments.post_path else self.arguments.path
        )
        data = self.site.head(method, path, *headers) + body
        connection = self._idle_connection() if keep else None
        if connection is not None:
            try:
                return await self._over(connection, method, data)
            except (CutError, ConnectionError):
                # The server may close an idle connection while a request is on its way. Browsers
                # send what changes nothing again; a POST is lost, and counts.
                if post:
                    raise
                self.stale_retries += 1
        return await self._over(await self.site.connect(), method, data, keep)

    def _idle_connection(self) -> Connection | None:
        while self.idle:
            connection = self.idle.pop()
            if not connection.stale:
                return connection
            connection.close()
        return None

    async def _over(
        self, connection: Connection, method: str, data: bytes, keep: bool = True
    ) -> Answer:
        reused = False
        try:
            await connection.send(data)
            answer = await connection.answer(method)
            reused = keep and answer.reusable and len(self.idle) < IDLE_CONNECTIONS
            if reused:
                self.idle.append(connection)
            return answer
        finally:
            if not reused:
                connection.close()

    def summary(self) -> dict[str, Any]:
        """Return the figures."""
        return summarize(self.outcomes) | {
            "stale_retries": self.stale_retries,
            "latest_start_ms": round(1000 * self.latest_start, 1),
        }


@dataclass
class LongLived:
    """What long-lived clients of a kind went through."""

    opened: int = 0
    messages: int = 0
    open_now: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)  # connections that were not established
    releases: Counter[str] = field(default_factory=Counter)
    reconnects: list[float] = field(default_factory=list)  # seconds
    longest_gap: float = 0.0  # seconds between two messages of a connection
    first_message: float = 0.0  # seconds from the request to the first message, the longest

    def summary(self, open_at_stop: int) -> dict[str, Any]:
        """Return the figures."""
        return {
            "opened": self.opened,
            "refused": sum(self.errors.values()),
            "messages": self.messages,
            "ends": dict(self.ends),
            "errors": dict(self.errors),
            "reconnect_max_seconds": round(max(self.reconnects, default=0.0), 2),
            "longest_gap_seconds": round(self.longest_gap, 2),
            "first_message_max_seconds": round(self.first_message, 2),
            "open_at_stop": open_at_stop,
            "releases": dict(self.releases),
        }


class Client:
    """A long-lived client; a subclass says how to open and what a message is."""

    def __init__(self, site: Site, arguments: argparse.Namespace, log: LongLived) -> None:
        self.site, self.arguments, self.log = site, arguments, log

    async def run(self) -> None:
        """Connect again and again; ends by being cancelled."""
        ended: float | None = None
        while True:
            begun = time.monotonic()
            connection = None
            try:
                async with asyncio.timeout(self.arguments.deadline):
                    connection = await self.site.connect()
                    headers = await self.open(connection)
            except (OSError, ValueError, CutError, StatusError, LimitOverrunError) as error:
                self.log.errors[kind_of(error)] += 1
                ended = ended or begun
                if connection:
                    connection.close()
                await asyncio.sleep(RECONNECT_DELAY)
                continue
            self.log.opened += 1
            if ended is not None:
                self.log.reconnects.append(time.monotonic() - ended)
            self.log.open_now += 1
            try:
                self.log.ends[await self._listen(connection, headers, begun)] += 1
            finally:
                self.log.open_now -= 1
                connection.close()
            ended = time.monotonic()
            await asyncio.sleep(RECONNECT_DELAY)

    async def _listen(self, connection: Connection, headers: dict[str, str], begun: float) -> str:
        """Return how the connection ended."""
        last, first = begun, True
        try:
            while True:
                message = await self.message(connection)
                if isinstance(message, str):
                    return message
                now = time.monotonic()
                if first:
                    self.log.first_message = max(self.log.first_message, now - begun)
                    self.log.releases[release_of(headers, message) or "unknown"] += 1
                else:
                    self.log.longest_gap = max(self.log.longest_gap, now - last)
                last, first = now, False
                self.log.messages += 1
        except (OSError, ValueError, CutError, LimitOverrunError) as error:
            return kind_of(error)

    async def open(self, connection: Connection) -> dict[str, str]:
        """Begin; return the headers of the answer."""
        raise NotImplementedError

    async def message(self, connection: Connection) -> bytes | str:
        """Return the next message, or how the connection ended."""
        raise NotImplementedError


class Stream(Client):
    """A client of server-sent events."""

    chunked = False

    async def open(self, connection: Connection) -> dict[str, str]:
        """Ask for the stream."""
        path = self.arguments.stream_path
        await connection.send(self.site.head("GET", path, "Accept: text/event-stream"))
        status, _, headers = await connection.head()
        if status != 200:
            msg = f"HTTP {status}"
            raise StatusError(msg)
        self.chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        return headers

    async def message(self, connection: Connection) -> bytes | str:
        """Return the next piece; without chunks a proper end cannot be told from a cut."""
        piece = await (connection.chunk() if self.chunked else connection.reader.read(LIMIT))
        return piece or ("end" if self.chunked else "end without length")


def masked_frame(opcode: int, payload: bytes) -> bytes:
    """Return a WebSocket frame of a client, at most 125 bytes long."""
    mask = os.urandom(4)
    body = bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + body


def end_of(payload: bytes) -> str:
    """Return the name of an end by a close frame: RFC 6455, 7.1.5."""
    return f"close {struct.unpack('>H', payload[:2])[0] if len(payload) >= 2 else 1005}"


class WebSocket(Client):
    """A WebSocket that sends a text at intervals and hears its echo."""

    async def open(self, connection: Connection) -> dict[str, str]:
        """Shake hands."""
        key = base64.b64encode(os.urandom(16)).decode()
        headers = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        headers += [f"Sec-WebSocket-Key: {key}", f"Origin: {self.site.scheme}://{self.site.host}"]
        await connection.send(self.site.head("GET", self.arguments.websocket_path, *headers))
        status, _, answer = await connection.head()
        if status != 101:
            msg = f"HTTP {status}"
            raise StatusError(msg)
        return answer

    async def _listen(self, connection: Connection, headers: dict[str, str], begun: float) -> str:
        talk = asyncio.create_task(self._talk(connection))
        try:
            return await super()._listen(connection, headers, begun)
        finally:
            talk.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await talk

    async def _talk(self, connection: Connection) -> None:
        while self.arguments.websocket_interval > 0:
            await asyncio.sleep(self.arguments.websocket_interval)
            await connection.send(masked_frame(TEXT, b"hello"))

    async def message(self, connection: Connection) -> bytes | str:
        """Return the next message; pings are answered, and a close as well."""
        while True:
            try:
                first, second = await connection.reader.readexactly(2)
                size = second & 0x7F
                if size >= 126:
                    size = int.from_bytes(
                        await connection.reader.readexactly(2 if size == 126 else 8), "big"
                    )
                payload = await connection.reader.readexactly(size)
            except asyncio.IncompleteReadError as error:
                raise CutError from error
            opcode = first & 0x0F
            if opcode == CLOSE:
                with contextlib.suppress(OSError):
                    await connection.send(masked_frame(CLOSE, payload[:2]))
                return end_of(payload)
            if opcode == PING:
                await connection.send(masked_frame(PONG, payload))
            elif opcode != PONG:
                return payload


class Uploads:
    """Slow uploads, one after the other in each of N clients."""

    def __init__(self, site: Site, arguments: argparse.Namespace) -> None:
        self.site, self.arguments = site, arguments
        self.sent = 0
        self.errors: Counter[str] = Counter()
        self.releases: Counter[str] = Counter()

    async def run(self, stop: asyncio.Event) -> None:
        """Upload until `stop`; the upload in flight then is finished."""
        while not stop.is_set():
            self.sent += 1
            connection = None
            try:
                async with asyncio.timeout(self.arguments.upload_seconds + self.arguments.deadline):
                    connection = await self.site.connect()
                    answer = await self._one(connection)
            except (OSError, ValueError, CutError, LimitOverrunError) as error:
                self.errors[kind_of(error)] += 1
                await asyncio.sleep(RECONNECT_DELAY)
            else:
                self.releases[answer.release or "unknown"] += 1
                if answer.status not in self.arguments.expect:
                    self.errors[f"HTTP {answer.status}"] += 1
                elif received(answer.body) not in (None, self.arguments.upload_bytes):
                    self.errors["bytes missing"] += 1
            finally:
                if connection:
                    connection.close()

    async def _one(self, connection: Connection) -> Answer:
        size = self.arguments.upload_bytes
        await connection.send(
            self.site.head(
                "POST",
                self.arguments.upload_path,
                "Content-Type: application/octet-stream",
                f"Content-Length: {size}",
                "Connection: close",
            )
        )
        answering = asyncio.create_task(connection.answer("POST"))
        try:
            for number in range(PIECES):
                # An answer before the end is one (413, 502): sending on would only be reset.
                if answering.done():
                    break
                piece = size * (number + 1) // PIECES - size * number // PIECES
                # A reset while sending: the answer, if there is one, says more.
                with contextlib.suppress(ConnectionError):
                    await connection.send(b"\0" * piece)
                await asyncio.wait({answering}, timeout=self.arguments.upload_seconds / PIECES)
            return await answering
        finally:
            answering.cancel()

    def summary(self) -> dict[str, Any]:
        """Return the figures."""
        return {
            "sent": self.sent,
            "failed": sum(self.errors.values()),
            "errors": dict(self.errors),
            "releases": dict(self.releases),
        }


def received(body: bytes) -> int | None:
    """Return the number of bytes that an answer says arrived; None when it does not say."""
    try:
        data = json.loads(body)
    except ValueError:
        return None
    return data.get("bytes") if isinstance(data, dict) else None


async def watch(file: Path, seconds: float, stop: asyncio.Event) -> None:
    """Set `stop` once the file is there, or after a number of seconds."""
    end = time.monotonic() + seconds
    while not stop.is_set() and not file.exists() and time.monotonic() < end:
        await asyncio.sleep(0.1)
    stop.set()


async def load(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all clients until the stop file is there; return the figures."""
    stop, began, site = asyncio.Event(), time.monotonic(), Site(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    requests, uploads = Requests(site, arguments, began), Uploads(site, arguments)
    streams, websockets = LongLived(), LongLived()
    clients: list[Client] = [Stream(site, arguments, streams) for _ in range(arguments.streams)]
    clients += [WebSocket(site, arguments, websockets) for _ in range(arguments.websockets)]
    lasting = [asyncio.create_task(client.run()) for client in clients]
    finite = [asyncio.create_task(requests.run(stop))]
    finite += [asyncio.create_task(uploads.run(stop)) for _ in range(arguments.uploads)]
    await watch(Path(arguments.stop_file), arguments.seconds, stop)
    open_now = streams.open_now, websockets.open_now
    broken = [task.exception() for task in lasting if task.done()]
    for task in lasting:
        task.cancel()
    await asyncio.gather(*lasting, return_exceptions=True)
    await asyncio.gather(*finite)
    figures: dict[str, Any] = {"requests": requests.summary()}
    figures["seconds"] = round(time.monotonic() - began, 1)
    if arguments.streams:
        figures["streams"] = streams.summary(open_now[0])
    if arguments.websockets:
        figures["websockets"] = websockets.summary(open_now[1])
    if arguments.uploads:
        figures["uploads"] = uploads.summary()
    if broken:
        # A client that died counts nothing any more: its figures would look too good.
        msg = f"{len(broken)} clients ended by {broken[0]!r}"
        raise RuntimeError(msg)
    return figures


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url", help="such as http://127.0.0.1:8080")
    parser.add_argument("stop_file", help="the load ends when it appears")
    parser.add_argument("--rate", type=float, default=50, help="requests a second; 0 for none")
    parser.add_argument("--path", default="/")
    parser.add_argument("--post-path", default="", help="path of POSTs; else --path")
    parser.add_argument("--host", default="", help="Host header and name for TLS")
    parser.add_argument("--header", action="append", default=[], help="'Name: value', repeatable")
    parser.add_argument(
        "--expect",
        type=lambda text: [int(part) for part in text.split(",")],
        default=[200],
        help="statuses that are right, with commas",
    )
    parser.add_argument("--post-fraction", type=float, default=0.2)
    parser.add_argument("--keepalive-fraction", type=float, default=0.5)
    parser.add_argument("--deadline", type=float, default=10, help="seconds for a whole answer")
    parser.add_argument("--seconds", type=float, default=LONGEST, help="end after so many at most")
    parser.add_argument("--insecure", action="store_true", help="take any certificate")
    parser.add_argument("--streams", type=int, default=0, help="clients of server-sent events")
    parser.add_argument("--stream-path", default="/events")
    parser.add_argument("--websockets", type=int, default=0)
    parser.add_argument("--websocket-path", default="/ws")
    parser.add_argument(
        "--websocket-interval", type=float, default=1, help="seconds between texts; 0 for none"
    )
    parser.add_argument("--uploads", type=int, default=0, help="slow uploads at once")
    parser.add_argument("--upload-path", default="/upload")
    parser.add_argument("--upload-seconds", type=float, default=10)
    parser.add_argument("--upload-bytes", type=int, default=1024 * 1024)
    return parser.parse_args(words)


if __name__ == "__main__":
    figures = asyncio.run(load(parse_arguments()))
    print(
        "{", ",\n ".join(f'"{name}": {json.dumps(value)}' for name, value in figures.items()), "}"
    )
