"""A PostgreSQL of this machine, made as the official image makes one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def running_postgres(user: str, database: str, password: str) -> Iterator[Server]:
    """Run a server whose superuser is `user`; the scripts for containers reach it."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    assert found, "PostgreSQL's server is missing: apt-get install postgresql"
    programs = found[-1].parent
    folder = Path(tempfile.mkdtemp(prefix="crisper-postgres-", dir="/tmp"))
    folder.chmod(0o755)
    (folder / "password").write_text(f"{password}\n")
    setpriv: list[str] = []
    if os.getuid() == 0:  # which PostgreSQL refuses to run as
        for path in (folder, folder / "password"):
            shutil.chown(path, "postgres", "postgres")
        setpriv = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(*command: str) -> None:
        subprocess.run(
            [*setpriv, *command], check=True, stdout=subprocess.DEVNULL, cwd=folder, timeout=60
        )

    methods = ("--auth-local", "trust", "--auth-host", "scram-sha-256")
    pwfile = ("--pwfile", f"{folder}/password")
    run(
        f"{programs}/initdb",
        "--no-sync",
        "--username",
        user,
        *methods,
        *pwfile,
        "-D",
        f"{folder}/data",
    )
    control = [f"{programs}/pg_ctl", "--wait", "-D", f"{folder}/data", "-l", f"{folder}/log"]
    options = f"-c listen_addresses=127.0.0.1 -c fsync=off -p {port} -k {folder}"
    run(*control, "start", "-o", options)
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
        run(*control, "stop", "-m", "fast")
        shutil.rmtree(folder)
