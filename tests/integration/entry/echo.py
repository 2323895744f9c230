"""An application of the least kind: it says what arrived, and speaks WebSocket and event streams.

Runs as a container; answers on the ports of its arguments.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import sys
import threading
import time

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
died: set[str] = set()


class Handler(http.server.BaseHTTPRequestHandler):
    """One request, told back as JSON unless its path asks for something else."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer by what the path holds."""
        if "dies-once" in self.path and self.path not in died:
            died.add(self.path)
            self.close_connection = True
        elif self.headers.get("Upgrade", "").lower() == "websocket":
            self.echo_frames()
        elif "events" in self.path:
            self.send_events()
        elif "no-slash" in self.path and not self.path.endswith("/"):
            # As Starlette: with the scheme that it was asked by, which is plain HTTP.
            self.send_response(307)
            host = self.headers["Host"]
            if "odd-host" in self.path:
                # As Starlette does for a host that is none to it.
                address, port = self.connection.getsockname()[:2]
                host = f"{address}:{port}"
            self.send_header("Location", f"http://{host}{self.path}/")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif "slow" in self.path:
            time.sleep(2)
            self.tell({})
        elif "first-byte" in self.path:
            self.close_connection = True
            self.tell({"first": self.rfile.read(1).decode()})
        else:
            length = int(self.headers.get("Content-Length") or 0)
            self.tell({"length": len(self.rfile.read(length))})

    def do_POST(self) -> None:
        """Answer as to a GET."""
        self.do_GET()

    def tell(self, more: dict[str, object]) -> None:
        """Answer with what arrived."""
        headers: dict[str, list[str]] = {}
        for name, value in self.headers.items():
            headers.setdefault(name.lower(), []).append(value)
        port = self.server.server_address[1]
        body = json.dumps({"headers": headers, "path": self.path, "port": port, **more}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if "own-cache" in self.path:
            self.send_header("Cache-Control", "private")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_events(self) -> None:
        """Send three events, 0.4 s apart, without a word on buffering."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(3):
            self.wfile.write(b"data: %d\n\n" % number)
            time.sleep(0.4)
        self.close_connection = True

    def echo_frames(self) -> None:
        """Take a WebSocket handshake and send short text frames back until one is a close."""
        key = self.headers["Sec-WebSocket-Key"] + GUID
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()  # noqa: S324
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", accept)
        self.end_headers()
        while True:
            first, length = self.rfile.read(2)
            mask = self.rfile.read(4)
            data = bytes(
                byte ^ mask[index % 4] for index, byte in enumerate(self.rfile.read(length & 0x7F))
            )
            self.wfile.write(bytes((first, len(data))) + data)
            if first & 0x0F == 8:
                break
        self.close_connection = True


for one in sys.argv[1:]:
    server = http.server.ThreadingHTTPServer(("", int(one)), Handler)
    threading.Thread(target=server.serve_forever).start()
