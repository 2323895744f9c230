"""Migrations that are cut off, with a real PostgreSQL and real one-off containers.

Nothing here waits by the clock: what is to be interrupted waits for a lock in the database that the
test holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = f"crisper-mig-{os.getpid()}"
OLD, B, C = (f"2026112{day}t080000z-{day}{day}{day}{day}0000" for day in "123")
LONGEST = 60  # seconds for anything
COMPOSE = """
name: {project}
x-labels: &labels {{crisper.stack: {project}, crisper.release: {release}}}
services:
  postgres:
    image: postgres:17-trixie
    command: [postgres, -c, fsync=off, -c, shared_buffers=16MB]
    environment: {{POSTGRES_USER: shop, POSTGRES_DB: shop, POSTGRES_HOST_AUTH_METHOD: trust}}
    tmpfs: [/var/lib/postgresql/data]
  backend:
    image: postgres:17-trixie
    init: true
    restart: unless-stopped
    environment: {{PGHOST: postgres, PGUSER: shop, PGDATABASE: shop, SECRET: s3cret}}
    labels: *labels
"""
MODULE = """
import importlib, json, sys
sys.path[:0] = [sys.argv[1] + "/library", sys.argv[1] + "/collections"]
from ansible.module_utils.testing import patch_module_args
module = importlib.import_module(sys.argv[2])
with patch_module_args(json.load(sys.stdin)):
    module.main()
