"""What a restore lets the application do with extensions, in a PostgreSQL of the real engine."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends import (
    postgres,
    postgres_sql,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.postgres import (
    dump_postgres,
    make_postgres_database,
    restore_postgres,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.psql import (
    end_postgres_sessions,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.remedies import (
    DROP_DATABASE,
    OPEN_DATABASE,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.database.roles import Roles
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker

NAME = f"crispertest-extensions-{os.getpid()}"
# Extensions with tables that a dump takes along; one has a schema of its own choice.
FILES = {
    "ledger.control": "default_version = '1'\nrelocatable = true\n",
    "ledger--1.sql": """
CREATE TABLE ledger_settings (key text PRIMARY KEY, value text);
CREATE SEQUENCE ledger_numbers;
SELECT pg_extension_config_dump('ledger_settings', '');
SELECT pg_extension_config_dump('ledger_numbers', '');
CREATE FUNCTION ledger_fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER own AFTER INSERT ON ledger_settings FOR EACH ROW EXECUTE FUNCTION ledger_fires();
""",
    "catalogued.control": "default_version = '1'\nrelocatable = false\nschema = pg_catalog\n",
    "catalogued--1.sql": "CREATE FUNCTION catalogued() RETURNS int LANGUAGE sql AS 'SELECT 1';\n",
}
# Better matches than PostgreSQL's own, of functions that take any type or whose last argument may
# be left out, and of operators that compare two types.
BETTER = {
    "format": ("text, name", "text, text", "text, name, name", "text, name, text"),
    "json_agg": ("text", "name"),
    "array_agg": ("text", "name"),
    "to_json": ("name", "text"),
    "to_jsonb": ("pg_trigger",),
    "json_build_array": ("text, text, text",),
    "json_array_elements_text": ("text",),
    "unnest": ("oid[]", "text[]"),
    "parse_ident": ("text",),
    "quote_ident": ("name",),
    "quote_literal": ("name",),
    "btrim": ("text, name",),
    "regexp_match": ("text, name",),
    "string_agg": ("text, name",),
    "current_setting": ("name",),
    "pg_sleep": ("numeric",),
    "pg_terminate_backend": ("int",),
    "concat": ("text, text",),
    "pg_has_role": ("name, oid, name",),
    "obj_description": ("regnamespace, text",),
}
OPERATORS = {
    "=": ("oid, int", "oid, regclass", "regclass, oid", '"char", text'),
    "<>": ("oid, int", '"char", text'),
    ">=": ("oid, int",),
    "||": ("text, name", "text, oid", "text, regclass", "name, text"),
    "~": ("name, name",),
    "!~": ("name, name", "text, name"),
    "?|": ("jsonb, name[]",),
}
CASTS = (
    *("text AS bigint", "regclass AS text", "name AS bool"),
    *("bigint AS text", "text AS interval"),
)
# Makes the application superuser when a superuser runs it, also in a function that is his.
RISE = """$$ BEGIN
  BEGIN EXECUTE 'ALTER ROLE shop SUPERUSER'; EXCEPTION WHEN insufficient_privilege THEN NULL; END;
  RETURN NULL; END $$"""
POWERS = "SELECT rolsuper FROM pg_authid WHERE rolname = 'shop'"


def planted() -> str:
    """Return the statements of a superuser that plant all of that."""
    lines = ["SET allow_system_table_mods = on; CREATE SCHEMA atk;"]

    def make(name: str, arguments: str, result: str) -> None:
        lines.append(
            f"CREATE FUNCTION {name}({arguments}) RETURNS {result} LANGUAGE plpgsql AS {RISE};"
        )

    for name, overloads in BETTER.items():
        for arguments in overloads:
            make(f"pg_catalog.{name}", arguments, "text")
    for number, (name, overloads) in enumerate(OPERATORS.items()):
        for arguments in overloads:
            left, right = arguments.split(", ")
            make(f"atk.o{number}", arguments, "text" if name == "||" else "bool")
            lines.append(
                f"CREATE OPERATOR pg_catalog.{name} (leftarg = {left}, rightarg = {right},"
                f" function = atk.o{number});"
            )
    for number, cast in enumerate(CASTS):
        source, target = cast.split(" AS ")
        make(f"atk.c{number}", source, target)
        lines.append(f"CREATE CAST ({cast}) WITH FUNCTION atk.c{number}({source}) AS IMPLICIT;")
    return "\n".join(lines)


# Runs while rows are copied in, and tries what the application is to have no way to.
PLANT = r"""
CREATE TABLE outcome (what text);
CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  EXECUTE 'ALTER ROLE shop SUPERUSER'; RETURN NEW; END $$;
CREATE FUNCTION plant(int) RETURNS bool LANGUAGE plpgsql AS $$
DECLARE helper text; each text;
BEGIN
  SELECT nspname INTO helper FROM pg_catalog.pg_namespace WHERE nspname ~ '^crisper_restore';
  FOREACH each IN ARRAY array[
    'CREATE TRIGGER t AFTER INSERT ON public.ledger_settings EXECUTE FUNCTION public.evil()',
    pg_catalog.format('SELECT %I.extension(%L)', coalesce(helper, 'none'),
      'CREATE EXTENSION IF NOT EXISTS pageinspect WITH SCHEMA public;')] LOOP
    BEGIN
      EXECUTE each;
      INSERT INTO public.outcome VALUES ('done: ' || each);
    EXCEPTION WHEN OTHERS THEN INSERT INTO public.outcome VALUES (SQLERRM);
    END;
  END LOOP;
  RETURN true;
