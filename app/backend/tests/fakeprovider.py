"""A stand-in for an outside model provider: OpenAI's protocol over HTTP, answers as scripted."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DIMENSIONS = 8


class Provider:
    """Answers with `script`'s entries one after the other, then as a healthy provider does."""

    def __init__(self) -> None:
        self.script: list[tuple[int, Any]] = []
        self.always: tuple[int, Any] | None = None
        self.silent = False
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        self.over = threading.Event()
        self.url = ""

    def settings(self, key: str = "a-provider-key") -> dict[str, str]:
        """Environment of a process that uses its embeddings."""
        models = {"EMBEDDING_MODEL": "fake-embedding", "QDRANT_COLLECTION": "of-the-provider"}
        return {"OPENAI_BASE_URL": self.url, "OPENAI_API_KEY": key, **models}

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if self.silent:
            self.over.wait()
        if self.script:
            return self.script.pop(0)
        if self.always:
            return self.always
        if path.endswith("/embeddings"):
            vector = [1.0] * DIMENSIONS
            data = [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, _ in enumerate(body["input"])
            ]
            return 200, {"object": "list", "data": data, "model": body["model"], "usage": {}}
        message = {"role": "assistant", "content": "# A report of the model"}
        return 200, {"id": "1", "object": "chat.completion", "choices": [{"message": message}]}


@contextmanager
def provider() -> Iterator[Provider]:
    made = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            made.asked.append((self.path, headers, body))
            status, answer = made.answer(self.path, body)
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Not in the tests' output."""

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                return  # whoever asked has given up

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.url = f"http://127.0.0.1:{server.server_port}/v1"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        made.over.set()
        server.shutdown()
        server.server_close()
