"""Real servers for the tests: Redis and workers as processes of their own."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pytest
import redis

APP = Path(__file__).parents[1]
OPERATOR, APPLICATION = "operators-password", "applications-password"


def application_user() -> str:
    """The application's Redis user, with the rules that a deploy gives it."""
    source = (APP.parent / "module_utils/crisper/model/redis_users.py").read_text()
    rules = re.search(r"^RULES = (\(.*\))$", source, re.MULTILINE)
    assert rules is not None, "module_utils/crisper/model/redis_users.py has no RULES of one line"
    digest = hashlib.sha256(APPLICATION.encode()).hexdigest()
    return " ".join(["user app on", f"#{digest}", *ast.literal_eval(rules[1])])


def free_port() -> int:
    """Below the kernel's own range: no outgoing connection takes it while its server restarts."""
    for port in random.SystemRandom().sample(range(20000, 32000), 100):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port of a hundred tried between 20000 and 31999")


def wait_until(
    true: Callable[[], Any], what: str, seconds: float = 30, log: Path | None = None
) -> Any:
    """The first truthy answer of `true`; fails with what was waited for, and the end of a log."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := true():
            return answer
        time.sleep(0.05)
    end = log.read_text()[-4000:] if log else ""
    pytest.fail(f"not within {seconds} s: {what}\n{end}")


def lines(ledger: Path, word: str) -> list[str]:
    """The task ids of a ledger's lines that begin with `word`, in the order of writing."""
    text = ledger.read_text() if ledger.exists() else ""
    return [line.split()[1] for line in text.splitlines() if line.startswith(word)]


def is_open(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Redis:
    """A Redis server that can be killed and started again with what it had.

    The application's `url` is its own user, as in a stack; `client` may do everything.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def url(self, database: int = 0) -> str:
        return f"redis://app:{APPLICATION}@127.0.0.1:{self.port}/{database}"

    def client(self, database: int = 0) -> redis.Redis:
        return redis.Redis(port=self.port, db=database, password=OPERATOR)

    def start(self) -> None:
        configuration = self.folder / "redis.conf"
        configuration.write_text(
            f"bind 127.0.0.1\nport {self.port}\ndir {self.folder}\nappendonly yes\nsave ''\n"
            f"requirepass {OPERATOR}\n{application_user()}\n"
        )
        command = ["redis-server", str(configuration)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until(lambda: is_open(self.port), "Redis listens")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    if shutil.which("redis-server") is None:
        pytest.fail("redis-server is missing: apt-get install redis-server")
    server = Redis(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@dataclass
class Process:
    """A child in a process group of its own, its output in a file."""

    command: list[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    _output: IO[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(APP), **self.environment}
        self._output = self.log.open("ab")
        self.process = subprocess.Popen(
            self.command,
            env=environment,
            cwd=APP,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def kill(self) -> None:
        """The whole group, whatever state it is in."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self._output is not None:
            self._output.close()
