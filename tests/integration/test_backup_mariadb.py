"""The scripts that dump and restore MariaDB, on a real server of this machine."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends import mariadb
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.mariadb import (
    dump_mariadb,
    mariadb_state,
    restore_mariadb,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.database.mariadb_accounts import (
    find_excess,
    find_planted,
    is_locked_out,
    remove_excess,
    set_password,
)
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker
from mariadb_server import NAME, PATTERN, Sql, running_mariadb


@pytest.fixture(scope="module")
def sql() -> Iterator[Sql]:
    with running_mariadb() as run:
        yield run


def test_what_is_lost_comes_back(sql: Sql, docker: Docker) -> None:
    sql("CREATE TABLE items (id INT PRIMARY KEY, title TEXT)", NAME)
    sql("INSERT INTO items VALUES (1, '경복궁'), (2, 'it''s \\n a \"beach\"')", NAME)
    sql("CREATE DEFINER=shop_1@'%' VIEW titles AS SELECT title FROM items", NAME)
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
        "CREATE DEFINER=shop_1@'%' FUNCTION go() RETURNS INT MODIFIES SQL DATA"
        f" SQL SECURITY INVOKER BEGIN {note}; RETURN 1; END//",
        *("--delimiter=//", NAME),
    )
    sql(
        "CREATE DEFINER=shop_1@'%' SQL SECURITY INVOKER VIEW trap AS"
        " SELECT go() AS one, id FROM bait WHERE go() = 1 GROUP BY id",
        NAME,
    )
    sql("INSERT INTO bait VALUES (1)", NAME)
    sql(
        f"CREATE DEFINER=shop_1@'%' TRIGGER fires BEFORE INSERT ON bait FOR EACH ROW {note}",
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


def hide(sql: Sql, statement: str) -> None:
    """Have the application hide a statement in a routine, behind "--" and a control character."""
    sql(f"DROP DATABASE `{NAME}`; CREATE DATABASE `{NAME}` CHARACTER SET utf8mb4")
    sql("CREATE TABLE items (line TEXT)", NAME)
    sql(f"ALTER USER {NAME}@'%' IDENTIFIED BY ''")
    own = ["mariadb", "--user", NAME, NAME, "--delimiter=//"]
    body = f"CREATE PROCEDURE p() SELECT 1 --\x01 ;; {statement} ;; SELECT 1\n + 1\n//\n"
    done = subprocess.run(
        own, input=body, text=True, env={**os.environ, "MYSQL_PWD": ""}, capture_output=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("statement", "refused"),
    [
        (f"GRANT ALL PRIVILEGES ON *.* TO {NAME}@'%' WITH GRANT OPTION", "Access denied"),
        # Regression: the client read the files of MariaDB's container, its secrets too.
        (f"LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE `{NAME}`.items", "local infile"),
    ],
    ids=["root's rights", "a file of the container"],
)
def test_a_restore_runs_nothing_that_the_application_may_not(
    sql: Sql, docker: Docker, monkeypatch: pytest.MonkeyPatch, statement: str, refused: str
) -> None:
    """Regression: what stands behind "--" and a control character was a statement of root's."""
    hide(sql, statement)
    with pytest.raises(BackupError, match=r"the procedure p\. Make these anew without it"):
        dump_mariadb(docker, "x", io.BytesIO())
    # A set of an edition before that check.
    monkeypatch.setattr(mariadb, "refuse_unfit", lambda *_: None)
    stream = io.BytesIO()
    dump_mariadb(docker, "x", stream)
    stream.seek(0)
    with pytest.raises(BackupError, match=refused):
        restore_mariadb(docker, "x", stream)
    grants = sql(f"SHOW GRANTS FOR {NAME}@'%'").splitlines()
    assert grants[0].startswith("GRANT USAGE ON *.*"), grants
    assert len(grants) == 2
    assert sql("SELECT count(*) FROM items", NAME) == "0"
    sql(f"DROP DATABASE `{NAME}`; CREATE DATABASE `{NAME}` CHARACTER SET utf8mb4")


def test_a_dump_that_the_application_could_not_restore_is_none(sql: Sql, docker: Docker) -> None:
    sql("CREATE DEFINER=root@localhost VIEW roots AS SELECT 1 AS one", NAME)
    with pytest.raises(BackupError, match="the view roots of root@localhost"):
        dump_mariadb(docker, "x", io.BytesIO())
    sql("DROP VIEW roots", NAME)