"""


def docker(*arguments: str, **more: Any) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, **more)
    assert done.returncode == 0, f"docker {arguments}: {done.stderr}"
    return done.stdout.strip()


def psql(*statements: str, after: str = "") -> list[str]:
    """A command of the backend: statements, each in a transaction of its own, and words."""
    script = f"set -e; psql -XqAt -v ON_ERROR_STOP=1 -c {{}}; echo '{after}'"
    return ["sh", "-c", script.format(" -c ".join(f'"{each}"' for each in statements))]


def waits(lock: int, log: str) -> list[str]:
    """A command that waits for a lock and then leaves a row; how often it began is known too."""
    add = "INSERT INTO log VALUES ('{} {}')".format
    held = f"SELECT pg_advisory_lock({lock})"
    return psql(add(log, "begun"), held, add(log, "ended"), after=f"{log}, irreversible")


class Stack:
    """A stack's folder with releases, and its database."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for release in (OLD, B, C):
            folder = root / "releases" / release
            folder.mkdir(parents=True)
            text = COMPOSE.format(project=PROJECT, release=release)
            (folder / "docker-compose.prod.yml").write_text(text)
            manifest = {"id": release, "images": {}, "verified": release == OLD and {"tasks": []}}
            (folder / "manifest.json").write_text(json.dumps(manifest))
        (root / "current").symlink_to(f"releases/{OLD}")

    def sql(self, statement: str) -> str:
        return docker(
            *("exec", f"{PROJECT}-postgres-1", "psql", "-XqAt", "-U", "shop", "-c", statement)
        )

    def until(self, true: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> None:
        deadline = time.monotonic() + LONGEST
        while not true():
            assert time.monotonic() < deadline
            if process is not None:
                assert process.poll() is None, process.communicate()
            time.sleep(0.05)

    def waiting(self) -> bool:
        """Whether a session waits for a lock that the test holds."""
        return self.sql("SELECT count(*) FROM pg_locks WHERE NOT granted") != "0"

    @contextmanager
    def lock(self, statement: str) -> Iterator[None]:
        """A lock that is held meanwhile."""
        command = ["docker", "exec", "-i", f"{PROJECT}-postgres-1", "psql", "-XqAt", "-U", "shop"]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes) as session:
            session.stdin.write(f"BEGIN; {statement}; SELECT 'held';\n")
            session.stdin.flush()
            while "held" not in session.stdout.readline():
                pass
            yield
            session.stdin.close()
            session.wait(LONGEST)

    def manifest(self, release: str = B) -> dict[str, Any]:
        return json.loads((self.root / "releases" / release / "manifest.json").read_text())

    def log(self) -> list[str]:
        return self.sql("SELECT what FROM log").splitlines()

    def start(self, module: str = "database_migrate", **params: Any) -> subprocess.Popen[str]:
        """A module as Ansible runs it: a process of its own with its result on its output."""
        asked = {"root": str(self.root), "project": PROJECT, **params}
        process = subprocess.Popen(
            [sys.executable, "-c", MODULE, str(ROOT), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(asked))
        process.stdin.close()
        process.stdin = None
        return process

    def migration(self, release: str = B, **params: Any) -> subprocess.Popen[str]:
        params.setdefault("command", psql("INSERT INTO log VALUES ('migrated')"))
        return self.start(release=release, current=OLD, **params)

    def result(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        out, err = process.communicate(timeout=LONGEST)
        assert out, err
        return json.loads(out)

    def waits_for(self, process: subprocess.Popen[str], kind: str) -> None:
        """Until a module does nothing but wait for a one-off container."""

        def children() -> list[str]:
            ids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            paths = (Path(f"/proc/{each}/cmdline") for each in ids)
            return [path.read_text() for path in paths if path.exists()]

        self.until(lambda: any(f"\0wait\0{PROJECT}-{kind}" in c for c in children()), process)

    def kill(self, process: subprocess.Popen[str]) -> None:
        process.kill()
        process.wait(LONGEST)

    def dump(self, release: str = B) -> str:
        return hashlib.sha256((self.root / f"backups/{release}.dump").read_bytes()).hexdigest()

    def commands(self) -> str:
        return docker("ps", "--all", "--quiet", "--filter", f"name={PROJECT}-[mhc]")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("postgres")
    (folder / "compose.yml").write_text(COMPOSE.format(project=PROJECT, release=OLD))
    docker("compose", "up", "--detach", "postgres", cwd=folder)
    try:
        ready = ["docker", "exec", f"{PROJECT}-postgres-1", "pg_isready", "-q", "-h", "127.0.0.1"]
        deadline = time.monotonic() + LONGEST
        while subprocess.run(ready, capture_output=True).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield
    finally:
        left = docker("ps", "--all", "--quiet", "--filter", f"name={PROJECT}-[mhc]").split()
        if left:
            docker("rm", "--force", *left)
        docker("compose", "down", "--timeout", "0", "--volumes", cwd=folder)


@pytest.fixture
def stack(postgres: None, tmp_path: Path) -> Stack:
    stack = Stack(tmp_path)
    stack.sql(
        "DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE log (what text);"
        " CREATE TABLE items AS SELECT n FROM generate_series(1, 100) n"
    )
    return stack


def test_killed_in_its_dump_it_begins_anew_and_nobody_goes_on_dumping(stack: Stack) -> None:
    waiting = "SELECT pid FROM pg_locks WHERE NOT granted"
    with stack.lock("LOCK TABLE items IN ACCESS EXCLUSIVE MODE"):
        first = stack.migration()
        stack.until(stack.waiting, first)
        old = stack.sql(waiting)
        stack.kill(first)
        assert stack.manifest()["migration"]["state"] == "dumping"
        assert (stack.root / f"backups/.{B}.dump").exists()
        second = stack.migration()
        # The session of the first one is ended; another waits, alone.
        stack.until(lambda: stack.sql(waiting) not in ("", old), second)
        assert "\n" not in stack.sql(waiting)
    answer = stack.result(second)
    assert (answer["changed"], stack.log()) == (True, ["migrated"])
    assert answer["backup"]["sha256"] == stack.dump()
    assert [path.name for path in stack.root.glob("backups/*")] == [f"{B}.dump"]
    assert stack.manifest()["irreversible"] is False
    assert stack.commands() == ""


def test_killed_in_its_hooks_each_ends_once_and_the_dump_stays(stack: Stack) -> None:
    hooks = {
        "before_migrate": [{"name": "pre", "command": waits(1, "pre"), "timeout": 60}],
        "after_migrate": [{"name": "post", "command": waits(2, "post"), "timeout": 60}],
    }
    with stack.lock("SELECT pg_advisory_lock(2)"):
        with stack.lock("SELECT pg_advisory_lock(1)"):
            first = stack.migration(hooks=hooks)
            stack.until(stack.waiting, first)
            stack.kill(first)
            before = stack.dump()
            second = stack.migration(hooks=hooks)
            stack.waits_for(second, "hook-before_migrate-0")
            assert stack.log() == ["pre begun"]
        stack.until(lambda: "post begun" in stack.log(), second)
        stack.until(stack.waiting, second)
        stack.kill(second)
        third = stack.migration(hooks=hooks)
        stack.waits_for(third, "hook-after_migrate-0")
    answer = stack.result(third)
    assert stack.log() == ["pre begun", "pre ended", "migrated", "post begun", "post ended"]
    assert (answer["pending"], stack.dump()) == (False, before)
    assert "it ended with exit code 0" in str(answer["warnings"])
    assert stack.commands() == ""


def test_killed_in_the_migration_it_runs_once_and_blocks_the_way_back(stack: Stack) -> None:
    owner = {"id": "two", "who": "me", "controller": "here", "process": "1"}
    with stack.lock("SELECT pg_advisory_lock(1)"):
        first = stack.migration(command=waits(1, "B"))
        stack.until(stack.waiting, first)
        stack.kill(first)
        known = stack.manifest()
        assert (known["migration"]["state"], known["irreversible"]) == ("started", True)
        before = stack.dump()
        asked = {"purpose": "rollback", "put_back": {"id": OLD}, "owner": owner}
        begin = stack.start("deploy_begin", **asked)
        stack.waits_for(begin, "migrate")
        assert stack.log() == ["B begun"]
    problem = stack.result(begin)["put_back"]["problem"]
    assert f"has an irreversible migration since (release {B})" in problem
    assert f"backups/{B}.dump" in problem
    steps = [json.loads(line)["step"] for line in (stack.root / "journal.jsonl").open()]
    assert steps == ["begin", "wait"]
    answer = stack.result(stack.migration(command=waits(1, "B")))
    assert (answer["pending"], answer["changed"], stack.log()) == (
        *(False, False),
        ["B begun", "B ended"],
    )
    known = stack.manifest()
    assert (known["migration"]["state"], known["migration"]["exit_code"]) == ("done", 0)
    assert (known["irreversible"], known["migrated"]) == (True, True)
    assert known["migration"]["uncertain"] is False
    assert (known["backup"]["sha256"], stack.dump()) == (before, before)
    assert stack.commands() == ""


def test_a_migration_of_a_release_that_was_given_up_comes_before_another(stack: Stack) -> None:
    with stack.lock("SELECT pg_advisory_lock(1)"):
        first = stack.migration(command=waits(1, "B"))
        stack.until(stack.waiting, first)
        stack.kill(first)
        second = stack.migration(C)
        stack.waits_for(second, "migrate")
        assert not (stack.root / f"backups/{C}.dump").exists()
    answer = stack.result(second)
    assert stack.log() == ["B begun", "B ended", "migrated"]
    assert (stack.manifest(B)["irreversible"], stack.manifest(C)["irreversible"]) == (True, False)
    assert f"of release {B}" in str(answer["warnings"])
    assert stack.commands() == ""


def test_without_its_controller_it_ends_the_step_and_begins_no_other(stack: Stack) -> None:
    hook = psql("INSERT INTO log VALUES ('hook')")
    hooks = {"after_migrate": [{"name": "post", "command": hook, "timeout": 60}]}
    with stack.lock("SELECT pg_advisory_lock(1)"):
        first = stack.migration(command=waits(1, "B"), hooks=hooks)
        stack.until(stack.waiting, first)
        assert first.stdout is not None
        first.stdout.close()  # as SSH does when its client is killed
    first.wait(LONGEST)
    assert stack.log() == ["B begun", "B ended"]
    assert stack.manifest()["migration"]["state"] == "done"
    assert stack.commands() == ""
    answer = stack.result(stack.migration(command=waits(1, "B"), hooks=hooks))
    assert (answer["pending"], stack.log()) == (False, ["B begun", "B ended", "hook"])


def test_commands_after_the_migration_run_once_though_none_was_pending(stack: Stack) -> None:
    hook = psql("INSERT INTO log VALUES ('hook')")
    hooks = {"after_migrate": [{"name": "post", "command": hook, "timeout": 60}]}
    for changed in (True, False):
        answer = stack.result(stack.migration(check_command=["true"], hooks=hooks))
        assert (answer["pending"], answer["changed"]) == (False, changed)
    assert stack.log() == ["hook"]
    assert not stack.manifest().get("migrated")


def test_what_nobody_saw_the_end_of_blocks_the_way_back(stack: Stack) -> None:
    with stack.lock("SELECT pg_advisory_lock(1)"):
        first = stack.migration(command=waits(1, "B"))
        stack.until(stack.waiting, first)
        stack.kill(first)
        docker("rm", "--force", f"{PROJECT}-migrate-{B}")
        answer = stack.result(stack.start(state="collected"))
    assert answer["changed"] is True
    assert "its container is gone" in str(answer["warnings"])
    known = stack.manifest()
    assert (known["migration"]["state"], known["irreversible"]) == ("unknown", True)
    before = stack.dump()
    # It goes on all the same, over the same dump, and what nobody saw is not forgotten.
    assert stack.result(stack.migration())["backup"]["sha256"] == before
    known = stack.manifest()
    assert (known["migration"]["state"], known["migration"]["uncertain"]) == ("done", True)
    assert known["irreversible"] is True


def test_an_extension_that_only_a_superuser_makes_is_told_with_its_variable(stack: Stack) -> None:
    refused = 'ERROR: permission denied to create extension "vector"'
    answer = stack.result(stack.migration(command=["sh", "-c", f"echo '{refused}' >&2; exit 1"]))
    assert answer["failed"] is True
    assert "exit code 1. Name the extension in database_extensions:" in answer["msg"]


@pytest.fixture
def attacker() -> Iterator[str]:
    """A container of the stack that holds every connection of PostgreSQL."""
    name = f"{PROJECT}-attacker"
    packet = r"\0\0\0\41\0\3\0\0user\0shop\0database\0shop\0\0"
    once = f"exec {{fd}}<>/dev/tcp/postgres/5432; printf '{packet}' >&$fd"
    options = ("--detach", "--init", "--name", name, "--network", f"{PROJECT}_default")
    script = f"for i in {{1..110}}; do {once}; done; echo all; sleep 1000"
    docker("run", *options, "postgres:17-trixie", "bash", "-c", script)
    try:
        deadline = time.monotonic() + LONGEST
        while "all" not in docker("logs", name):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield name
    finally:
        docker("rm", "--force", name)


def test_a_deploy_that_migrates_names_who_holds_all_connections(
    stack: Stack, attacker: str
) -> None:
    """Regression: the superuser has no connection left to ask for the holders either."""
    answer = stack.result(stack.migration())
    assert answer["failed"] is True
    assert "The database was not dumped" in answer["msg"]
    assert f" of container {attacker} (" in answer["msg"]
    failing = ["sh", "-c", "psql -c 'SELECT 1'"]
    alone = stack.result(stack.migration(command=failing, backup=False))
    assert "PostgreSQL has no connection left. Who holds" in alone["msg"]
    for each in (answer, alone):
        command = each["msg"].partition("on the server: ")[2].partition(";")[0]
        assert command == f"docker stop {attacker}"
    subprocess.run(["sh", "-c", command], check=True, stdout=subprocess.DEVNULL)
    stack.until(lambda: stack.result(stack.migration())["changed"])
    assert stack.log() == ["migrated"]


def test_a_migration_that_hangs_is_ended_in_time(stack: Stack) -> None:
    answer = stack.result(stack.migration(command=["sleep", "1000"], timeout=1))
    assert answer["failed"] is True
    assert "did not end within its time limit of 1 s" in answer["msg"]
    assert stack.commands() == ""


def test_a_migration_that_fails_says_so_and_keeps_no_secret_in_its_record(stack: Stack) -> None:
    failing = [
        "sh",
        "-c",
        "echo Running 7 to 8, irreversible; echo postgresql://u:pw@h >&2; exit 3",
    ]
    answer = stack.result(stack.migration(command=failing))
    assert answer["failed"] is True
    assert answer["msg"].startswith("The migration (sh -c echo Running")
    assert "failed with exit code 3. Correct stack_app.migrate.command" in answer["msg"]
    assert answer["msg"].endswith("postgresql://u:***@h")
    assert f"the dump from before it is {stack.root}/backups/{B}.dump" in answer["msg"]
    known = stack.manifest()
    assert (known["migration"]["state"], known["irreversible"]) == ("failed", True)
    assert "s3cret" not in json.dumps(known)
    assert stack.commands() == ""