END $$;
CREATE TABLE zbait (id int CHECK (plant(id)));
INSERT INTO zbait VALUES (1);
TRUNCATE outcome;
"""


class Server:
    """A container of PostgreSQL, moved to roles of their own."""

    def __init__(self, container: str) -> None:
        self.container, self.docker = container, Docker("docker", 60)

    def sql(self, statements: str, user: str = "shop", database: str = "shop") -> str:
        command = ["docker", "exec", "--interactive", self.container, "psql", "-qXAt"]
        command += ["-v", "ON_ERROR_STOP=1", "-U", user, "-d", database, "-f", "-"]
        done = subprocess.run(command, input=statements, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def dump(self) -> tuple[dict, io.BytesIO]:
        stream = io.BytesIO()
        facts = dump_postgres(self.docker, self.container, stream)
        stream.seek(0)
        return facts, stream

    def restore(self, stream: io.BytesIO, extensions: list[str] | None = None) -> None:
        stream.seek(0)
        restore_postgres(self.docker, self.container, stream, "", extensions)

    def extensions(self) -> list[str]:
        return self.sql("SELECT extname FROM pg_extension ORDER BY 1").split()


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    options = ["--pull", "never", "--network", "none", "--env", "POSTGRES_PASSWORD=x"]
    options += ["--tmpfs", "/var/lib/postgresql/data", "--env", "POSTGRES_DB=shop"]
    options += ["--env", "POSTGRES_USER=postgres"]
    command = ["docker", "run", "--detach", "--name", NAME, *options]
    image = ["postgres:17-trixie", "-c", "fsync=off"]
    subprocess.run([*command, *image], check=True, stdout=subprocess.DEVNULL)
    try:
        for name, text in FILES.items():
            path = f"/usr/share/postgresql/17/extension/{name}"
            put = ["docker", "exec", "--interactive", NAME, "sh", "-c", f"cat > {path}"]
            subprocess.run(put, input=text, text=True, check=True)
        # Not the one that the image runs while it sets its data up, which has a socket alone.
        ready = ["docker", "exec", NAME, "pg_isready", "--quiet", "--host", "127.0.0.1"]
        deadline = time.monotonic() + 60
        while subprocess.run(ready).returncode != 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield NAME
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", NAME], check=True)


@pytest.fixture
def server(container: str) -> Server:
    made = Server(container)
    made.sql("DROP DATABASE IF EXISTS shop WITH (FORCE)", "postgres", "postgres")
    made.sql("CREATE DATABASE shop", "postgres", "postgres")
    Roles(made.docker, container, "shop").apply("the superuser's", "own", [])
    return made


def test_what_a_dump_brings_makes_no_extension_and_no_trigger(server: Server) -> None:
    """Regression: it got all rights on an extension's tables, and any extension anywhere."""
    server.sql("CREATE EXTENSION ledger WITH SCHEMA public", "postgres")
    rows = "INSERT INTO ledger_settings VALUES ('a', '1'); SELECT setval('ledger_numbers', 7)"
    server.sql(rows, "postgres")
    server.sql(PLANT)
    facts, dump = server.dump()
    assert facts["extensions"] == ["ledger", "plpgsql"]
    for listed in (facts["extensions"], None):
        server.restore(dump, listed)
        assert server.sql("SELECT * FROM ledger_settings", "postgres") == "a|1"
        assert server.sql("SELECT last_value FROM ledger_numbers", "postgres") == "7"
        told = server.sql("SELECT what FROM outcome ORDER BY 1").splitlines()
        assert told == [
            "permission denied for table ledger_settings",
            "something within the dump asks for an extension: CREATE EXTENSION IF NOT EXISTS"
            " pageinspect WITH SCHEMA public;",
        ]
        assert server.extensions() == ["ledger", "plpgsql"]
        assert server.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'shop'") == "f"
        rights = "SELECT has_table_privilege('shop', 'ledger_settings', 'SELECT, INSERT')"
        assert server.sql(rights) == "f", "the restore has taken its grants back"
        left = "SELECT count(*) FROM pg_namespace WHERE nspname ~ '^crisper'"
        assert server.sql(left) == "0"


