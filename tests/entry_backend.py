"""Backend of the entry point's tests: bytes that both sides can check, in a container.

    GET /bytes/<n>   <n> bytes of `pattern`, with Content-Length
    GET /json/<n>    about <n> bytes of JSON, chunked
    POST (any path)  reads the body; answers its length, or 422 where it is not `pattern`
    GET (any other)  ok

Also a module: the clients of tests/entry_lab.py take `pattern` from here.
"""

from __future__ import annotations

import asyncio
import random
import sys

BLOCK = 1 << 18
# 251 is prime: a block that is lost or swapped does not look like its neighbour.
PATTERN = (bytes(range(251)) * (3 * BLOCK // 251 + 2))[: 3 * BLOCK]
# Half its size when it is compressed, because it is longer than deflate's window (32 kB): what
# compresses better fits into the buffers of a socket at once.
DIGEST = random.Random(1).randbytes(40_000).hex().encode()  # noqa: S311
ROW = b'{"digest": "%b"},\n' % DIGEST


def pattern(start: int, length: int) -> memoryview:
    """Return bytes `start` to `start + length` of the endless pattern; at most 2 BLOCK of them."""
    return memoryview(PATTERN)[start % 251 : start % 251 + length]


async def send_bytes(writer: asyncio.StreamWriter, total: int) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
    sent = 0
    while sent < total:
        block = pattern(sent, min(BLOCK, total - sent))
        writer.write(block)
        await writer.drain()
        sent += len(block)


async def send_json(writer: asyncio.StreamWriter, total: int) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
    writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(total // len(ROW) + 1):
        writer.write(b"%x\r\n%b\r\n" % (len(ROW), ROW))
        await writer.drain()
    writer.write(b"0\r\n\r\n")


async def read_body(reader: asyncio.StreamReader, total: int) -> bool:
    """Read a body; return whether it is `pattern`."""
    got, right = 0, True
    while got < total:
        data = await reader.read(min(BLOCK, total - got))
        if not data:
            raise ConnectionError("the body ends early")
        right = right and data == pattern(got, len(data))
        got += len(data)
    return right


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the requests of one connection."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            method, path, _ = head.split(" ", 2)
            fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
            length = int(fields.get("content-length", 0))
            kind, _, number = path.strip("/").partition("/")
            if method == "POST":
                right = await read_body(reader, length)
                text = b"%d" % length
                status = b"200 OK" if right else b"422 Wrong"
                writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n" % (status, len(text)))
                writer.write(text)
            elif kind == "bytes":
                await send_bytes(writer, int(number))
            elif kind == "json":
                await send_json(writer, int(number))
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            await writer.drain()
            if fields.get("connection") == "close":
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    finally:
        writer.close()


async def main(port: int) -> None:
    """Serve until the container is stopped."""
    server = await asyncio.start_server(serve, "0.0.0.0", port, limit=BLOCK, backlog=4096)  # noqa: S104
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
