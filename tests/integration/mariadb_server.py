"""A MariaDB of this machine, made as the official image makes one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NAME, PASSWORD = "shop_1", "p@ss'w\"rd"
PATTERN = NAME.replace("_", r"\_")  # as the image grants it
Sql = Callable[..., str]


@contextmanager
def running_mariadb(*settings: str) -> Iterator[Sql]:
    """Run a server with a database and its user; statements are root's, as are the scripts'.

    Args:
        settings: options of the server; without any it has its socket alone.
    """
    server = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
    assert server, "MariaDB's server is missing: apt-get install mariadb-server"
    folder = Path(tempfile.mkdtemp(prefix="crisper-backup-", dir="/tmp"))
    user = []
    if os.getuid() == 0:
        shutil.chown(folder, "mysql", "mysql")
        user = ["--user=mysql"]
    options = ["--no-defaults", f"--datadir={folder}/data", *user]
    made = [*options, "--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run(["mariadb-install-db", *made], check=True, capture_output=True, cwd="/")
    files = [
        f"--socket={folder}/socket",
        f"--pid-file={folder}/pid",
        *(settings or ("--skip-networking",)),
    ]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen([server, *options, *files], stderr=log, cwd="/")

    def run(statement: str, *more: str) -> str:
        command = ["mariadb", "--no-defaults", f"--socket={folder}/socket", "--user=root"]
        command += ["--default-character-set=utf8mb4", "--skip-column-names", *more]
        done = subprocess.run(
            [*command, "--execute", statement], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                run("SELECT 1")
                break
            except subprocess.CalledProcessError:
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
        run(f"CREATE DATABASE `{NAME}` CHARACTER SET utf8mb4; CREATE USER shop@localhost")
        run(f"GRANT ALL ON `{NAME}`.* TO shop@localhost")
        run(f"CREATE USER {NAME}@'%'; GRANT ALL ON `{PATTERN}`.* TO {NAME}@'%'")
        quoted = PASSWORD.replace("'", "''")
        run(f"SET PASSWORD FOR root@localhost = PASSWORD('{quoted}')")
        with pytest.MonkeyPatch.context() as patch:
            (folder / "password").write_text(PASSWORD)
            patch.setenv("MYSQL_PWD", PASSWORD)
            (folder / ".my.cnf").write_text(f"[client]\nsocket={folder}/socket\n")
            patch.setenv("HOME", str(folder))
            patch.setenv("MARIADB_DATABASE", NAME)
            patch.setenv("MARIADB_ROOT_PASSWORD_FILE", f"{folder}/password")
            patch.delenv("MARIADB_ROOT_PASSWORD", raising=False)
            yield run
    finally:
        running.terminate()
        running.wait(timeout=60)
        shutil.rmtree(folder)