def test_only_extensions_of_the_set_are_made(server: Server) -> None:
    server.sql("CREATE EXTENSION pageinspect WITH SCHEMA public", "postgres")
    server.sql("CREATE EXTENSION hstore; CREATE TABLE a AS SELECT 'a=>1'::hstore AS h")
    facts, dump = server.dump()
    server.sql("DROP EXTENSION pageinspect; CREATE TABLE mine ()", "postgres")
    with pytest.raises(BackupError, match=r"extension pageinspect is not in .* database_extensi"):
        server.restore(dump, ["plpgsql"])
    assert "mine" in server.sql("SELECT relname FROM pg_class WHERE relname = 'mine'")
    # Those of the set, in a new database too; of an older edition all that the dump names.
    for listed in (facts["extensions"], None):
        server.sql("DROP EXTENSION IF EXISTS pageinspect", "postgres")
        server.restore(dump, listed)
        assert server.extensions() == ["hstore", "pageinspect", "plpgsql"]
    assert server.sql("SELECT h FROM a") == '"a"=>"1"'
    # One that is there may come back though no set lists it.
    server.restore(dump, [])


@pytest.mark.parametrize("schema", ["pg_catalog", "information_schema"])
def test_a_trusted_extension_goes_where_the_application_may_make_it(
    server: Server, schema: str
) -> None:
    """Regression: it may put one into pg_catalog, and a drill of the backup then failed."""
    server.sql(f"CREATE EXTENSION citext SCHEMA {schema}")
    server.sql(f"CREATE TABLE a AS SELECT 'A'::{schema}.citext AS x")
    facts, dump = server.dump()
    for listed in (facts["extensions"], None):
        server.sql("DROP EXTENSION citext CASCADE", "postgres")
        server.restore(dump, listed)
        where = "SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'citext'"
        assert server.sql(where) == schema
        assert server.sql(f"SELECT x OPERATOR({schema}.=) 'a' FROM a") == "t"  # noqa: S608
    assert server.sql(POWERS, "postgres") == "f"


def test_no_extension_goes_where_the_application_may_make_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.sql("CREATE EXTENSION pageinspect WITH SCHEMA pg_catalog", "postgres")
    assert postgres.misplaced_extensions(server.docker, NAME) == [("pageinspect", "pg_catalog")]
    with pytest.raises(BackupError) as caught:
        server.dump()
    remedy = str(caught.value).rpartition("(ALTER")[2].partition(")")[0]
    monkeypatch.setattr(
        postgres, "refuse_misplaced", lambda found: None
    )  # a set of an older edition
    facts, dump = server.dump()
    server.sql("DROP EXTENSION pageinspect", "postgres")
    with pytest.raises(BackupError, match="pageinspect is not made in the schema pg_catalog"):
        server.restore(dump, facts["extensions"])
    server.sql("CREATE EXTENSION pageinspect WITH SCHEMA pg_catalog", "postgres")
    server.sql(f"ALTER{remedy}", "postgres")
    monkeypatch.undo()
    server.restore(server.dump()[1], ["pageinspect"])
    # Its own control file says so.
    server.sql("CREATE EXTENSION catalogued", "postgres")
    facts, dump = server.dump()
    server.sql("DROP EXTENSION catalogued", "postgres")
    server.restore(dump, facts["extensions"])
    assert server.sql("SELECT pg_catalog.catalogued()") == "1"


