"""Tables that an application hides from dumps, on a real server of this machine."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends import (
    postgres_contents,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.postgres import (
    dump_postgres,
    postgres_state,
    restore_postgres,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.database.roles import Roles
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker
from postgres_server import Server, running_postgres

HIDING = "crisper_restore_0000000000000000"
# The application goes on: its table is partitioned, and its only partition lies elsewhere.
HIDE = (
    f"CREATE SCHEMA {HIDING}; CREATE TABLE items (id int PRIMARY KEY) PARTITION BY LIST (id);"
    f" CREATE TABLE {HIDING}.p PARTITION OF items DEFAULT;"
    " INSERT INTO items SELECT generate_series(1, 8)"
)
ROWS = {"public.items": 8, f"{HIDING}.p": 8}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Server]:
    with running_postgres("postgres", "shop", "x") as server:
        yield server


@pytest.fixture
def server(cluster: Server, docker: Docker) -> Server:
    """A database of the application's role, without its objects."""
    for statement in ("DROP DATABASE shop", "CREATE DATABASE shop"):
        cluster.sql(statement, "postgres", "postgres")
    Roles(docker, "x", "shop").apply("superuser's", "own", [])
    return cluster


def dumped(docker: Docker) -> tuple[io.BytesIO, dict[str, int]]:
    stream = io.BytesIO()
    rows = dump_postgres(docker, "x", stream)["rows"]
    stream.seek(0)
    return stream, rows


def test_a_schema_named_like_a_helper_is_dumped(server: Server, docker: Docker) -> None:
    """Regression: its tables were left out, and the backup was reported good."""
    server.sql(HIDE, "shop")
    dump, rows = dumped(docker)
    assert rows == ROWS
    server.sql("DROP TABLE items", "shop")
    restore_postgres(docker, "x", dump, rows=rows)
    assert postgres_state(docker, "x")["rows"] == ROWS


def test_the_helper_of_a_restore_that_was_killed_is_not_dumped(
    server: Server, docker: Docker
) -> None:
    server.sql(
        f"CREATE SCHEMA {HIDING}; CREATE FUNCTION {HIDING}.extension(statement text)"
        " RETURNS void LANGUAGE sql AS 'SELECT'",
        "postgres",
    )
    dump, _rows = dumped(docker)
    restore_postgres(docker, "x", dump)
    assert "crisper_restore" not in server.sql("SELECT nspname FROM pg_namespace", "postgres")


def test_a_dump_that_lacks_rows_of_its_set_replaces_nothing(
    server: Server, docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the live rows were gone when the counts were compared. Sets of then exist."""
    server.sql(HIDE, "shop")
    monkeypatch.setattr(postgres_contents, "find_helpers", lambda *_: [HIDING])
    monkeypatch.setattr(postgres_contents, "refuse_missing", lambda *_: None)
    dump, rows = dumped(docker)
    assert rows == ROWS
    for wrong in (rows, {}):
        dump.seek(0)
        with pytest.raises(BackupError, match=r"(?s)is as it was.*is not what the set says"):
            restore_postgres(docker, "x", dump, rows=wrong)
        assert postgres_state(docker, "x")["rows"] == ROWS


def test_counts_that_differ_are_named_before_data_is_replaced(
    server: Server, docker: Docker
) -> None:
    server.sql('CREATE TABLE "a.b" AS SELECT 1 AS x; CREATE TABLE items (id int)', "shop")
    server.sql("INSERT INTO items VALUES (1); CREATE SCHEMA a", "shop")
    server.sql('CREATE TABLE a."q\'\n"();ALTER TABLE items FORCE ROW LEVEL SECURITY', "shop")
    dump, rows = dumped(docker)
    server.sql("INSERT INTO items VALUES (2)", "shop")
    with pytest.raises(BackupError, match=r"rows of public\.items: 1 instead of 5"):
        restore_postgres(docker, "x", dump, rows={**rows, "public.items": 5})
    assert server.sql("SELECT count(*) FROM items", "shop") == "2"
    dump.seek(0)
    restore_postgres(docker, "x", dump, rows=rows)
    assert postgres_state(docker, "x")["rows"] == rows


def test_many_tables_are_compared(server: Server, docker: Docker) -> None:
    """Counts are no argument of a program: Linux refuses one of 128 KiB."""
    names = [f"{number:04}_{'x' * 55}" for number in range(2500)]
    server.sql(";".join(f'CREATE TABLE "{name}" ()' for name in names[:5]), "shop")
    dump, rows = dumped(docker)
    many = {f"public.{name}": 0 for name in names}
    with pytest.raises(BackupError, match=r"rows of public\.0005_x+: none instead of 0"):
        restore_postgres(docker, "x", dump, rows=many)
    dump.seek(0)
    restore_postgres(docker, "x", dump, rows=rows)


def test_a_table_that_no_dump_has_refuses_the_backup(server: Server, docker: Docker) -> None:
    server.sql("CREATE TABLE items AS SELECT 1 AS id", "shop")
    server.sql("ALTER TABLE items SET SCHEMA information_schema", "postgres")
    remedy = r'ALTER TABLE "information_schema"."items" SET SCHEMA public'
    with pytest.raises(BackupError, match=rf"(?s)left out.*items.*{remedy}"):
        dumped(docker)
