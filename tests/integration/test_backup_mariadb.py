"""The scripts that dump and restore MariaDB, on a real server of this machine."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.mariadb import (
    dump_mariadb,
    mariadb_state,
    restore_mariadb,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.database.mariadb_accounts import (
    find_excess,
    find_planted,
    remove_excess,
)
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker

NAME, PASSWORD = "shop_1", "p@ss'w\"rd"
Sql = Callable[..., str]


@pytest.fixture(scope="module")
def sql() -> Iterator[Sql]:
    """A MariaDB with a database and its user, as the image makes them; runs statements as root."""
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
    files = [f"--socket={folder}/socket", f"--pid-file={folder}/pid", "--skip-networking"]
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen([server, *options, *files], stderr=log, cwd="/")

    def run(statement: str, *more: str) -> str:
        command = ["mariadb", "--no-defaults", f"--socket={folder}/socket", "--user=root"]
        command += ["--default-character-set=utf8mb4", "--skip-column-names", *more]
        done = subprocess.run(
            [*command, "--execute", statement], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

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
    running.terminate()
    running.wait(timeout=60)
    shutil.rmtree(folder)


def test_what_is_lost_comes_back(sql: Sql, docker: Docker) -> None:
    sql("CREATE TABLE items (id INT PRIMARY KEY, title TEXT)", NAME)
    sql("INSERT INTO items VALUES (1, '경복궁'), (2, 'it''s \\n a \"beach\"')", NAME)
    sql("CREATE DEFINER=shop@localhost VIEW titles AS SELECT title FROM items", NAME)
    before = sql("SELECT * FROM items", NAME)
    stream = io.BytesIO()
    assert dump_mariadb(docker, "x", stream) == {"tables": ["items", "titles"]}
    sql("DROP TABLE items; CREATE TABLE newer (id INT)", NAME)
    stream.seek(0)
    restore_mariadb(docker, "x", stream)
    assert sql("SELECT * FROM items", NAME) == before
    assert sql("SELECT count(*) FROM titles", NAME) == "2"
    assert mariadb_state(docker, "x") == {"tables": ["items", "titles"]}
    assert "utf8mb4" in sql(f"SHOW CREATE DATABASE {NAME}")


def test_root_runs_nothing_of_the_applications(sql: Sql, docker: Docker) -> None:
    """A view whose function has its caller's rights; a trigger, while rows come back."""
    sql("CREATE TABLE said (who TEXT); CREATE TABLE bait (id INT)", NAME)
    note = "INSERT INTO said VALUES (CURRENT_USER())"
    sql(
        "CREATE DEFINER=shop@localhost FUNCTION go() RETURNS INT MODIFIES SQL DATA"
        f" SQL SECURITY INVOKER BEGIN {note}; RETURN 1; END//",
        *("--delimiter=//", NAME),
    )
    sql(
        "CREATE DEFINER=shop@localhost SQL SECURITY INVOKER VIEW trap AS"
        " SELECT go() AS one, id FROM bait WHERE go() = 1 GROUP BY id",
        NAME,
    )
    sql("INSERT INTO bait VALUES (1)", NAME)
    sql(
        f"CREATE DEFINER=shop@localhost TRIGGER fires BEFORE INSERT ON bait FOR EACH ROW {note}",
        NAME,
    )
    stream = io.BytesIO()
    dump_mariadb(docker, "x", stream)
    find_excess(docker, "x", NAME)
    stream.seek(0)
    restore_mariadb(docker, "x", stream)
    assert sql("SELECT count(*) FROM said", NAME) == "0"
    assert sql("SELECT count(*) FROM trap", NAME) == "1"
    assert int(sql("SELECT count(*) FROM said", NAME)) > 0  # whoever reads it is caught
    sql("DROP VIEW trap; DROP FUNCTION go; DROP TABLE bait, said", NAME)


def test_a_server_that_refuses_is_told(
    sql: Sql, docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARIADB_ROOT_PASSWORD", "another")
    with pytest.raises(BackupError, match=r"MariaDB did not answer: .*Access denied"):
        dump_mariadb(docker, "x", io.BytesIO())


def test_accounts_lose_what_they_do_not_need(sql: Sql, docker: Docker) -> None:
    """Root of every host, and powers over the server, which read and write its files."""
    sql("CREATE USER root@'%' IDENTIFIED BY 'x'; CREATE USER shop_1@'%'; CREATE USER shopx1@'%'")
    sql(f"GRANT ALL ON `{NAME}`.* TO shop_1@'%'; GRANT ALL ON *.* TO shopx1@'%'")
    others = find_excess(docker, "x", NAME)  # installing makes one of this host's name
    assert "DROP USER 'root'@'%'" in others
    assert all(line.startswith("DROP USER 'root'@") for line in others)
    sql("GRANT FILE, PROCESS ON *.* TO shop_1@'%' WITH GRANT OPTION")
    statements = find_excess(docker, "x", NAME)
    assert len(statements) == len(others) + 2
    remove_excess(docker, "x", statements)
    assert find_excess(docker, "x", NAME) == []
    grants = sql("SHOW GRANTS FOR shop_1@'%'").splitlines()
    assert [line.partition(" TO ")[0] for line in grants] == [
        "GRANT USAGE ON *.*",
        f"GRANT ALL PRIVILEGES ON `{NAME}`.*",
    ]
    assert "ALL PRIVILEGES ON *.*" in sql("SHOW GRANTS FOR shopx1@'%'")


def test_what_runs_with_more_rights_than_the_applications_is_told(sql: Sql, docker: Docker) -> None:
    sql("CREATE USER 'pla\nnted'@'%'; GRANT FILE ON *.* TO 'pla\nnted'@'%'")
    sql("CREATE DEFINER=shop@localhost FUNCTION own() RETURNS INT RETURN 1", NAME)
    sql("CREATE DEFINER=root@localhost FUNCTION roots() RETURNS INT RETURN 1", NAME)
    sql("CREATE DEFINER=root@localhost EVENT daily ON SCHEDULE EVERY 1 DAY DO SELECT 1", NAME)
    sql("CREATE DEFINER=root@localhost VIEW everything AS SELECT * FROM mysql.user", NAME)
    sql("CREATE TABLE fed (id INT)", NAME)
    sql(
        "CREATE DEFINER=root@localhost TRIGGER feeds BEFORE INSERT ON fed FOR EACH ROW SET @x = 1",
        NAME,
    )
    told = find_planted(docker, "x", NAME)
    for part in (
        "the account 'pla\\nnted'@'%' has rights over the server (FILE)",
        f"the routine {NAME}.roots runs with the rights of root@localhost",
        f"the event {NAME}.daily runs with",
        f"the view {NAME}.everything runs with",
        f"the trigger {NAME}.feeds runs with",
    ):
        assert sum(part in each for each in told) == 1, (part, told)
    assert not any("own" in each.partition(" runs ")[0] for each in told)
    assert sum("drop it as root" in each for each in told) == 1  # the name with a line break
    evil = "x'@'%'; DROP DATABASE shop_1; -- `".replace("'", "''")
    sql(f"CREATE USER '{evil}'@'%'; GRANT FILE ON *.* TO '{evil}'@'%'")
    for each in find_planted(docker, "x", NAME):
        remedy = each.partition("If it is not yours: ")[2]
        if remedy.startswith("DROP"):
            sql(remedy.removesuffix(" (or DROP PROCEDURE)"))
    assert len(find_planted(docker, "x", NAME)) == 1
    sql("DROP FUNCTION own; DROP TABLE fed; DROP USER 'pla\nnted'@'%'", NAME)
