"""Ask every path of the Django application once and tell what came back, as JSON.

    smoke.py URL [--host app.example.com] [--header 'X-Forwarded-Proto: https'] [--insecure]
             [--no-tasks]

Exits with 1 and names what was wrong. Against the application itself the header is needed, behind a
proxy that ends TLS it is not.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import outside

UPLOAD = b"shop" * 1_000_000


class Smoke:
    """The checks; each returns what it saw."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        words = [arguments.url, "/nonexistent", "--host", arguments.host]
        words += ["--websocket-path", "/ws/echo", *(["--insecure"] if arguments.insecure else [])]
        words += [word for header in arguments.header for word in ("--header", header)]
        self.options = outside.parse_arguments(words)
        self.site = outside.Site(self.options)

    async def ask(
        self, path: str, status: int = 200, method: str = "GET", body: bytes = b"", *headers: str
    ) -> outside.Answer:
        """Return an answer.

        Raises:
            AssertionError: it has another status.
        """
        connection = await self.site.connect()
        try:
            length = f"Content-Length: {len(body)}"
            head = self.site.head(method, path, length, "Connection: close", *headers)
            await connection.send(head + body)
            answer = await connection.answer(method)
        finally:
            connection.close()
        if answer.status != status:
            msg = f"{method} {path}: {answer.status} instead of {status}: {answer.body[:200]!r}"
            raise AssertionError(msg)
        return answer

    async def json(self, *arguments: Any) -> Any:
        """Return the JSON of an answer; arguments are those of `ask`."""
        return json.loads((await self.ask(*arguments)).body)

    async def static(self) -> dict[str, Any]:
        """Follow the page to a static file with a hash in its name."""
        page = (await self.ask("/")).body.decode()
        paths = re.findall(r'(?:href|src)="(/static/[^"]+)"', page)
        if len(paths) != 2 or not all(re.search(r"\.[0-9a-f]{12}\.", path) for path in paths):
            msg = f"the page names {paths} instead of two static files with hashes"
            raise AssertionError(msg)
        return {"paths": paths}

    async def upload(self) -> Any:
        """Upload 4 MB."""
        answer = await self.json("/upload", 200, "POST", UPLOAD)
        if answer["sha256"] != hashlib.sha256(UPLOAD).hexdigest():
            msg = f"the upload arrived as {answer}"
            raise AssertionError(msg)
        return answer["bytes"]

    async def events(self) -> float:
        """Return after how many seconds the third event came: about 2, unless it is held back."""
        began, connection = time.monotonic(), await self.site.connect()
        stream = outside.Stream(self.site, self.options, outside.LongLived())
        try:
            await stream.open(connection)
            for _ in range(3):
                await asyncio.wait_for(stream.message(connection), 5)
        finally:
            connection.close()
        return round(time.monotonic() - began, 1)

    async def websocket(self) -> list[str]:
        """Return the first message and an echo."""
        connection = await self.site.connect()
        client = outside.WebSocket(self.site, self.options, outside.LongLived())
        try:
            await client.open(connection)
            first = await asyncio.wait_for(client.message(connection), 5)
            await connection.send(outside.masked_frame(outside.TEXT, b"hello"))
            echo = await asyncio.wait_for(client.message(connection), 5)
        finally:
            connection.close()
        if echo != b"hello" or not isinstance(first, bytes):
            msg = f"the WebSocket sent {first!r} and {echo!r}"
            raise AssertionError(msg)
        return [first.decode(), echo.decode()]

    async def run(self, tasks: bool) -> dict[str, Any]:
        """Return what all checks saw."""
        seen: dict[str, Any] = {
            "health": await self.json("/health/"),
            "whoami": await self.json("/whoami"),
            "static": await self.static(),
            "orders": [await self.json("/orders", 200, "POST"), await self.json("/orders")],
            "upload": await self.upload(),
            "download": len((await self.ask("/download?mb=8")).body),
            "slow": await self.json("/slow?seconds=1"),
            "poll": await self.json("/poll?seconds=1"),
            "login": await self.json("/login", 401, "POST"),
            "events": await self.events(),
            "websocket": await self.websocket(),
        }
        if tasks:
            seen["tasks"] = await self.json("/tasks?count=2", 202, "POST")
        return seen


def main() -> None:
    """Run the checks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--host", default="app.example.com")
    parser.add_argument("--header", action="append", default=[])
    parser.add_argument("--insecure", action="store_true")
    parser.add_argument("--no-tasks", action="store_true", help="there is no broker")
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(Smoke(arguments).run(not arguments.no_tasks)), indent=1))


if __name__ == "__main__":
    main()
