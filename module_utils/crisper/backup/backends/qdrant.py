"""Qdrant: its REST API, a logical export of its collections, and a restore from one."""

from __future__ import annotations

import ctypes
import gzip
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import IO, Any
from urllib.parse import quote

from ...docker.exec import Docker
from ..manifest import BackupError

# Points of Qdrant in one answer, and bytes of one: with vectors and payloads of usual size a page
# has a megabyte. One point alone may be what one request of Qdrant's brings (32 MB), and some more.
PAGE = 100
MOST_PAGE = 8 << 20
MOST_ANSWER = 40 << 20
# Bytes of one request (QDRANT__SERVICE__MAX_REQUEST_SIZE_MB is 32).
MOST_REQUEST = 32 << 20
# Bytes of one line of an export: those of older editions have whatever 100 points had.
MOST_LINE = 1 << 30
CLONE_NEWNET = 0x40000000


def encode(body: Any) -> bytes:
    """Return the shortest JSON of a request: escapes would take three times the bytes of UTF-8."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode(
        errors="surrogatepass"
    )


class TooLargeError(BackupError):
    """An answer has more bytes than are taken."""


class _WithinContainer(http.client.HTTPConnection):
    """A connection to a port of a container that is on no network."""

    def __init__(self, pid: int, port: int, timeout: float) -> None:
        super().__init__("127.0.0.1", port, timeout=timeout)
        self.pid = pid

    def connect(self) -> None:
        """Make the socket in the container's network namespace; it stays there.

        Raises:
            OSError: the container has ended, this is not root, or nobody listens.
        """
        failed: list[OSError] = []

        def enter() -> None:
            try:
                with open(f"/proc/{self.pid}/ns/net", "rb") as there:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                self.sock = socket.create_connection((self.host, self.port), self.timeout)
            except OSError as error:
                failed.append(error)

        # A namespace is of a thread: this one ends with its own.
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]


def _read(response: http.client.HTTPResponse, most: int, deadline: float) -> bytes:
    """Return an answer, or its first bytes; asked for at once, all of `most` would be reserved."""
    pieces, remaining = [], most
    # Not `read`, which waits for all of it: each byte could come just before the time-out.
    while remaining > 0 and (piece := response.read1(min(remaining, 1 << 20))):
        pieces.append(piece)
        remaining -= len(piece)
        if time.monotonic() > deadline:
            raise TimeoutError("its answer came too slowly")
    if remaining > 0 and response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(pieces)


class Qdrant:
    """Qdrant's REST API: at the container's own address, as it has no published port, or within
    a container that is on no network.
    """

    received = 0  # bytes of the last answer

    def __init__(self, docker: Docker, container: str) -> None:
        record = docker.inspect(container)
        networks = record["NetworkSettings"]["Networks"].values()
        self.address = next((n["IPAddress"] for n in networks if n["IPAddress"]), "")
        self.pid = int(record["State"]["Pid"])
        environment = dict(item.split("=", 1) for item in record["Config"]["Env"] if "=" in item)
        self.headers = {"Content-Type": "application/json"}
        if environment.get("QDRANT__SERVICE__API_KEY"):
            self.headers["api-key"] = environment["QDRANT__SERVICE__API_KEY"]
        self.timeout = docker.timeout
        self.until = time.monotonic() + self.timeout  # for an export as a whole

    def connection(self) -> http.client.HTTPConnection:
        """Return a connection that is not made yet."""
        if self.address:
            return http.client.HTTPConnection(self.address, 6333, timeout=self.timeout)
        return _WithinContainer(self.pid, 6333, self.timeout)

    def ask(
        self, method: str, path: str, body: Any = None, missing: Any = None, most: int = MOST_ANSWER
    ) -> Any:
        """Return the answer's ``result`` (the answer itself where it has none).

        Args:
            missing: what a 404 means; None makes it an error.
            most: bytes of an answer that are taken.

        Raises:
            TooLargeError: the answer has more; no more than those were read.
            BackupError: Qdrant did not answer, or refused.
        """
        connection = self.connection()
        try:
            connection.request(method, path, None if body is None else encode(body), self.headers)
            response = connection.getresponse()
            raw = _read(response, most + 1, time.monotonic() + self.timeout)
        except (OSError, http.client.HTTPException) as error:
            raise BackupError(f"Qdrant did not answer {method} {path}: {error}") from error
        finally:
            connection.close()
        self.received = len(raw)
        if self.received > most:
            raise TooLargeError(
                f"Qdrant answered {method} {path} with more than {most} bytes, which are not read:"
                " the server's memory is for what serves"
            )
        if response.status == 404 and missing is not None:
            return missing
        if response.status != 200:
            words = raw.decode(errors="replace")[:500]
            raise BackupError(f"Qdrant answered {method} {path} with {response.status}: {words}")
        answer = json.loads(raw)
        return answer.get("result", answer)

    def names(self) -> list[str]:
        """Return the names of the collections."""
        return sorted(item["name"] for item in self.ask("GET", "/collections")["collections"])

    def wait(self) -> None:
        """Wait until it is ready."""
        deadline = time.monotonic() + 60
        while True:
            try:
                self.ask("GET", "/collections")
                return
            except BackupError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


def collection_request(info: dict[str, Any]) -> dict[str, Any]:
    """Return the request that makes a collection like the one Qdrant described."""
    config = info["config"]
    request = dict(config["params"])
    for source, target in (
        ("hnsw_config", "hnsw_config"),
        ("optimizer_config", "optimizers_config"),
        ("wal_config", "wal_config"),
        ("quantization_config", "quantization_config"),
        ("strict_mode_config", "strict_mode_config"),
        ("metadata", "metadata"),
    ):
        request[target] = config.get(source)
    # What is empty is what Qdrant has by default.
    return {name: value for name, value in request.items() if value not in (None, {})}


def index_request(schema: dict[str, Any]) -> Any:
    """Return the ``field_schema`` that makes an index like the one Qdrant described."""
    return schema.get("params") or schema["data_type"]


def qdrant_state(docker: Docker, container: str) -> dict[str, Any]:
    """Return ``{vectors: {collection: points}}``."""
    qdrant = Qdrant(docker, container)
    counted = {}
    for name in qdrant.names():
        path = f"/collections/{quote(name, safe='')}/points/count"
        counted[name] = qdrant.ask("POST", path, {"exact": True})["count"]
    return {"vectors": counted}


class _Circle:
    """Notice an offset that comes again: it begins a circle.

    One is remembered, at distances that double (Brent), so that memory and time stay small however
    many pages there are.
    """

    def __init__(self) -> None:
        self.remembered: Any = None
        self.steps, self.distance = 0, 1

    def closes(self, offset: Any) -> bool:
        """Return whether an offset is the one that is remembered."""
        return bool(offset == self.remembered)

    def step(self, offset: Any) -> None:
        """Count an offset, and remember it when its turn has come."""
        self.steps += 1
        if self.steps == self.distance:
            self.remembered, self.steps, self.distance = offset, 0, 2 * self.distance


def _page(qdrant: Qdrant, path: str, ask: dict[str, Any], name: str) -> dict[str, Any]:
    """Return one page of a collection; of large points `ask` gets a smaller limit.

    Raises:
        BackupError: a point alone is too large, and named.
    """
    while True:
        try:
            most = MOST_ANSWER if ask["limit"] == 1 else MOST_PAGE
            page: dict[str, Any] = qdrant.ask("POST", path, ask, most=most)
            return page
        except TooLargeError as error:
            if ask["limit"] > 1:
                ask["limit"] //= 2
                continue
            bare = {**ask, "with_payload": False, "with_vector": False}
            point = qdrant.ask("POST", path, bare)["points"][0]["id"]
            raise BackupError(
                f"The point {point!a} of the collection {name!a} has more than {MOST_ANSWER >> 20}"
                " MiB with its vectors and payload, so Qdrant was not exported: keep what is that"
                " large as a file or in the database, or delete the point"
            ) from error


def refuse_oversize(points: list[dict[str, Any]], name: str) -> None:
    """Raise where no request could bring a point back; its numbers may be longer than they came."""
    for point in points:
        if len(encode({"points": [point]})) > MOST_REQUEST:
            raise BackupError(
                f"The point {point['id']!a} of the collection {name!a} has more than"
                f" {MOST_REQUEST >> 20} MiB, which Qdrant takes in no request, so Qdrant was not"
                " exported: keep what is that large as a file or in the database, or delete the"
                " point"
            )


def _pages(qdrant: Qdrant, name: str) -> Iterator[list[dict[str, Any]]]:
    """Return all points of a collection, page after page; of large points few at a time.

    Raises:
        BackupError: a point alone is too large, and named; or the pages have no end.
    """
    path = f"/collections/{quote(name, safe='')}/points/scroll"
    ended = f"Qdrant hands out the collection {name!a} without an end, so it was not exported"
    remedy = (
        "Look at its log, and at the number of its points. A collection that really takes that"
        " long needs a higher backup_timeout"
    )
    circle = _Circle()
    # Few at first: Qdrant, which serves meanwhile, has the whole answer in its memory too.
    ask: dict[str, Any] = {"limit": 1, "with_payload": True, "with_vector": True}
    while True:
        page = _page(qdrant, path, ask, name)
        fields = ("id", "vector", "payload")
        points = [{key: point.get(key) for key in fields} for point in page["points"]]
        refuse_oversize(points, name)
        if points:
            yield points
        if page.get("next_page_offset") is None:
            return
        ask["offset"] = page["next_page_offset"]
        if circle.closes(ask["offset"]):
            raise BackupError(
                f"{ended}: after {ask['offset']!a} it came to the same point. {remedy}"
            )
        if time.monotonic() > qdrant.until:
            raise BackupError(f"{ended} within {qdrant.timeout} s (backup_timeout). {remedy}")
        circle.step(ask["offset"])
        # Also after a large one: that is no reason to ask for each small one alone.
        if qdrant.received < MOST_PAGE // 4:
            ask["limit"] = min(2 * ask["limit"], PAGE)


def _put(qdrant: Qdrant, base: str, points: list[dict[str, Any]]) -> None:
    """Write points, in as many requests as they need: Qdrant refuses one of more than 32 MB."""
    if len(points) > 1 and len(encode(points)) > MOST_PAGE:
        half = len(points) // 2
        _put(qdrant, base, points[:half])
        _put(qdrant, base, points[half:])
    else:
        qdrant.ask("PUT", f"{base}/points?wait=true", {"points": points})


def dump_qdrant(docker: Docker, container: str, target: IO[bytes]) -> dict[str, Any]:
    """Write every collection's settings, indexes and points as JSON lines.

    A logical export and not Qdrant's snapshot: it is the same for Qdrant and its stand-in, reads
    back into newer versions, and needs no room beside the collections (`/qdrant/snapshots` is
    memory). A point that is written meanwhile is in it as it was or as it is, whole.
    """
    qdrant = Qdrant(docker, container)
    counted = {}
    with gzip.GzipFile(fileobj=target, mode="wb", mtime=0) as packed:

        def write(**entry: Any) -> None:
            packed.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")

        for name in qdrant.names():
            base = f"/collections/{quote(name, safe='')}"
            info = qdrant.ask("GET", base)
            schema = info.get("payload_schema") or {}
            indexes = {field: index_request(entry_schema) for field, entry_schema in schema.items()}
            write(collection=name, request=collection_request(info), indexes=indexes)
            counted[name] = 0
            for points in _pages(qdrant, name):
                write(points=points)
                counted[name] += len(points)
        aliases = qdrant.ask("GET", "/aliases", missing={"aliases": []})["aliases"]
        write(aliases=aliases)
    return {"vectors": counted}


def restore_qdrant(docker: Docker, container: str, source: IO[bytes]) -> None:
    """Replace all collections by those of an export.

    Raises:
        BackupError: Qdrant refused something; run it again, nothing of it is left half-read.
    """
    qdrant = Qdrant(docker, container)
    for name in qdrant.names():
        qdrant.ask("DELETE", f"/collections/{quote(name, safe='')}")
    base, strict, ended = "", {}, False
    with gzip.GzipFile(fileobj=source) as plain:
        while line := plain.readline(MOST_LINE + 1):
            if len(line) > MOST_LINE:
                raise BackupError(
                    f"The export of Qdrant has a line of more than {MOST_LINE >> 30} GiB, which no"
                    " backup writes: choose another set."
                )
            entry = json.loads(line)
            if "collection" in entry:
                base = f"/collections/{quote(entry['collection'], safe='')}"
                request = dict(entry["request"])
                # Limits of requests would be in the way of the points.
                if limits := request.pop("strict_mode_config", None):
                    strict[base] = limits
                qdrant.ask("PUT", base, request)
                for field, schema in entry["indexes"].items():
                    request = {"field_name": field, "field_schema": schema}
                    qdrant.ask("PUT", f"{base}/index?wait=true", request)
            elif "points" in entry:
                _put(qdrant, base, entry["points"])
            else:
                ended = True
                for limited, limits in strict.items():
                    qdrant.ask("PATCH", limited, {"strict_mode_config": limits})
                actions = [{"create_alias": alias} for alias in entry["aliases"]]
                if actions:
                    qdrant.ask("POST", "/collections/aliases", {"actions": actions})
    if not ended:
        raise BackupError("The export of Qdrant ends too early: choose another set.")
