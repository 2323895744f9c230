"""What a hostile service prints fills neither the memory nor the disk of the server."""

from __future__ import annotations

import gzip
import http.client
import io
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import container_exec
import nginx_probe
import pytest
from ansible_collections.crisper.stack.plugins.module_utils import http as https
from ansible_collections.crisper.stack.plugins.module_utils.backup import cipher, free_space
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends import (
    psql,
    qdrant,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.remedies import (
    during_restore,
    explained,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.docker import exec as docker_exec
from ansible_collections.crisper.stack.plugins.module_utils.probes import workers
from ansible_collections.crisper.stack.plugins.module_utils.process import TAIL
from ansible_collections.crisper.stack.plugins.module_utils.remote.run import RemoteError
from ansible_collections.crisper.stack.plugins.module_utils.remote.session import Session

# Prints that many MiB to a stream, then ends with 3.
FLOOD = (
    "import sys; stream = sys.{}.buffer\n"
    "for _ in range({}): stream.write(b'NOTICE: x\\n' * 104858)\n"
    "stream.write(b'the last words\\n'); stream.flush(); sys.exit(3)"
)


def flood(stream: str, mebibytes: int) -> list[str]:
    """Return the command of a process that prints without restraint."""
    return [sys.executable, "-c", FLOOD.format(stream, mebibytes)]


@pytest.fixture
def no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no temporary file be made."""
    monkeypatch.setattr("tempfile.TemporaryFile", lambda *_a, **_k: pytest.fail("a file"))


@pytest.mark.usefixtures("no_files")
def test_messages_without_an_end_stay_off_the_disk() -> None:
    """Regression: a flood of NOTICE filled /tmp while a database was dumped."""
    target = io.BytesIO()
    with pytest.raises(BackupError, match=r"(?s)PostgreSQL was not dumped: .*the last words"):
        docker_exec.Docker().out_of("PostgreSQL was not dumped", flood("stderr", 40), target)
    with pytest.raises(BackupError, match="the last words"):
        docker_exec.Docker().into(
            "PostgreSQL was not restored", flood("stderr", 4), io.BytesIO(b"x")
        )


def test_the_end_of_messages_is_all_that_is_kept() -> None:
    with docker_exec.started(flood("stderr", 8), stdout=subprocess.DEVNULL) as running:
        tail = next(t for t in threading.enumerate() if t.name == "crisper-tail")
        reader = tail._target.__self__  # type: ignore[attr-defined]
        running.wait()
        tail.join()
        assert len(reader._tail) == TAIL
    assert running.errors.endswith("the last words")
    assert len(running.errors) <= 1000


def test_messages_of_what_outlives_the_command_are_not_waited_for_long() -> None:
    script = "echo why >&2; sleep 3 >&2 & exit 4"
    began = time.monotonic()
    with (
        pytest.MonkeyPatch.context() as patch,
        docker_exec.started(["sh", "-c", script], stdout=subprocess.PIPE) as running,
    ):
        patch.setattr(docker_exec.Tail.text, "__defaults__", (0.2,))
        running.stdout.read(0)
    assert running.errors == "why"
    assert time.monotonic() - began < 10


@pytest.mark.usefixtures("no_files")
def test_an_answer_without_an_end_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_exec, "MOST_TEXT", 2 << 20)
    docker = docker_exec.Docker()
    with pytest.raises(BackupError, match="Redis did not answer: it printed more than 2 MiB"):
        docker.text("Redis did not answer", flood("stdout", 1000))
    with pytest.raises(BackupError, match="MariaDB did not answer: it printed more than 2 MiB"):
        docker.answer("MariaDB did not answer", flood("stdout", 1000), b"?" * 100_000)


@pytest.mark.usefixtures("no_files")
def test_what_is_asked_and_what_fails_is_told() -> None:
    docker = docker_exec.Docker()
    assert docker.answer("x", ["cat"], b" a question\n" * 50_000).count("question") == 50_000
    with pytest.raises(BackupError, match=r"^It was not told: “bad”$"):
        docker.text("It was not told", ["sh", "-c", "echo bad >&2; exit 1"])
    with pytest.raises(BackupError, match=r"^It was not told within 3600 s: exit code 124$"):
        docker.text("It was not told", ["sh", "-c", "exit 124"])


def test_what_the_engine_prints_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(docker_exec, "MOST", 1 << 20)
    cli = tmp_path / "docker"
    cli.write_text("#!/bin/sh\nexec yes\n")
    cli.chmod(0o755)
    with pytest.raises(BackupError, match="`docker logs --tail …` printed more than 1 MiB"):
        docker_exec.Docker(str(cli)).run("logs", "--tail", "5", "x")


def test_an_answer_of_postgresql_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psql, "MOST_ROWS", 1 << 20)
    for text in (b"x" * (3 << 20), b"a row\n" * 300_000):
        running = SimpleNamespace(stdin=io.BytesIO(), stdout=io.BytesIO(text))
        with pytest.raises(BackupError, match="PostgreSQL answered with more than 1 MiB"):
            psql.Session(running).ask("SELECT rows")
    running = SimpleNamespace(stdin=io.BytesIO(), stdout=io.BytesIO(b"1\n2\n"))
    assert psql.Session(running).ask("SELECT rows") == ["1", "2"]


SOCKET = 'connection to server on socket "/run/.s.PGSQL.5432" failed: '
MISSING = 'FATAL:  database "shop" does not exist'
DENIED = 'FATAL:  permission denied for database "shop"'
CLOSED = 'FATAL:  database "shop" is not currently accepting connections'


@pytest.mark.parametrize(
    ("said", "seen", "remedy"),
    [
        (f"psql: error: {SOCKET}{CLOSED}", "closed", "ALLOW_CONNECTIONS true"),
        (f"pg_dump: error: {SOCKET}{CLOSED}", "closed", "docker compose exec postgres"),
        (f"psql: error: {SOCKET}{CLOSED}", "open", ""),
        (f"pg_dump: error: {SOCKET}{MISSING}", "missing", "playbooks/restore.yml"),
        (f"psql: error: {MISSING}", "missing", "playbooks/restore.yml"),
        (f"“psql: error: {SOCKET}{MISSING}”", "missing", "playbooks/restore.yml"),
        (f"| psql: error: {SOCKET}{MISSING}\n| more", "missing", "playbooks/restore.yml"),
        (f"psql: error: {SOCKET}{MISSING}", "open", ""),
        (f"psql: error: {SOCKET}{MISSING}", "", ""),
        (f"| psql: error: {SOCKET}{DENIED}\n| DETAIL:  x", "open", "REVOKE … ON DATABASE"),
        (f"“psql: error: {SOCKET}{DENIED.replace('  ', ' ')}”", "open", "The next deploy"),
        (f"psql: error: {SOCKET}{DENIED}", "closed", ""),
        (f"“psql: error: {SOCKET}{MISSING.replace('  ', ' ')}”", "missing", "restore.yml"),
        # What the application makes PostgreSQL say.
        (f"ERROR:  {MISSING}", "missing", ""),
        ('ERROR:  database "shop" does not exist', "missing", ""),
        (f"| ERROR:  x psql: error: {SOCKET}{MISSING}", "missing", ""),
        (f"psql:<stdin>:3: ERROR:  {CLOSED}", "closed", ""),
    ],
)
def test_a_remedy_that_replaces_data_needs_more_than_words(
    said: str, seen: str, remedy: str
) -> None:
    """Regression: a view raised 'database "shop" does not exist', and a restore was advised."""
    told = explained(said, lambda: seen)
    assert told.startswith(said)
    assert remedy in told if remedy else told == said
    assert "restore.yml" not in during_restore(told)


@pytest.mark.usefixtures("no_files")
def test_a_program_in_a_container_floods_no_disk() -> None:
    """Regression: the errors of a session with the application were a file without an end."""
    session = Session(flood("stderr", 40), workers, {})
    with pytest.raises(RemoteError, match="the last words"):
        session.receive(30)


def test_a_probe_of_nginx_is_bounded(run_module: Any, tmp_path: Path) -> None:
    cli = tmp_path / "docker"
    cli.write_text('#!/bin/sh\n[ "$1" = ps ] && echo c1 || exec yes\n')
    cli.chmod(0o755)
    paths = [{"path": "/", "status": [200]}]
    result = run_module(nginx_probe, project="x", docker_cli=str(cli), retries=0, paths=paths)
    assert [answer["ok"] for answer in result["answers"]] == [False]


@pytest.mark.parametrize(
    ("exec_", "timeout", "expected"),
    [
        ('shift; shift; exec "$@"', 60, {"rc": 3, "stdout": "said\n", "stderr": "why\n"}),
        ("exec yes", 60, {"failed": True}),
        ("exec sleep 60", 0.2, {"failed": True}),
    ],
)
def test_a_command_in_a_container_is_bounded(
    run_module: Any, tmp_path: Path, exec_: str, timeout: float, expected: dict[str, Any]
) -> None:
    """Regression: what a compromised worker printed for the status filled the memory."""
    cli = tmp_path / "docker"
    cli.write_text(f"#!/bin/sh\ncase $1 in ps) echo c1 ;; exec) {exec_} ;; esac\n")
    cli.chmod(0o755)
    argv = ["sh", "-c", "echo said; echo why >&2; exit 3"]
    asked = {"project": "x", "service": "worker", "argv": argv, "docker_cli": str(cli)}
    told = run_module(container_exec, **asked, timeout=timeout, most=1 << 20)
    assert {key: told.get(key) for key in expected} == expected
    if told.get("failed"):
        assert told["msg"].startswith("`sh -c echo said; echo why >&2; exit 3 …` in a container of")


def test_a_command_without_a_container_is_told(run_module: Any) -> None:
    asked = {"project": "x", "service": "worker", "argv": ["true"], "docker_cli": "true"}
    told = run_module(container_exec, **asked)
    assert told["failed"]
    assert "no container of service worker of project x runs" in told["msg"]


def test_a_dump_ends_before_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_space, "STEP", 1 << 20)
    free = itertools.chain([5 << 30, 2 << 30], itertools.repeat(1 << 29))
    disk = SimpleNamespace(total=100 << 30)
    monkeypatch.setattr(
        free_space.shutil,
        "disk_usage",
        lambda _: SimpleNamespace(total=disk.total, free=next(free)),
    )
    with (
        pytest.raises(BackupError, match=r"has 512 MiB left after 3 MiB .* 1024 MiB stay free"),
        cipher.written(tmp_path / "dump", "", "") as target,
    ):
        docker_exec.Docker().out_of("not dumped", ["cat", "/dev/zero"], target)
    assert (tmp_path / "dump").stat().st_size < 4 << 20


def test_a_small_dump_is_never_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_space.shutil, "disk_usage", lambda _: pytest.fail("a look"))
    with (
        cipher.written(tmp_path / "dump", "", "") as target,
        gzip.GzipFile(fileobj=target, mode="wb") as packed,
    ):
        packed.write(b"data" * 100_000)
    assert gzip.decompress((tmp_path / "dump").read_bytes()) == b"data" * 100_000


# --- Qdrant, and what else answers over HTTP --------------------------------------------------
@contextmanager
def answering(reply: Any) -> Iterator[int]:
    """Run a server that answers whatever `reply(handler)` writes; its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with_end = reply(self)
            self.send_response(200)
            for name, value in with_end[0].items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for piece in with_end[1]:
                    self.wfile.write(piece)
                    self.wfile.flush()
            except OSError:
                pass

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_port
        server.shutdown()


def api(port: int, timeout: float = 30) -> qdrant.Qdrant:
    """Return Qdrant at a port of this machine."""
    made = qdrant.Qdrant.__new__(qdrant.Qdrant)
    made.headers, made.timeout, made.until = {}, timeout, time.monotonic() + timeout
    made.connection = lambda: http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize("circle", [1, 2, 7])
def test_pages_that_go_round_in_a_circle_end(circle: int) -> None:
    """Regression: a Qdrant whose pages have no end filled the disk."""
    asked = itertools.count()

    def reply(_handler: Any) -> tuple[dict[str, str], Any]:
        page = {"points": [{"id": 1}], "next_page_offset": next(asked) % circle}
        return {}, [json.dumps({"result": page}).encode()]

    with answering(reply) as port, pytest.raises(BackupError, match="'items' without an end"):
        for _page in qdrant._pages(api(port), "items"):
            pass
    assert next(asked) < 50


def test_pages_that_always_go_on_end_with_the_time() -> None:
    asked = itertools.count()

    def reply(_handler: Any) -> tuple[dict[str, str], Any]:
        page = {"points": [], "next_page_offset": next(asked)}
        return {}, [json.dumps({"result": page}).encode()]

    with (
        answering(reply) as port,
        pytest.raises(BackupError, match=r"within 0.3 s \(backup_timeout\)"),
    ):
        for _page in qdrant._pages(api(port, 0.3), "items"):
            pass


def test_an_answer_that_trickles_ends_with_the_time() -> None:
    def reply(_handler: Any) -> tuple[dict[str, str], Any]:
        return {"Content-Length": "100000"}, (time.sleep(0.05) or b" " for _ in range(1000))

    began = time.monotonic()
    with answering(reply) as port, pytest.raises(BackupError, match="came too slowly"):
        api(port, 0.4).ask("GET", "/")
    assert time.monotonic() - began < 5


def test_an_answer_that_is_cut_off_is_told() -> None:
    with (
        answering(lambda _: ({"Content-Length": "9"}, [b"half"])) as port,
        pytest.raises(BackupError, match="did not answer GET /: IncompleteRead"),
    ):
        api(port).ask("GET", "/")


def test_a_page_without_an_end_is_no_more_than_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https, "MOST", 1 << 20)
    with answering(lambda _: ({}, itertools.repeat(os.urandom(1 << 16)))) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        assert https.get(connection, "/", {}) == (200, "")
