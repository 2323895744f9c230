"""What keeps the stack busy: molecule/shared/load.py, and items whose embeddings are made anew."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from load import call

ROOT = Path(__file__).resolve().parents[2]
QUEUES = "default,embeddings"
SETTLE = 150  # seconds for what was accepted; more than a lease and a retry
# Redis answers it: it fails while Redis is away, and is counted for itself.
BESIDE = "/api/task/none"


class Load:
    """20 requests a second, 2 of a path that needs Redis beside them, and 3 tasks a second."""

    def __init__(self, url: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.stop = Path(self.folder.name) / "stop"
        options = ["--rate=20", f"--beside={BESIDE}", "--tasks-per-second=3", "--longest=5"]
        options += [f"--queues={QUEUES}", f"--settle={SETTLE}"]
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "molecule/shared/load.py"), url, str(self.stop), *options],
            stdout=subprocess.PIPE,
            text=True,
        )

    def end(self) -> dict[str, Any]:
        """End it, wait for what was accepted, and tell what came of it."""
        self.stop.touch()
        try:
            output = self.process.communicate(timeout=SETTLE + 120)[0]
        finally:
            self.process.kill()
            self.folder.cleanup()
        return json.loads(output)


class Embeddings:
    """A real task of the application every second: PostgreSQL, the model and Qdrant take part."""

    def __init__(self, url: str, password: str) -> None:
        self.url = url
        login = {"username": "admin", "password": password}
        self.token = call(f"{url}/admin/login", login)["access_token"]
        items = [{"title": f"Item {n}", "content": f"What is known of {n}."} for n in range(300)]
        self.items = [i["id"] for i in call(f"{url}/api/admin/items", items, self.token)]
        self.accepted: list[int] = []
        self.refused = 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._send, daemon=True)
        self.thread.start()

    def _send(self) -> None:
        for item in self.items:
            if self.over.wait(1):
                return
            try:
                bulk = {"item_ids": [item]}
                call(f"{self.url}/api/admin/bulk/regenerate-embeddings", bulk, self.token)
                self.accepted.append(item)
            except OSError:
                self.refused += 1

    def stop(self) -> None:
        """Send no more."""
        self.over.set()
        self.thread.join(60)

    def status(self) -> dict[int, tuple[str, str]]:
        """Status and error of the items that were accepted."""
        try:
            listed = call(f"{self.url}/api/admin/items?limit=500", token=self.token)
        except OSError:
            return {}
        wanted = set(self.accepted)
        return {i["id"]: (i["status"], i["error"] or "") for i in listed if i["id"] in wanted}

    def ended(self) -> bool:
        """Whether every accepted item has its embedding, or failed."""
        status = self.status()
        return len(status) == len(self.accepted) and all(
            state in ("COMPLETED", "FAILED") for state, _ in status.values()
        )

    def summary(self) -> dict[str, Any]:
        """What came of it."""
        status = self.status()
        lost = [item for item in self.accepted if status.get(item, ("", ""))[0] != "COMPLETED"]
        errors = sorted({": ".join(status.get(item, ("gone", ""))) for item in lost})
        numbers = {"accepted": len(self.accepted), "refused": self.refused, "lost": len(lost)}
        return {**numbers, "errors": errors[:5]}