@pytest.mark.parametrize("own", ["p@ss'w\"rd \\\\ 한국어 $HOME `x`", ""])
def test_a_restore_gives_the_application_its_password(
    sql: Sql, docker: Docker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str
) -> None:
    sql("CREATE OR REPLACE TABLE items (id INT)", NAME)
    stream = io.BytesIO()
    dump_mariadb(docker, "x", stream)
    sql(f"DROP DATABASE `{NAME}`; DROP USER {NAME}@'%'")
    if own:
        (tmp_path / "own").write_text(own)
        monkeypatch.setenv("MARIADB_PASSWORD_FILE", str(tmp_path / "own"))
    stream.seek(0)
    restore_mariadb(docker, "x", stream)
    assert mariadb_state(docker, "x") == {"tables": ["items"]}
    assert not own or log_in(own) == "works"
    sql("DROP TABLE items", NAME)


def test_a_server_that_refuses_is_told(
    sql: Sql, docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARIADB_ROOT_PASSWORD", "another")
    with pytest.raises(BackupError, match=r"MariaDB did not answer: .*Access denied"):
        dump_mariadb(docker, "x", io.BytesIO())


def test_accounts_lose_what_they_do_not_need(sql: Sql, docker: Docker) -> None:
    """Root of every host, and powers over the server, which read and write its files."""
    sql(
        "CREATE USER root@'%' IDENTIFIED BY 'x'; CREATE USER shopx1@'%';"
        " CREATE USER IF NOT EXISTS shop_1@'%'"
    )
    sql(f"GRANT ALL ON `{PATTERN}`.* TO shop_1@'%'; GRANT ALL ON *.* TO shopx1@'%'")
    others = find_excess(docker, "x", NAME)  # installing makes one of this host's name
    assert "DROP USER 'root'@'%'" in others
    assert all(line.startswith("DROP USER 'root'@") for line in others)
    sql("GRANT FILE, PROCESS ON *.* TO shop_1@'%' WITH GRANT OPTION")
    statements = find_excess(docker, "x", NAME)
    assert len(statements) == len(others) + 2
    remove_excess(docker, "x", statements)
    assert find_excess(docker, "x", NAME) == []
    grants = sql("SHOW GRANTS FOR shop_1@'%'", "--raw").splitlines()
    assert [line.partition(" TO ")[0] for line in grants] == [
        "GRANT USAGE ON *.*",
        f"GRANT ALL PRIVILEGES ON `{PATTERN}`.*",
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


def log_in(password: str, statement: str = "SELECT 'works'") -> str:
    """Return what a statement says to the application's account, or why it may not log in."""
    done = subprocess.run(
        ["mariadb", "--user", NAME, "--skip-column-names", "--execute", statement],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "MYSQL_PWD": password},
    )
    return done.stdout.strip() or done.stderr.strip()


def test_the_applications_account_has_the_password_of_the_release(sql: Sql, docker: Docker) -> None:
    """Regression: an account that had changed its own was locked out for good."""
    own = "p@ss'w\"rd \\\\ 한국어"
    assert not is_locked_out(docker, "x", "nobody", own)
    sql(f"CREATE OR REPLACE USER {NAME}@'%'; GRANT ALL ON `{NAME}`.* TO {NAME}@'%'")
    set_password(docker, "x", NAME, own)
    assert log_in(own) == "works"
    assert not is_locked_out(docker, "x", NAME, own)
    assert not is_locked_out(docker, "x", NAME, "")  # of a release without the file
    for attack in (
        "SET PASSWORD = PASSWORD('mine')",
        "SET PASSWORD = ''",
        "ALTER USER CURRENT_USER() IDENTIFIED VIA ed25519 USING PASSWORD('mine')",
    ):
        log_in(own, attack)
        if log_in(own) != "works":
            assert is_locked_out(docker, "x", NAME, own), attack
            set_password(docker, "x", NAME, own)
        assert log_in(own) == "works"
        assert not is_locked_out(docker, "x", NAME, own)
    sql(f"ALTER USER {NAME}@'%' IDENTIFIED VIA unix_socket")
    assert is_locked_out(docker, "x", NAME, own)
    sql(f"DROP USER {NAME}@'%'")


def test_accounts_to_come_back_with_are_told(sql: Sql, docker: Docker) -> None:
    before = find_planted(docker, "x", NAME)
    sql(f"CREATE USER evil@'%'; GRANT SELECT ON `{NAME.replace('_', chr(92) + '_')}`.* TO evil@'%'")
    sql("CREATE USER other@'%'; GRANT SELECT ON `another`.* TO other@'%'")
    (sentence,) = set(find_planted(docker, "x", NAME)) - set(before)
    assert "the account 'evil'@'%' has rights over the database" in sentence
    sql(sentence.partition("If it is not yours: ")[2])
    assert find_planted(docker, "x", NAME) == before
    sql("DROP USER other@'%'")
