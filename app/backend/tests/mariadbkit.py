"""A real MariaDB server for the tests, that can be stopped and started with what it had."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pymysql
import pytest
from testkit import free_port, wait_until

NAME, PASSWORD = "crisper", "p@ss:w/rd"


@dataclass
class Mariadb:
    """In a folder of its own under /tmp: its user must be able to look into every parent."""

    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        return Path(f"/tmp/crisper-app-mariadb-{self.port}")

    @property
    def url(self) -> str:
        return f"mysql+pymysql://{NAME}:p%40ss%3Aw%2Frd@127.0.0.1:{self.port}/{NAME}"

    def make(self) -> None:
        """Its folder, user and database, as the image makes them."""
        self.folder.mkdir(mode=0o700)
        if os.getuid() == 0:
            shutil.chown(self.folder, "mysql", "mysql")
        options = [*self._options(), "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(
            ["mariadb-install-db", *options], check=True, stdout=subprocess.DEVNULL, cwd="/"
        )
        self.start()
        with self._root() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {NAME}")
            cursor.execute(f"CREATE USER {NAME}@'%%' IDENTIFIED BY %s", (PASSWORD,))
            cursor.execute(f"GRANT ALL ON {NAME}.* TO {NAME}@'%'")

    def start(self) -> None:
        address = [f"--port={self.port}", "--bind-address=127.0.0.1", "--skip-name-resolve"]
        files = [f"--socket={self.folder}/socket", f"--pid-file={self.folder}/pid"]
        command = [mariadbd(), *self._options(), *address, *files]
        log = Path(f"{self.folder}.log")
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--character-set-server=utf8mb4"], stderr=output, cwd="/"
            )
        wait_until(self._answers, "MariaDB answers", log=log)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def rows(self, statement: str) -> tuple:
        """What a statement in the application's database returns."""
        with self._root(NAME) as connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall()

    def _options(self) -> list[str]:
        user = ["--user=mysql"] if os.getuid() == 0 else []
        return ["--no-defaults", f"--datadir={self.folder}/data", *user]

    def _root(self, database: str | None = None) -> pymysql.Connection:
        return pymysql.connect(
            unix_socket=f"{self.folder}/socket", user="root", database=database, autocommit=True
        )

    def _answers(self) -> bool:
        with contextlib.suppress(pymysql.err.OperationalError), self._root():
            return True
        return False


def mariadbd() -> str:
    found = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.fail("MariaDB's server is missing: apt-get install mariadb-server")
    return found


@pytest.fixture(scope="module")
def mariadb() -> Iterator[Mariadb]:
    server = Mariadb()
    server.make()
    yield server
    server.stop()
    shutil.rmtree(server.folder)
    Path(f"{server.folder}.log").unlink()
