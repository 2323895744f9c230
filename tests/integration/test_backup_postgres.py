"""The scripts that dump and restore PostgreSQL, on a real server of this machine."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends import postgres_locks
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.postgres import (
    dump_postgres,
    postgres_state,
    restore_postgres,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.psql import (
    END_OF_ANSWER,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.backup.restore import (
    SESSION,
    _same_schema,
    _schema,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.set import Settings
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker
from ansible_collections.crisper.stack.plugins.module_utils.text import composed
from postgres_server import running_postgres

NAME = "shop_1"
Sql = Callable[[str], str]


@pytest.fixture(scope="module")
def sql() -> Iterator[Sql]:
    """A PostgreSQL with a database and its user, as the image makes them; runs statements."""
    with running_postgres(NAME, NAME, "x") as server:
        yield server.sql


@pytest.fixture
def items(sql: Sql) -> None:
    """Tables with rows, as an application's migrations left them."""
    sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    sql('CREATE TABLE items (id INT PRIMARY KEY, title TEXT); CREATE TABLE "Odd|Name" (x INT)')
    sql("INSERT INTO items SELECT n, md5(n::text) FROM generate_series(1, 2000) n")
    sql("CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES ('8')")


ROWS = {"public.Odd|Name": 0, "public.alembic_version": 1, "public.items": 2000}


@pytest.mark.usefixtures("items")
def test_what_is_lost_comes_back(sql: Sql, docker: Docker) -> None:
    stream = io.BytesIO()
    told = dump_postgres(docker, "x", stream)
    assert told.pop("extensions") == ["plpgsql"]
    assert told == {"rows": ROWS, "migration_head": ["8"]}
    sql("DROP TABLE items; CREATE TABLE newer (id INT)")
    stream.seek(0)
    restore_postgres(docker, "x", stream)
    assert postgres_state(docker, "x") == told


def test_rows_that_look_like_statements_of_a_dump_come_back(sql: Sql, docker: Docker) -> None:
    """Regression: such rows were rewritten or left out, and the restore said success."""
    rows = [
        "-- Name: x; Type: EXTENSION; Schema: -",
        "CREATE EXTENSION note;",
        "-- Name: EXTENSION x; Type: COMMENT; y",
        "COMMENT ON EXTENSION lost",
        "COPY x FROM stdin;",
        "\\.",
        "the end",
    ]
    values = ", ".join(f"($note${row}$note$)" for row in rows)
    sql(f"DROP TABLE IF EXISTS notes; CREATE TABLE notes (body) AS VALUES {values}")
    stream = io.BytesIO()
    dump_postgres(docker, "container", stream)
    sql("DROP TABLE notes")
    stream.seek(0)
    restore_postgres(docker, "container", stream, SESSION)
    assert sql("SELECT body FROM notes").splitlines() == rows
    sql("DROP TABLE notes")