def test_what_an_older_restore_let_the_application_leave_goes(server: Server) -> None:
    server.sql(
        "CREATE SCHEMA ops; GRANT USAGE ON SCHEMA ops TO shop; CREATE EXTENSION ledger SCHEMA ops;"
        "GRANT ALL ON ops.ledger_settings TO shop; CREATE SCHEMA crisper_restore",
        "postgres",
    )
    # In a schema that a restore does not replace.
    server.sql(
        "CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER t AFTER INSERT ON ops.ledger_settings EXECUTE FUNCTION evil()"
    )
    server.sql(
        "CREATE FUNCTION plain() RETURNS int LANGUAGE sql AS 'SELECT 1';"
        "ALTER FUNCTION plain() OWNER TO shop;"
        "CREATE RULE r AS ON INSERT TO ops.ledger_settings DO ALSO SELECT public.plain()",
        "postgres",
    )
    done = Roles(server.docker, server.container, "shop").apply("the superuser's", "own", [])
    assert "what a restore that was killed left is removed" in done["done"]
    named = (
        "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal UNION ALL"
        " SELECT rulename FROM pg_rewrite WHERE ev_class = 'ops.ledger_settings'::regclass"
    )
    assert server.sql(named, "postgres") == "own"


def test_no_better_match_runs_as_superuser(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backup, restore, the look at the database, a deploy. Regression: format(text, name) ran."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "library"))
    from database_identity import IDENTITY

    server.sql(
        "CREATE EXTENSION pageinspect WITH SCHEMA public; CREATE EXTENSION ledger SCHEMA public;"
        "INSERT INTO ledger_settings VALUES ('a', '1')",
        "postgres",
    )
    server.sql(
        "CREATE EXTENSION hstore; CREATE TABLE a AS SELECT 'a=>1'::hstore AS h;"
        "CREATE FUNCTION evil() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'"
    )
    facts, dump = server.dump()
    server.sql(planted(), "postgres")
    server.sql("ALTER EXTENSION hstore ADD TABLE a")
    # pg_dump's own questions are PostgreSQL's: only a new cluster helps there.
    monkeypatch.setattr(postgres, "_dump", lambda *_: set())
    monkeypatch.setattr(postgres.contents, "find_missing", lambda *_: [])
    with pytest.raises(BackupError, match=r'EXTENSION "hstore" DROP TABLE public\.a\)'):
        server.dump()
    server.sql("ALTER EXTENSION hstore DROP TABLE a")
    assert server.dump()[0] == facts
    roles = Roles(server.docker, NAME, "shop")
    helper = "CREATE SCHEMA crisper_restore_0123456789abcdef"
    for listed in (facts["extensions"], None):
        server.sql(helper, "postgres")
        server.restore(dump, listed)
        assert server.sql(POWERS, "postgres") == "f"
        assert server.sql("SELECT h FROM a") == '"a"=>"1"'
        assert "pageinspect" in server.extensions()
    server.sql("DROP EXTENSION pageinspect", "postgres")
    with pytest.raises(BackupError, match="pageinspect is not in the list"):
        server.restore(dump, ["hstore"])
    # In a schema that a restore does not replace, so that there is something to remove.
    server.sql(
        "DROP EXTENSION ledger; CREATE SCHEMA ops; CREATE EXTENSION ledger SCHEMA ops;"
        f"GRANT USAGE ON SCHEMA ops TO shop; GRANT ALL ON ops.ledger_settings TO shop; {helper}",
        "postgres",
    )
    server.sql("CREATE TRIGGER t AFTER INSERT ON ops.ledger_settings EXECUTE FUNCTION evil()")
    # So that there is something to transfer, and somebody to end.
    server.sql("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor", "postgres")
    assert roles.apply("the superuser's", "own", ["pageinspect"])["done"]
    sleeps = f"docker exec --env PGAPPNAME=dump {NAME} psql --username shop --dbname shop --command"
    statement = "SELECT pg_sleep('60'::float8)"
    with subprocess.Popen([*sleeps.split(), statement], stderr=subprocess.DEVNULL) as client:
        named = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dump'"
        while server.sql(named, "postgres") != "1":
            assert client.poll() is None
        assert end_postgres_sessions(server.docker, NAME, ["dump"])
        assert client.wait(30) != 0
    look = server.docker.inside(NAME, f'{postgres_sql.ASK_POSTGRES} --command "{IDENTITY}"')
    assert len(server.docker.text("?", look)) == 32
    assert server.sql(POWERS, "postgres") == "f"
    left = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"
    assert server.sql(left, "postgres") == "own"
    schemas = server.sql("SELECT nspname FROM pg_namespace", "postgres").split()
    assert not [name for name in schemas if name.startswith("crisper")]
    # The traps are such.
    server.sql("SELECT format('x'::text, 'y'::name)", "postgres")
    assert server.sql(POWERS, "postgres") == "t"
    server.sql("ALTER ROLE shop NOSUPERUSER", "postgres")


def test_a_schema_of_the_applications_has_any_name(server: Server) -> None:
    """Regression: a restore dropped a schema called crisper_restore, and no dump had it."""
    server.sql("CREATE SCHEMA crisper_restore; CREATE TABLE crisper_restore.a AS SELECT 1 AS x")
    facts, dump = server.dump()
    assert facts["rows"] == {"crisper_restore.a": 1}
    for _ in range(2):
        server.restore(dump, facts["extensions"])
        assert server.sql("SELECT x FROM crisper_restore.a") == "1"
    done = Roles(server.docker, server.container, "shop").apply("the superuser's", "own", [])
    assert done["done"] == []


def test_what_hides_in_an_extension_is_no_backup(server: Server) -> None:
    """Regression: pg_dump leaves out what belongs to an extension, and nobody said so."""
    server.sql("CREATE EXTENSION hstore; CREATE TABLE hidden AS SELECT 1 AS x")
    server.sql("ALTER EXTENSION hstore ADD TABLE hidden")
    with pytest.raises(BackupError) as caught:
        server.dump()
    remedy = str(caught.value).partition("(ALTER")[2].partition(")")[0]
    assert remedy == ' EXTENSION "hstore" DROP TABLE public.hidden'
    server.sql(f"ALTER{remedy}")
    assert server.dump()[0]["rows"] == {"public.hidden": 1}


def test_a_database_that_its_owner_has_closed_is_told_and_opened(server: Server) -> None:
    server.sql("ALTER DATABASE shop ALLOW_CONNECTIONS false", "postgres", "postgres")
    with pytest.raises(BackupError) as caught:
        server.dump()
    assert str(caught.value).endswith(OPEN_DATABASE)
    command = OPEN_DATABASE.replace("docker compose exec postgres", f"docker exec {NAME}")
    subprocess.run(shlex.split(command), check=True, stdout=subprocess.DEVNULL)
    assert server.dump()[0]["rows"] == {}


def test_what_the_application_puts_before_names_stops_no_restore(server: Server) -> None:
    """Regression: RESTORE_BEGIN called pg_has_role() by the application's own search_path."""
    server.sql("CREATE TABLE items (id int, tags int[]); INSERT INTO items VALUES (1, '{1,NULL}')")
    _, dump = server.dump()
    server.sql(
        "CREATE SCHEMA evil; CREATE FUNCTION evil.pg_has_role(name, oid, text) RETURNS bool"
        " LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';"
        " ALTER ROLE shop SET search_path = evil, pg_catalog, public;"
        " ALTER ROLE shop SET array_nulls = off"
    )
    server.restore(dump)
    assert server.sql("SELECT * FROM public.items", "postgres") == "1|{1,NULL}"
    server.sql("ALTER ROLE shop RESET ALL", "postgres")


def test_more_than_one_transaction_can_remove_is_told_with_a_way_out(server: Server) -> None:
    """Regression: after 24,000 empty large objects, no set could be restored, however clean."""
    server.sql("CREATE TABLE items (id int); INSERT INTO items VALUES (1)")
    _, clean = server.dump()
    server.sql("SELECT count(lo_create(0)) FROM generate_series(1, 2000);\n" * 12)
    _, own = server.dump()
    with pytest.raises(BackupError) as caught:
        server.restore(clean)
    assert "as it was" in str(caught.value)
    assert DROP_DATABASE in str(caught.value)
    for dump, objects in ((own, "24000"), (clean, "0")):
        command = DROP_DATABASE.replace("docker compose exec postgres", f"docker exec {NAME}")
        subprocess.run(shlex.split(command), check=True)
        make_postgres_database(server.docker, server.container)
        server.restore(dump)
        counted = server.sql("SELECT count(*) FROM pg_largeobject_metadata", "postgres")
        assert (server.sql("SELECT * FROM items"), counted) == ("1", objects)


def test_a_restore_that_fails_says_whose_dump_it_is(server: Server) -> None:
    with pytest.raises(BackupError, match=r"\(PostgreSQL 99.1 made the dump, and 17\.\d+ restores"):
        restore_postgres(
            server.docker, server.container, io.BytesIO(b"PGDMP no dump"), "", None, "99.1"
        )
