"""A PostgreSQL of this machine, made as the official image makes one."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest


class Server:
    """A running server; passwords are asked for over TCP, as from another container."""

    def __init__(self, folder: Path, port: int, database: str) -> None:
        self.folder, self.port, self.database = folder, port, database

    def command(self, user: str, database: str = "") -> list[str]:
        """Return the psql of a user within the container."""
        words = ["psql", "-XAtq", "--set", "ON_ERROR_STOP=1", "--host", str(self.folder)]
        return [*words, "--port", str(self.port), "--username", user, database or self.database]

    def sql(self, statement: str, user: str = "", database: str = "") -> str:
        """Return what statements say; a failure raises RuntimeError with the reason."""
        command = [*self.command(user or self.database, database), "--command", statement]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()

    def log_in(self, user: str, password: str, statement: str = "SELECT current_user") -> str:
        """Return what a statement says to a client that comes with a password."""
        url = f"host=127.0.0.1 port={self.port} user={user} dbname={self.database}"
        command = ["psql", "-XAtq", "--no-password", url, "--command", statement]
        environment = {**os.environ, "PGPASSWORD": password}
        environment.pop("PGHOST", None)
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=environment, timeout=20
        )
        return done.stdout.strip() or done.stderr.strip()


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    assert found, "PostgreSQL's server is missing: apt-get install postgresql"
    return found[-1].parent


def _run(*command: str) -> None:
    """Run a program of PostgreSQL, which refuses to be root."""
    words = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    prefix = words if os.getuid() == 0 else []
    subprocess.run([*prefix, *command], check=True, stdout=subprocess.DEVNULL, cwd="/", timeout=60)


def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="crisper-postgres-", dir="/tmp"))
    folder.chmod(0o755)
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    return folder


@cache
def _cluster(user: str, password: str) -> Path:
    """Return data as `initdb` makes it, which takes longer than a copy."""
    folder = _folder()
    atexit.register(shutil.rmtree, folder)
    secret = folder / "password"
    secret.write_text(f"{password}\n")
    if os.getuid() == 0:
        shutil.chown(secret, "postgres", "postgres")
    methods = ("--auth-local", "trust", "--auth-host", "scram-sha-256")
    options = ("--no-sync", "--username", user, "--pwfile", str(secret))
    _run(f"{_programs()}/initdb", *options, *methods, "-D", f"{folder}/data")
    return folder / "data"


@contextmanager
def running_postgres(user: str, database: str, password: str, **settings: str) -> Iterator[Server]:
    """Run a server whose superuser is `user`; the scripts for containers reach it."""
    template, folder = _cluster(user, password), _folder()
    _run("cp", "-a", str(template), f"{folder}/data")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    control = [f"{_programs()}/pg_ctl", "--wait", "-D", f"{folder}/data", "-l", f"{folder}/log"]
    options = f"-c listen_addresses=127.0.0.1 -c fsync=off -p {port} -k {folder}"
    options += "".join(f" -c {name}={value}" for name, value in settings.items())
    _run(*control, "start", "-o", options)
    server = Server(folder, port, database)
    try:
        if database != "postgres":
            server.sql(f"CREATE DATABASE {database}", user, "postgres")
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (
                ("POSTGRES_USER", user),
                ("POSTGRES_DB", database),
                ("PGHOST", str(folder)),
                ("PGPORT", str(port)),
            ):
                patch.setenv(name, value)
            yield server
    finally:
        _run(*control, "stop", "-m", "immediate")
        shutil.rmtree(folder)