@pytest.mark.usefixtures("items")
def test_a_dump_that_breaks_off_changes_nothing(sql: Sql, docker: Docker) -> None:
    stream = io.BytesIO()
    dump_postgres(docker, "x", stream)
    sql("INSERT INTO items VALUES (0, 'since then')")
    whole = stream.getvalue()
    for cut in (0, 3, len(whole) // 4, len(whole) // 2, len(whole) - 1000):
        with pytest.raises(BackupError, match="was not restored, and is as it was"):
            restore_postgres(docker, "x", io.BytesIO(whole[:cut]))
        assert sql("SELECT count(*) FROM items") == "2001"


@pytest.mark.usefixtures("items")
def test_heads_of_django_are_known(sql: Sql, docker: Docker) -> None:
    sql("DROP TABLE alembic_version; CREATE TABLE django_migrations (app TEXT, name TEXT)")
    sql("INSERT INTO django_migrations VALUES ('b', '0001'), ('a', '0001'), ('a', '0002')")
    assert postgres_state(docker, "x")["migration_head"] == ["a.0002", "b.0001"]


def test_a_server_that_refuses_is_told(docker: Docker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_DB", "nowhere")
    with pytest.raises(BackupError, match=r'PostgreSQL did not answer: .*"nowhere" does not exist'):
        dump_postgres(docker, "x", io.BytesIO())


def test_whether_a_restore_has_replaced_the_database_is_seen_in_it(
    sql: Sql, items: None, docker: Docker
) -> None:
    """After a failure the application starts again only on a database that is as it was."""
    settings = Settings(Path("/"), "demo", docker_cli=docker.cli, timeout=60)
    running = {"postgres": "container"}
    dump = io.BytesIO()
    dump_postgres(docker, "container", dump)
    before = _schema(settings, running)
    assert before
    with pytest.raises(BackupError):
        restore_postgres(docker, "container", io.BytesIO(dump.getvalue()[:3000]), SESSION)
    assert _same_schema(settings, running, before)
    dump.seek(0)
    restore_postgres(docker, "container", dump, SESSION)
    assert not _same_schema(settings, running, before)
    assert not _same_schema(settings, running, "")


@pytest.mark.usefixtures("items")
def test_a_locked_table_ends_a_dump_in_time_and_is_told(
    sql: Sql, docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: LOCK TABLE of the application's role held up a backup for backup_timeout."""
    monkeypatch.setattr(postgres_locks, "LOCK_SECONDS", 1)
    spaces = " " * 90
    lock = "BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(60)"
    lock += f" /* \x1b[2J\n{spaces} */"
    sleeping = "FROM pg_stat_activity WHERE query ~ '^BEGIN; LOCK' AND wait_event = 'PgSleep'"

    def hold() -> None:
        with suppress(RuntimeError):  # it is ended
            sql(lock)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        while sql(f"SELECT count(*) {sleeping}") != "1":
            time.sleep(0.05)
        began = time.monotonic()
        for ask in (
            lambda: dump_postgres(docker, "x", io.BytesIO()),
            lambda: postgres_state(docker, "x"),
        ):
            with pytest.raises(BackupError) as caught:
                ask()
            told = str(caught.value)
            assert f"of {NAME} (active, 'psql', transaction open since" in told
            assert "LOCK TABLE items IN ACCESS EXCLUSIVE MODE" in told
            assert (
                f"(SELECT pg_catalog.pg_terminate_backend({sql(f'SELECT pid {sleeping}')}))" in told
            )
            assert "\x1b" not in told
            (quoted,) = [line for line in composed(told).split("\n") if "pg_sleep" in line]
            assert quoted.startswith("| session ")
            assert "  " not in quoted
        assert time.monotonic() - began < 20
    finally:
        sql(f"SELECT pg_terminate_backend(pid) {sleeping}")
        holder.join()


@pytest.mark.usefixtures("items")
def test_no_name_of_a_table_forges_a_count(sql: Sql, docker: Docker) -> None:
    """A line's end in a name was an answer of its own, and stopped each backup."""
    names = ("new\nline", "a|7\npublic.items|9", 'quo"te', f"x\n{END_OF_ANSWER}\n", '{"rows": 1}')
    for name in names:
        quoted = name.replace('"', '""')
        sql(f'CREATE TABLE "{quoted}" (x INT)')
    sql('CREATE SCHEMA "public.a"; CREATE TABLE "public.a"."b" (x INT)')
    sql('CREATE TABLE "a.b" AS SELECT 1 AS x; CREATE TABLE nothing ()')
    stream = io.BytesIO()
    told = dump_postgres(docker, "x", stream)
    del told["extensions"]
    expected = {**ROWS, **{f"public.{name}": 0 for name in names}, "public.nothing": 0}
    assert told["rows"] == {**expected, '"public"."a.b"': 1, '"public.a"."b"': 0}
    stream.seek(0)
    restore_postgres(docker, "x", stream)
    assert postgres_state(docker, "x") == told
    sql('DROP SCHEMA "public.a" CASCADE')


@pytest.mark.usefixtures("items")
def test_partitions_and_heirs_are_counted_as_before(sql: Sql, docker: Docker) -> None:
    sql("CREATE TABLE split (id INT) PARTITION BY RANGE (id)")
    sql("CREATE TABLE low PARTITION OF split FOR VALUES FROM (0) TO (10) PARTITION BY LIST (id)")
    sql("CREATE TABLE two PARTITION OF low FOR VALUES IN (2)")
    sql("CREATE TABLE high PARTITION OF split FOR VALUES FROM (10) TO (99)")
    sql("INSERT INTO split VALUES (2), (2), (11); CREATE TABLE heir () INHERITS (items)")
    sql("INSERT INTO heir VALUES (1, 'x'); CREATE TEMP TABLE mine (x INT)")
    rows = postgres_state(docker, "x")["rows"]
    wanted = {"split": 3, "low": 2, "two": 2, "high": 1, "items": 2001, "heir": 1}
    assert {name: rows[f"public.{name}"] for name in wanted} == wanted
    assert sql("SELECT count(*) FROM split") == "3"
    assert sql("SELECT count(*) FROM items") == "2001"


@pytest.mark.usefixtures("items")
def test_a_head_that_is_no_table_is_bounded(sql: Sql, docker: Docker) -> None:
    sql("DROP TABLE alembic_version")
    sql(
        "CREATE VIEW alembic_version AS SELECT repeat(E'x\\n', 100000) AS version_num"
        " FROM generate_series(1, 5000)"
    )
    head = postgres_state(docker, "x")["migration_head"]
    assert (len(head), {len(each) for each in head}) == (1000, {600})


@pytest.mark.parametrize(
    ("tables", "head"),
    [
        ("CREATE TABLE alembic_version AS SELECT 'b\\2' AS version_num", ["b\\2"]),
        (
            "CREATE TABLE django_migrations (app, name)"
            " AS VALUES ('b', '1'), ('a', '1'), ('a', '2')",
            ["a.2", "b.1"],
        ),
    ],
)
def test_a_backup_needs_no_connection_of_the_application(
    docker: Docker, tables: str, head: list[str]
) -> None:
    """Regression: whoever held all connections of the application kept backups from being made."""
    with running_postgres("root", "shop_2", "x") as server:
        server.sql("CREATE ROLE shop_2 LOGIN CONNECTION LIMIT 0", "root")
        server.sql(f"{tables}; ALTER TABLE {tables.split()[2]} OWNER TO shop_2", "root")

        told = dump_postgres(docker, "x", io.BytesIO())

        assert told["migration_head"] == postgres_state(docker, "x")["migration_head"] == head
        server.sql(f"DROP TABLE {tables.split()[2]}", "root")
        with pytest.raises(BackupError, match=r"too many connections for role .*docker stop"):
            dump_postgres(docker, "x", io.BytesIO())
