"""The application's role and the superuser, on a real PostgreSQL of this machine."""

from __future__ import annotations

import io
import json
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.postgres import (
    dump_postgres,
    has_postgres_database,
    make_postgres_database,
    make_template_database,
    postgres_state,
    restore_postgres,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.postgres_sql import (
    ASK_POSTGRES,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.psql import (
    end_postgres_sessions,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.database import superuser
from ansible_collections.crisper.stack.plugins.module_utils.database.catalog import read_catalog
from ansible_collections.crisper.stack.plugins.module_utils.database.cluster_dangers import (
    of_cluster,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.connections import (
    of_databases,
    of_members,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.dangers import (
    find_dangers,
    of_roles,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.planted import of_superusers
from ansible_collections.crisper.stack.plugins.module_utils.database.roles import (
    Roles,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.scram import (
    matches,
    scram_verifier,
)
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker
from ansible_collections.crisper.stack.plugins.module_utils.text import composed
from postgres_server import Server, running_postgres

OWN, SECRET = "p@ss'w\"rd \\ 한국어", "superuser's secret"
OWNERS = """
SELECT json_object_agg(kind || ' ' || name, pg_get_userbyid(owner)) FROM (
  SELECT c.oid, relkind::text AS kind, n.nspname || '.' || relname AS name, relowner AS owner
    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE n.nspname !~ '^pg_'
  UNION ALL SELECT oid, 'type', typname::text, typowner FROM pg_type
  UNION ALL SELECT oid, 'function', proname::text, proowner FROM pg_proc
  UNION ALL SELECT oid, 'schema', nspname::text, nspowner FROM pg_namespace WHERE nspname !~ '^pg_'
    AND nspname <> 'public'
  UNION ALL SELECT oid, 'operator', oprname::text, oprowner FROM pg_operator
  UNION ALL SELECT oid, 'collation', collname::text, collowner FROM pg_collation
  UNION ALL SELECT oid, 'statistics', stxname::text, stxowner FROM pg_statistic_ext
  UNION ALL SELECT oid, 'search', cfgname::text, cfgowner FROM pg_ts_config
  UNION ALL SELECT oid, 'database', datname::text, datdba FROM pg_database
    WHERE datname = current_database()
  UNION ALL SELECT 99999, 'large', oid::text, lomowner FROM pg_largeobject_metadata
) owned WHERE oid >= 16384 AND name !~ '^pg_toast'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = owned.oid
    AND (d.deptype = 'e' OR d.deptype = 'i' AND kind IN ('function', 'type')))
"""
# What an application, its migrations and its operators may have made as superuser.
OBJECTS = """
CREATE ROLE readonly LOGIN; CREATE ROLE reporting LOGIN; CREATE ROLE helper NOLOGIN;
GRANT shop TO readonly; GRANT helper TO shop;
ALTER ROLE shop SET search_path = "$user", public, other;
ALTER ROLE shop IN DATABASE shop SET work_mem = '5MB';
ALTER ROLE shop CONNECTION LIMIT 90;
CREATE SCHEMA other;
CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TYPE pair AS (a int, b int);
CREATE TYPE span AS RANGE (subtype = int4); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE items (id serial PRIMARY KEY, title text, feeling mood, n positive);
CREATE TABLE parts (id int GENERATED ALWAYS AS IDENTITY, item int REFERENCES items);
CREATE TABLE split (id int) PARTITION BY RANGE (id);
CREATE TABLE split_1 PARTITION OF split FOR VALUES FROM (0) TO (1000);
CREATE SEQUENCE numbers; CREATE TABLE other."Odd|Name" (x int);
INSERT INTO items (title) SELECT md5(n::text) FROM generate_series(1, 500) n;
CREATE VIEW listed AS SELECT id, title FROM items;
CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM items;
CREATE FUNCTION doubled(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1';
CREATE FUNCTION whoami() RETURNS name LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user';
CREATE PROCEDURE nothing() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int, initcond = '0');
CREATE OPERATOR === (leftarg = int, rightarg = int, function = int4eq);
CREATE COLLATION plain FROM "C"; CREATE STATISTICS tied ON title, n FROM items;
CREATE TEXT SEARCH CONFIGURATION words (COPY = simple);
SELECT lo_from_bytea(4711, 'large');
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO readonly;
ALTER DEFAULT PRIVILEGES IN SCHEMA other GRANT USAGE ON SEQUENCES TO readonly;
ALTER TABLE items ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON items TO shop USING (true);
CREATE SCHEMA reports AUTHORIZATION reporting;
SET ROLE reporting; CREATE TABLE reports.figures (x int); INSERT INTO reports.figures VALUES (7);
RESET ROLE; CREATE EXTENSION hstore; CREATE EXTENSION pageinspect;
"""
MADE = (
    *("function doubled", "function whoami", "function nothing", "function total"),
    *("r public.items", "S public.items_id_seq", "p public.split", "r public.split_1"),
    *("S public.numbers", "r other.Odd|Name", "v public.listed", "m public.counted"),
    *("type mood", "type pair", "type span", "type positive", "schema other", "large 4711"),
    *("operator ===", "collation plain", "statistics tied", "search words", "database shop"),
)
REFUSED = re.compile("permission denied|must be superuser|must have")
ATTACKS = (
    "COPY pg_class FROM PROGRAM 'id'",
    "CREATE TABLE IF NOT EXISTS attack (x text); COPY attack FROM PROGRAM 'id'",
    "CREATE TABLE IF NOT EXISTS attack (x text); COPY attack TO '/tmp/crisper-attack'",
    "SELECT pg_read_file('/etc/passwd')",
    "CREATE ROLE more SUPERUSER",
    "CREATE ROLE more",
    "ALTER ROLE shop SUPERUSER",
    "ALTER ROLE shop REPLICATION",
    "CREATE DATABASE more",
    "SET ROLE postgres",
    "SELECT rolpassword FROM pg_authid",
    "ALTER SYSTEM SET archive_command = 'id'",
    "CREATE EXTENSION file_fdw",
    "GRANT pg_execute_server_program TO shop",
    "SET session_replication_role = replica",
)


@pytest.fixture
def old() -> Iterator[Server]:
    """A stack of an edition whose application was superuser, and what may be in it."""
    with running_postgres("shop", "shop", OWN) as server:
        server.sql(OBJECTS)
        yield server


def dangers_of(docker: Docker) -> list[str]:
    """Return what is told of the stack's PostgreSQL."""
    roles = Roles(docker, "x", "shop")
    return find_dangers(roles, roles.state(), None)


def owners(server: Server) -> dict[str, str]:
    """Return the owner of everything in the database."""
    return json.loads(server.sql(OWNERS, "postgres"))


def test_an_application_that_was_superuser_is_moved(old: Server, docker: Docker) -> None:
    assert old.log_in("shop", OWN, "COPY items (title) FROM PROGRAM 'id'; SELECT 1") == "1"
    open_session = subprocess.Popen(
        old.command("shop"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert open_session.stdin
    assert open_session.stdout
    open_session.stdin.write("SELECT count(*) FROM items;\n")
    open_session.stdin.flush()
    before = int(open_session.stdout.readline())

    result = Roles(docker, "x", "shop").apply(SECRET, "", [])
    assert result["moved"]
    assert "takes that over" in result["done"][0]

    found = owners(old)
    assert {name for name, owner in found.items() if owner not in ("shop", "reporting")} == set()
    for each in MADE:
        assert found[each] == "shop", each
    assert found["schema reports"] == "reporting"

    for statement in ATTACKS:
        assert REFUSED.search(old.log_in("shop", OWN, statement)), statement
    assert old.log_in("shop", OWN, "SELECT whoami()") == "shop"
    settings = old.log_in("shop", OWN, "SHOW search_path; ")
    assert settings == '"$user", public, other'
    assert old.log_in("shop", OWN, "SHOW work_mem") == "5MB"
    assert old.log_in("shop", OWN, "SELECT x FROM reports.figures") == "7"
    # Whoever was a member of the application's role is not one of the superuser's.
    assert old.sql("SELECT count(*) FROM pg_auth_members WHERE roleid = 10", "postgres") == "0"
    assert "permission denied" in error_of(old, "SET ROLE postgres", "readonly")
    assert old.sql("SET ROLE shop; SELECT current_user", "readonly") == "shop"
    assert old.sql("SELECT pg_has_role('shop', 'helper', 'USAGE')") == "t"
    assert old.sql("SELECT rolconnlimit FROM pg_roles WHERE rolname = 'shop'") == "90"
    new = "CREATE TABLE later (id int); SELECT has_table_privilege('readonly', 'later', 'SELECT')"
    assert old.log_in("shop", OWN, new).splitlines()[-1] == "t"
    assert old.sql("SELECT count(*) FROM pg_default_acl WHERE defaclrole = 10", "postgres") == "0"
    alembic = "ALTER TABLE items ADD y int; DROP VIEW listed; CREATE EXTENSION pgcrypto; SELECT 1"
    assert old.log_in("shop", OWN, alembic) == "1"
    assert old.log_in("postgres", SECRET) == "postgres"

    # Who was connected notices nothing, and what it makes is given to the application later.
    open_session.stdin.write("SELECT count(*) FROM items; CREATE TABLE late (id int);\n")
    open_session.stdin.close()
    assert int(open_session.stdout.readline()) == before
    assert open_session.wait() == 0
    again = Roles(docker, "x", "shop").apply(SECRET, "", [])
    assert again["done"] == ["1 objects of postgres belong to shop"]
    assert owners(old)["r public.late"] == "shop"
    assert Roles(docker, "x", "shop").apply(SECRET, "", []) == {
        "moved": False, "done": [], "postponed": ""
    }  # fmt: skip


def error_of(server: Server, statement: str, user: str) -> str:
    """Return the error of a statement."""
    with pytest.raises(RuntimeError) as caught:
        server.sql(statement, user)
    return str(caught.value)


def test_a_move_that_is_killed_goes_on_and_never_closes_the_door(
    old: Server, docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    whole: Callable[..., str] = superuser.Superuser.run
    left = 0

    def dies(self: superuser.Superuser, *words: str, **settings: str) -> str:
        nonlocal left
        left -= 1
        if left < 0:
            raise KilledError
        return whole(self, *words, **settings)

    monkeypatch.setattr(superuser.Superuser, "run", dies)
    for last in range(1, 12):
        left = last
        try:
            Roles(docker, "x", "shop").apply(SECRET, "", [])
            break
        except KilledError:
            # Views, keys and functions of two owners work together meanwhile.
            look = "INSERT INTO parts (item) VALUES (1); SELECT count(*) > 0 FROM listed"
            assert old.log_in("shop", OWN, look) == "t", last
    else:
        pytest.fail("the move never ended")
    assert last > 5
    assert owners(old)["r public.items"] == "shop"
    assert "crisper_renames" not in old.sql("SELECT string_agg(rolname, ' ') FROM pg_roles")


def test_requests_go_on_while_a_transaction_holds_a_table(
    old: Server, docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(superuser, "LOCK_MILLISECONDS", 100)
    holder = subprocess.Popen(
        old.command("shop"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin
    assert holder.stdout
    holder.stdin.write("BEGIN; SELECT id FROM items LIMIT 1;\n")
    holder.stdin.flush()
    holder.stdout.readline()
    failed: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            said = old.log_in("shop", OWN, "SELECT count(*) FROM listed")
            if said != "500":
                failed.append(said)

    client = threading.Thread(target=ask)
    client.start()
    try:
        result = Roles(docker, "x", "shop", wait=1).apply(SECRET, "", [])
        assert not result["moved"]
        assert "holds a lock" in result["postponed"]
        assert "public.items" in result["postponed"]
        assert old.log_in("shop", OWN, "SELECT pg_read_file('/etc/hostname') <> ''") == "t"
        holder.stdin.close()
        holder.wait()
        assert Roles(docker, "x", "shop").apply(SECRET, "", [])["moved"]
    finally:
        stop.set()
        client.join()
    assert failed == []


def test_a_dump_of_either_edition_is_the_applications_again(old: Server, docker: Docker) -> None:
    old.sql("REVOKE shop FROM readonly; DROP SCHEMA reports CASCADE")
    early, late = io.BytesIO(), io.BytesIO()
    dump_postgres(docker, "x", early)
    Roles(docker, "x", "shop").apply(SECRET, "", [])
    told = dump_postgres(docker, "x", late)
    before = owners(old)
    for dump in (early, late):
        old.log_in(
            "shop", OWN, "DROP TABLE parts; CREATE TABLE newer (id int); SELECT lo_unlink(4711)"
        )
        dump.seek(0)
        restore_postgres(docker, "x", dump)
        assert owners(old) == before
        assert old.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'crisper_restore'") == "0"
        assert REFUSED.search(old.log_in("shop", OWN, ATTACKS[1]))
        old.log_in("shop", OWN, "DROP TABLE attack")
    assert told["rows"]["public.items"] == 500


def test_what_a_dump_brings_does_not_run_as_superuser(docker: Docker) -> None:
    """A check constraint runs its function while rows are copied in."""
    with running_postgres("postgres", "shop", "x") as server:
        Roles(docker, "x", "shop").apply(SECRET, OWN, [])
        trap = (
            "CREATE FUNCTION trap(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN"
            " BEGIN EXECUTE 'RESET SESSION AUTHORIZATION'; EXECUTE 'RESET ROLE';"
            " EXECUTE 'ALTER ROLE shop SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END;"
            " RETURN true; END $$;"
            "CREATE TABLE bait (id int CHECK (trap(id))); INSERT INTO bait VALUES (1)"
        )
        server.log_in("shop", OWN, trap)
        dump = io.BytesIO()
        dump_postgres(docker, "x", dump)
        dump.seek(0)
        restore_postgres(docker, "x", dump)
        assert server.sql("SELECT count(*) FROM bait") == "1"
        assert server.sql("SELECT rolsuper FROM pg_roles WHERE rolname = 'shop'") == "f"


def test_a_dump_that_needs_a_superuser_is_told_and_changes_nothing(docker: Docker) -> None:
    with running_postgres("postgres", "shop", "x") as server:
        Roles(docker, "x", "shop").apply(SECRET, OWN, [])
        server.sql("CREATE TABLE a (b int); INSERT INTO a VALUES (1)")
        server.sql("CREATE PUBLICATION everything FOR ALL TABLES", "postgres")
        dump = io.BytesIO()
        dump_postgres(docker, "x", dump)
        dump.seek(0)
        server.sql("INSERT INTO a VALUES (2)")
        with pytest.raises(BackupError, match=r"superuser to create .*docs/BACKUP.md"):
            restore_postgres(docker, "x", dump)
        assert server.sql("SELECT count(*) FROM a") == "2"


def test_a_fresh_server_gets_its_application(docker: Docker) -> None:
    with running_postgres("postgres", "shop", "x") as server:
        result = Roles(docker, "x", "shop").apply(SECRET, OWN, ["hstore", "pageinspect"])
        assert not result["moved"]
        assert len(result["done"]) == 5
        assert server.log_in("shop", OWN) == "shop"
        assert "authentication failed" in server.log_in("postgres", "x")
        assert server.log_in("postgres", SECRET) == "postgres"
        for statement in ATTACKS:
            assert REFUSED.search(server.log_in("shop", OWN, statement)), statement
        made = "CREATE TABLE a (b hstore); CREATE SCHEMA mine; CREATE EXTENSION pgcrypto; SELECT 1"
        assert server.log_in("shop", OWN, made) == "1"
        assert Roles(docker, "x", "shop").apply(SECRET, OWN, ["hstore"])["done"] == []
        # Powers that somebody gave it are taken back.
        server.sql("ALTER ROLE shop SUPERUSER CREATEDB; GRANT postgres TO shop", "postgres")
        done = Roles(docker, "x", "shop").apply(SECRET, OWN, [])["done"]
        assert done == ["the role shop loses SUPERUSER, CREATEDB", "the role shop leaves postgres"]
        assert REFUSED.search(server.log_in("shop", OWN, "SET ROLE postgres"))
        # What a restore that was killed left behind.
        server.sql("CREATE SCHEMA crisper_restore", "postgres")
        done = Roles(docker, "x", "shop").apply(SECRET, OWN, [])["done"]
        assert done == ["what a restore that was killed left is removed"]
        with pytest.raises(BackupError, match="database_extensions names 'nosuch'"):
            Roles(docker, "x", "shop").apply(SECRET, OWN, ["nosuch"])


OWN_HARM = {
    "no right to connect": "REVOKE ALL ON DATABASE shop FROM PUBLIC, shop",
    "read only": "ALTER ROLE shop SET default_transaction_read_only = on",
    "a library": "ALTER ROLE shop IN DATABASE shop SET local_preload_libraries = nosuch",
    "a limit": "ALTER ROLE shop SET statement_timeout = 1; ALTER ROLE shop SET lock_timeout = 1",
    "a limit of the database": "ALTER DATABASE shop SET idle_in_transaction_session_timeout = 1",
    "another password": "ALTER ROLE shop PASSWORD 'x'",
}


def test_what_the_application_does_to_its_own_role_ends_with_the_next_deploy(
    docker: Docker,
) -> None:
    """Regression: neither a deploy nor a restore healed or named it."""
    work = "CREATE TABLE more (a int); DROP TABLE more; SELECT sum(a) FROM things"
    with running_postgres("postgres", "shop", "x") as server:
        roles = Roles(docker, "x", "shop")
        roles.apply(SECRET, OWN, [])
        server.sql("CREATE TABLE things (a int); INSERT INTO things VALUES (7)")
        server.sql("ALTER ROLE shop SET statement_timeout = '30s'")
        dump = io.BytesIO()
        dump_postgres(docker, "x", dump)
        for statement in OWN_HARM.values():
            server.sql(statement)
            dump.seek(0)
            restore_postgres(docker, "x", dump)
            if "PASSWORD" not in statement:
                dump_postgres(docker, "x", io.BytesIO())
            server.sql(statement, "postgres")
            done = roles.apply(SECRET, OWN, [])["done"]
            assert len(done) == statement.count(";") + 1, (statement, done)
            assert server.log_in("shop", OWN, work) == "7", statement
            assert roles.apply(SECRET, OWN, [])["done"] == []


def test_a_schema_with_the_name_of_a_restores_is_in_the_dump(docker: Docker) -> None:
    """Regression: the application hid its tables from backups, which were reported good."""
    hide = (
        "CREATE SCHEMA crisper_restore_0000000000000000; CREATE TABLE hidden (a int PRIMARY KEY);"
        " INSERT INTO hidden VALUES (1), (2); ALTER TABLE hidden SET SCHEMA"
        " crisper_restore_0000000000000000; CREATE VIEW hidden AS SELECT * FROM"
        " crisper_restore_0000000000000000.hidden;"
        "CREATE TABLE split (a int) PARTITION BY LIST (a);"
        "CREATE TABLE crisper_restore_0000000000000000.rest PARTITION OF split DEFAULT;"
        "INSERT INTO split VALUES (1), (2), (3)"
    )
    with running_postgres("postgres", "shop", "x") as server:
        Roles(docker, "x", "shop").apply(SECRET, OWN, [])
        server.sql(hide)
        # What a restore that was killed has left is in none.
        server.sql("CREATE SCHEMA crisper_restore_00000000000000aa", "postgres")
        dump = io.BytesIO()
        facts = dump_postgres(docker, "x", dump)
        server.sql("DROP SCHEMA crisper_restore_0000000000000000 CASCADE; DROP TABLE split")
        dump.seek(0)
        restore_postgres(docker, "x", dump)
        assert postgres_state(docker, "x")["rows"] == facts["rows"]
        assert server.sql("SELECT (SELECT count(*) FROM hidden), count(*) FROM split") == "2|3"
        assert server.sql("SELECT count(*) FROM pg_namespace WHERE nspname ~ 'aa$'") == "0"


def test_a_name_that_is_taken_is_not_given_twice(docker: Docker) -> None:
    with running_postgres("shop", "shop", OWN) as server:
        server.sql("CREATE ROLE postgres LOGIN; CREATE ROLE shop_application")
        with pytest.raises(BackupError, match=r"has a role shop_application.*Nothing was changed"):
            Roles(docker, "x", "shop").apply(SECRET, "", [])
        server.sql("ALTER ROLE shop_application RENAME TO mine")
        result = Roles(docker, "x", "shop").apply(SECRET, "", [])
        assert result["moved"]
        assert "shop_superuser takes" in result["done"][0]
        assert server.sql("SELECT rolname FROM pg_roles WHERE rolsuper") == "shop_superuser"
        dump_postgres(docker, "x", io.BytesIO())


def test_a_verifier_is_that_of_its_password_alone() -> None:
    for password in (OWN, SECRET, "ascii", "\u2168 \u00ad"):
        assert matches(password, scram_verifier(password))
        assert not matches(f"{password}x", scram_verifier(password))
    assert matches("IX", scram_verifier("I\u00adX"))  # RFC 4013
    assert not matches("x", "md5" + "0" * 32)
    assert not matches("x", "")


# What an attacker with the application's password makes: whoever calls it as superuser is robbed.
TRAP = """
CREATE SCHEMA atk; GRANT ALL ON SCHEMA atk TO PUBLIC;
CREATE FUNCTION atk.go(why text) RETURNS text LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$ BEGIN
  BEGIN RESET ROLE; EXCEPTION WHEN OTHERS THEN NULL; END;
  BEGIN RESET SESSION AUTHORIZATION; EXCEPTION WHEN OTHERS THEN NULL; END;
  IF current_setting('is_superuser') = 'on'
      OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN
    EXECUTE 'ALTER ROLE shop SUPERUSER';
  END IF;
  RETURN NULL;
END $$;
CREATE FUNCTION atk.pure(why text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
  $$ BEGIN RETURN atk.go(why); END $$;
CREATE FUNCTION atk.fires() RETURNS event_trigger LANGUAGE plpgsql AS
  $$ BEGIN PERFORM atk.go('t'); END $$;
"""

SHADOWS = {
    "a function that matches closer": """
        CREATE FUNCTION public.format(text, name, name) RETURNS text LANGUAGE sql AS
          'SELECT coalesce(atk.go(''f''), pg_catalog.format($1, $2, $3))';
        CREATE FUNCTION public.format(text, name) RETURNS text LANGUAGE sql AS
          'SELECT coalesce(atk.go(''f''), pg_catalog.format($1, $2))'""",
    "an aggregate that matches closer": """
        CREATE FUNCTION atk.step(json, name) RETURNS json LANGUAGE sql AS
          'SELECT coalesce(atk.go(''a''), ''[]'')::json';
        CREATE AGGREGATE public.json_agg(name) (sfunc = atk.step, stype = json, initcond = '[]')""",
    "an operator that matches closer": """
        CREATE FUNCTION atk.same(name, name) RETURNS bool LANGUAGE sql AS
          'SELECT atk.go(''o'') IS NULL';
        CREATE OPERATOR atk.= (leftarg = name, rightarg = name, function = atk.same);
        CREATE OPERATOR atk.<> (leftarg = name, rightarg = name, function = atk.same);
        ALTER DATABASE shop SET search_path = atk, pg_catalog, public""",
    "relations before the catalog's": """
        CREATE VIEW atk.pg_roles AS SELECT * FROM pg_catalog.pg_roles WHERE atk.go('p') IS NULL;
        CREATE VIEW atk.pg_class AS SELECT * FROM pg_catalog.pg_class WHERE atk.go('p') IS NULL;
        CREATE VIEW atk.pg_database AS
          SELECT * FROM pg_catalog.pg_database WHERE atk.go('p') IS NULL;
        CREATE VIEW atk.pg_namespace AS
          SELECT * FROM pg_catalog.pg_namespace WHERE atk.go('p') IS NULL;
        CREATE VIEW atk.pg_stat_activity AS
          SELECT * FROM pg_catalog.pg_stat_activity WHERE atk.go('p') IS NULL;
        ALTER DATABASE shop SET search_path = atk, pg_catalog, public""",
    "a view in place of the migrations' table": """
        ALTER TABLE alembic_version RENAME TO av_real;
        CREATE VIEW alembic_version AS
          SELECT version_num FROM av_real WHERE atk.go('v') IS NULL""",
    "an index that the planner evaluates": """
        CREATE TABLE planned (id int);
        CREATE INDEX ON planned (id) WHERE atk.pure('i') IS NULL;
        CREATE INDEX ON planned (atk.pure('e' || id::text)); INSERT INTO planned VALUES (1)""",
    "a policy and a generated column": """
        CREATE TABLE secret (id int, shown text GENERATED ALWAYS AS (atk.pure('g')) STORED);
        INSERT INTO secret VALUES (1), (2);
        ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
        ALTER TABLE secret FORCE ROW LEVEL SECURITY;
        CREATE POLICY one ON secret USING (atk.go('r') IS NULL AND id = 1)""",
    "settings that close the database to the superuser": """
        ALTER DATABASE shop SET local_preload_libraries = 'nosuch';
        ALTER DATABASE shop SET default_transaction_read_only = on;
        ALTER DATABASE shop SET statement_timeout = 1;
        ALTER DATABASE shop SET quote_all_identifiers = on;
        ALTER DATABASE shop SET role = shop""",
}


def test_a_superuser_runs_nothing_of_the_applications(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backup, restore, deploy and the look at the database, after each attack."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "library"))
    from database_identity import IDENTITY

    with running_postgres("postgres", "shop", "x") as server:
        Roles(docker, "x", "shop").apply(SECRET, OWN, [])
        server.sql("CREATE TABLE alembic_version (version_num text)")
        server.sql("INSERT INTO alembic_version VALUES ('8')")
        server.sql(TRAP)
        # An operator's, by a function that is the application's.
        watch = "CREATE EVENT TRIGGER watch ON ddl_command_start EXECUTE FUNCTION atk.fires()"
        server.sql(watch, "postgres")
        powers = "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = 'shop'"
        extensions = iter(("hstore", "pageinspect"))
        # First those that need no setting of the database.
        for late in (False, True):
            for attack in SHADOWS.values():
                if ("ALTER DATABASE" in attack) is late:
                    server.sql(attack)
            dump = io.BytesIO()
            assert dump_postgres(docker, "x", dump, "a dump")["migration_head"] == ["8"]
            rows = postgres_state(docker, "x")["rows"]
            assert end_postgres_sessions(docker, "x", ["a dump"])
            done = Roles(docker, "x", "shop").apply(SECRET, OWN, [next(extensions)])["done"]
            # With the settings that let the application do nothing, which are taken back.
            assert len(done) == (4 if late else 1), done
            looked = docker.text("?", docker.inside("x", f'{ASK_POSTGRES} --command "{IDENTITY}"'))
            assert len(looked) == 32
            assert server.sql(powers, "postgres", "template1") == "f"
        assert (rows["public.secret"], rows["public.planned"]) == (2, 1)
        dangers = dangers_of(docker)
        told = (
            "search_path=atk, pg_catalog, public",
            "role=shop",
        )
        for setting in told:
            assert any(setting in each for each in dangers), setting
        server.sql("ALTER DATABASE shop RESET ALL", "postgres", "template1")
        superuser = docker.inside("x", f'{ASK_POSTGRES} --command "DROP EVENT TRIGGER watch"')
        docker.text("?", superuser)
        dump = io.BytesIO()
        dump_postgres(docker, "x", dump)
        dump.seek(0)
        restore_postgres(docker, "x", dump)
        assert server.sql(powers, "postgres", "template1") == "f"


def test_the_applications_role_makes_nothing_in_other_databases(docker: Docker) -> None:
    with running_postgres("postgres", "shop", "x") as server:
        Roles(docker, "x", "shop").apply(SECRET, OWN, [])
        for database in ("postgres", "template1"):
            for statement in (
                "CREATE TABLE public.a (b int)",
                "CREATE SCHEMA a",
                f"ALTER DATABASE {database} SET search_path = a",
            ):
                with pytest.raises(RuntimeError, match=r"permission denied for database"):
                    server.sql(statement, "shop", database)
                with pytest.raises(RuntimeError, match=r"permission denied|must be owner"):
                    server.sql(f"SET ROLE shop; {statement}", "postgres", database)


def test_a_remedy_that_is_pasted_does_what_it_says(docker: Docker) -> None:
    """Regression: names of functions, casts and languages were printed without quotes."""
    evil = 'f"(); DROP TABLE kept; --\x1b[2J\\\n\u3164'
    name = '"' + evil.replace('"', '""') + '"'
    with running_postgres("postgres", "shop", "x") as server:
        Roles(docker, "x", "shop").apply(SECRET, OWN, [])
        server.sql("CREATE TABLE kept (id int)", "shop")
        server.sql(f"CREATE ROLE {name} REPLICATION; CREATE SCHEMA {name}", "postgres")
        server.sql(
            f"CREATE DOMAIN {name}.{name} AS int;"
            f" CREATE FUNCTION {name}.{name}({name}.{name}, int[]) RETURNS int LANGUAGE internal"
            " AS 'int4abs';"
            f" CREATE FUNCTION {name}.f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
            f" CREATE EVENT TRIGGER {name} ON ddl_command_start EXECUTE FUNCTION {name}.f();"
            " CREATE CAST (box AS text) WITH INOUT;"
            f" CREATE TEXT SEARCH TEMPLATE {name}.{name} (LEXIZE = dsimple_lexize);"
            f" CREATE LANGUAGE {name} HANDLER plpgsql_call_handler;"
            f" ALTER ROLE shop IN DATABASE shop SET session_preload_libraries = {name}",
            "postgres",
        )

        def dangers() -> list[str]:
            catalog = read_catalog(docker, "x", "shop")
            state = Roles(docker, "x", "shop").state()
            return [*of_roles(state), *of_superusers(catalog, False), *of_cluster(catalog, "shop")]

        found = dangers()
        assert len(found) == 7, found
        assert all(line.isprintable() for line in found)
        for line in found:
            remedy = line.rpartition("If it is not yours: ")[2]
            server.sql(remedy[remedy.index("ALTER ") if "RESET" in remedy else 0 :], "postgres")
        assert dangers() == []
        assert server.sql("SELECT count(*) FROM kept", "shop") == "0"


@pytest.mark.parametrize("first", ["postgres", "shop"])
def test_the_application_cannot_drop_its_database(docker: Docker, first: str) -> None:
    """Regression: its owner could, from the database postgres, and no restore made it again."""
    with running_postgres(first, "shop", "x") as server:
        roles = Roles(docker, "x", "shop")
        done = roles.apply(SECRET, OWN, [])["done"]
        assert any("connects to postgres and template1" in sentence for sentence in done)
        assert roles.apply(SECRET, OWN, [])["done"] == []
        for database in ("postgres", "template1"):
            with pytest.raises(RuntimeError, match="permission denied for database"):
                server.sql("DROP DATABASE shop WITH (FORCE)", "shop", database)
        server.sql("CREATE TABLE a AS SELECT 1 AS x", "shop")
        dump = io.BytesIO()
        dump_postgres(docker, "x", dump)
        assert has_postgres_database(docker, "x")
        # What the superuser drops, or an edition before this one let the application drop.
        server.sql("DROP DATABASE shop WITH (FORCE)", "postgres", "postgres")
        assert not has_postgres_database(docker, "x")
        with pytest.raises(BackupError, match=r"does not exist.*restores?\.yml"):
            roles.state()
        # A restore needs neither the application's database nor template1, whose owner may drop it.
        gone = "ALTER DATABASE template1 IS_TEMPLATE false", "DROP DATABASE template1"
        for statement in gone:
            server.sql(statement, "postgres", "postgres")
        assert not has_postgres_database(docker, "x")
        with pytest.raises(BackupError, match=r"does not exist.*restores?\.yml"):
            roles.state()
        make_template_database(docker, "x")
        make_template_database(docker, "x")
        made = "SELECT datistemplate, pg_get_userbyid(datdba), datacl FROM pg_database"
        template = "t|postgres|{postgres=CTc/postgres}"
        assert server.sql(f"{made} WHERE datname = 'template1'", "postgres", "postgres") == template
        make_postgres_database(docker, "x")
        dump.seek(0)
        restore_postgres(docker, "x", dump, "", ["plpgsql"])
        assert server.sql("SELECT x FROM a", "shop") == "1"
        assert server.log_in("shop", OWN) == "shop"


def test_no_membership_opens_another_database(docker: Docker) -> None:
    """Regression: rights of roles that it was a member of let it drop its database, and template1.

    What a superuser had granted stayed unseen.
    """
    with running_postgres("postgres", "shop", "x") as server:
        roles = Roles(docker, "x", "shop")
        roles.apply(SECRET, OWN, [])
        server.sql(
            'CREATE ROLE "audit ro" NOLOGIN; CREATE ROLE middle; CREATE ROLE passes;'
            'GRANT "audit ro" TO middle; GRANT middle TO shop;'
            'GRANT CONNECT ON DATABASE postgres, template1 TO "audit ro";'
            'ALTER DATABASE template1 OWNER TO "audit ro";'
            "GRANT CONNECT ON DATABASE postgres TO passes WITH GRANT OPTION; SET ROLE passes;"
            "GRANT CONNECT ON DATABASE postgres TO middle",
            "postgres",
        )
        inside = subprocess.Popen(
            server.command("shop", "postgres"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert inside.stdin
        assert inside.stdout
        inside.stdin.write("SELECT 1;\n")
        inside.stdin.flush()
        assert inside.stdout.readline() == "1\n"
        done = roles.apply(SECRET, OWN, [])["done"]
        assert any("template1 belongs to postgres again, and not to audit ro" in s for s in done)
        told = "the role audit ro, middle, which shop is a member of, connects to postgres no more"
        assert any(told in sentence for sentence in done), done
        assert roles.apply(SECRET, OWN, [])["done"] == []
        _, error = inside.communicate("DROP DATABASE shop WITH (FORCE);\n", timeout=20)
        assert "terminat" in error or "closed" in error, "a session that was open is ended"
        for database in ("postgres", "template1"):
            with pytest.raises(RuntimeError, match="permission denied for database"):
                server.sql("SELECT 1", "shop", database)
        # What is an operator's is told, with a remedy that closes it.
        server.sql("CREATE DATABASE metrics OWNER shop", "postgres", "postgres")
        server.sql('CREATE DATABASE "o\'d d"', "postgres", "postgres")
        server.sql(
            "CREATE ROLE reader LOGIN; GRANT shop TO reader; CREATE ROLE maker CREATEDB;"
            "GRANT maker TO shop; GRANT CONNECT ON DATABASE postgres TO reader",
            "postgres",
        )
        found = of_databases(read_catalog(docker, "x", "shop"), "shop")
        assert [re.sub(r",? and can .*|: from .*|: in a .*", "", each) for each in found] == [
            "the role shop may connect to the database metrics",
            "the role shop may connect to the database o'd d",
            "the role maker has CREATEDB and is one that may be taken by the role shop",
            "the role reader may act as the role shop and connects to the database postgres",
        ]
        assert "CREATEDB" in " ".join(dangers_of(docker))
        for sentence in found:
            server.sql(sentence.partition("If that is not yours: ")[2], "postgres")
        assert of_databases(read_catalog(docker, "x", "shop"), "shop") == []
        for user, database in (("shop", "metrics"), ("reader", "postgres")):
            with pytest.raises(RuntimeError, match="permission denied for database"):
                server.sql("SELECT 1", user, database)


def test_roles_to_come_back_with_are_named(docker: Docker) -> None:
    """Regression: a member of the application's role was named only beside other databases."""
    with running_postgres("postgres", "shop", "x") as server:
        Roles(docker, "x", "shop").apply(SECRET, OWN, [])
        server.sql(
            "CREATE ROLE evil LOGIN PASSWORD 'e'; CREATE ROLE between; GRANT shop TO between;"
            "GRANT between TO evil; CREATE ROLE above LOGIN; GRANT above TO shop;"
            "CREATE ROLE stranger LOGIN; CREATE ROLE closed; GRANT shop TO closed",
            "postgres",
        )
        assert server.log_in("evil", "e", "SET ROLE shop; SELECT current_user") == "shop"
        found = of_members(read_catalog(docker, "x", "shop"), "shop")
        assert [each.partition(" logs in")[0] for each in found] == [
            "the role above",
            "the role evil",
        ]
        assert set(found) <= set(dangers_of(docker))
        for sentence in found:
            server.sql(sentence.partition("If it is not yours: ")[2], "postgres")
        assert of_members(read_catalog(docker, "x", "shop"), "shop") == []
        assert "is not permitted to log in" in server.log_in("evil", "e")


def test_a_limit_of_its_owners_keeps_no_deploy_out(docker: Docker) -> None:
    """Regression: the application's new containers got `too many connections`."""
    with running_postgres("postgres", "shop", "x") as server:
        roles = Roles(docker, "x", "shop")
        roles.apply(SECRET, OWN, [])
        dump = io.BytesIO()
        dump_postgres(docker, "x", dump)
        server.sql("ALTER DATABASE shop CONNECTION LIMIT 0; ALTER DATABASE shop IS_TEMPLATE true")
        assert "too many connections" in server.log_in("shop", OWN)
        assert roles.apply(SECRET, OWN, [])["done"] == [
            "the database shop has no limit of connections any more (its owner can set one, and"
            " keep a deploy out)",
            "the database shop is no template any more",
        ]
        assert roles.apply(SECRET, OWN, [])["done"] == []
        assert server.log_in("shop", OWN) == "shop"
        server.sql("ALTER DATABASE shop CONNECTION LIMIT 0")
        dump.seek(0)
        restore_postgres(docker, "x", dump)
        assert server.log_in("shop", OWN) == "shop"


def test_who_keeps_a_deploy_from_the_roles_is_named(docker: Docker) -> None:
    """Regression: an idle transaction of the application failed each deploy, and was not named."""
    with running_postgres("postgres", "shop", "x") as server:
        roles = Roles(docker, "x", "shop")
        roles.apply(SECRET, OWN, [])
        holder = subprocess.Popen(
            server.command("shop"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdin
        assert holder.stdout
        holder.stdin.write(
            "ALTER ROLE shop PASSWORD NULL; BEGIN; ALTER ROLE shop PASSWORD 'y'; SELECT 1 /* ).\n"
            f"{' ' * 90}To end it run: x */;\n"
        )
        holder.stdin.flush()
        holder.stdout.readline()
        with pytest.raises(BackupError) as caught:
            roles.apply(SECRET, OWN, [])
        lines = composed(str(caught.value)).split("\n")
        pid = server.sql("SELECT pid FROM pg_stat_activity WHERE state ~ '^idle in t'", "postgres")
        (quoted,) = [line for line in lines if "To end it run" in line]
        assert quoted.startswith(f"| session {pid} of shop (idle in transaction, 'psql', trans")
        assert "  " not in quoted
        assert f"(SELECT pg_catalog.pg_terminate_backend({pid})), and deploy again" in lines[-1]
        server.sql(f"SELECT pg_terminate_backend({pid})", "postgres")
        assert roles.apply(SECRET, OWN, [])["done"] == ["the role shop gets its password"]
        holder.communicate()


def test_no_words_of_the_application_advise_a_restore(docker: Docker) -> None:
    """Regression: they did, and a restore replaces what was written since."""
    with running_postgres("postgres", "shop", "x") as server:
        Roles(docker, "x", "shop").apply(SECRET, OWN, [])
        words = 'database "shop" does not exist'
        forged = f"x\npsql: error: connection to server failed: FATAL:  {words}\nx"
        for raised in (words, forged):
            server.sql(
                "CREATE OR REPLACE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN"
                f" RAISE EXCEPTION '%', '{raised}'; END $$;"
                " CREATE OR REPLACE VIEW alembic_version AS SELECT f() AS version_num",
                "shop",
            )
            with pytest.raises(BackupError, match="does not exist") as caught:
                dump_postgres(docker, "x", io.BytesIO())
            assert "restore" not in str(caught.value)


def test_what_an_application_that_was_superuser_left_is_told(old: Server, docker: Docker) -> None:
    """Its event trigger calls a function that must not become the application's."""
    old.sql(
        'CREATE ROLE planted SUPERUSER LOGIN; CREATE ROLE "o\'dd\nrole" REPLICATION;'
        "CREATE ROLE reader; GRANT pg_read_server_files TO helper; GRANT helper TO reader;"
        "CREATE FUNCTION fires() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
        "CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION fires();"
        "CREATE FUNCTION raw(int) RETURNS int LANGUAGE internal STRICT AS 'int4abs'"
    )
    old.sql("ALTER SYSTEM SET archive_command = 'id; true'")
    Roles(docker, "x", "shop").apply(SECRET, "", [])
    dangers = dangers_of(docker)
    assert len(dangers) == 10, "\n".join(dangers)
    assert "move the data into a new cluster" in dangers[-2]
    assert "was not compared with a new cluster" in dangers[-1], "there is no engine here"
    for part in (
        'the role planted has powers (SUPERUSER). If it is not yours: DROP ROLE "planted"',
        r"the role o'dd\nrole has powers (REPLICATION)",
        "the role helper has powers (member of pg_read_server_files)",
        "the role reader has powers (member of pg_read_server_files)",
        "the role readonly logs in by itself and is a member of the role shop",
        "the event trigger watch in the database shop runs a function",
        "archive_command = id; true. If it is not yours: ALTER SYSTEM RESET archive_command",
        "the function public.raw(int4) in the database shop is in a language that is not trusted",
    ):
        assert sum(part in each for each in dangers) == 1, (part, dangers)
    assert "must be owner" in old.log_in(
        "shop",
        OWN,
        "CREATE OR REPLACE FUNCTION fires() RETURNS event_trigger LANGUAGE plpgsql"
        " AS 'BEGIN ALTER ROLE shop SUPERUSER; END'",
    )
