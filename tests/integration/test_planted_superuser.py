"""What a superuser has left in a PostgreSQL: found, not run, and gone in a new cluster."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends import (
    postgres,
    postgres_sql,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.psql import (
    end_postgres_sessions,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.database.dangers import find_dangers
from ansible_collections.crisper.stack.plugins.module_utils.database.fresh_cluster import FILE
from ansible_collections.crisper.stack.plugins.module_utils.database.roles import Roles
from ansible_collections.crisper.stack.plugins.module_utils.database.scram import matches
from ansible_collections.crisper.stack.plugins.module_utils.database.upgrade import Upgrade
from ansible_collections.crisper.stack.plugins.module_utils.database.upgrade_stack import (
    Stack as UpgradeStack,
)
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker

PROJECT = f"crispertest-planted-{os.getpid()}"
IMAGE = "postgres:17-trixie"
SECRETS = {"postgres_superuser_password": "super", "postgres_password": "own"}
# The stack's own data, and an extension.
DATA = """
CREATE EXTENSION hstore;
CREATE TABLE items (id serial PRIMARY KEY, title text, tags hstore);
INSERT INTO items (title, tags) SELECT n::text, 'a=>1' FROM generate_series(1, 500) n;
CREATE TABLE parent (id int) PARTITION BY RANGE (id);
CREATE TABLE "ch|ild
\\." PARTITION OF parent FOR VALUES FROM (0) TO (9);
INSERT INTO parent VALUES (1), (2); ANALYZE;
"""
# Makes the application superuser when a superuser runs it.
RISE = """$$ BEGIN
  IF current_setting('is_superuser') = 'on' THEN EXECUTE 'ALTER ROLE shop SUPERUSER'; END IF;
  RETURN @; END $$"""
ATTACKS = f"""
SET allow_system_table_mods = on;
CREATE SCHEMA atk;
CREATE FUNCTION atk.number(text) RETURNS bigint LANGUAGE plpgsql AS
  {RISE.replace("@", "int8in(textout($1))")};
CREATE CAST (text AS bigint) WITH FUNCTION atk.number(text);
CREATE FUNCTION pg_catalog.format(text, name, name) RETURNS text LANGUAGE plpgsql AS
  {RISE.replace("@", "$1")};
CREATE FUNCTION pg_catalog.array_agg(text) RETURNS text[] LANGUAGE plpgsql AS
  {RISE.replace("@", "ARRAY[$1]")};
CREATE FUNCTION atk.same(oid, int) RETURNS bool LANGUAGE plpgsql AS
  {RISE.replace("@", "$1 = $2::oid")};
CREATE OPERATOR pg_catalog.= (leftarg = oid, rightarg = int, function = atk.same);
CREATE FUNCTION atk.member(int) RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT ''x''';
ALTER EXTENSION hstore ADD FUNCTION atk.member(int);
CREATE OR REPLACE FUNCTION pg_catalog.pg_sleep_for(interval) RETURNS void LANGUAGE sql
  SECURITY DEFINER AS 'SELECT pg_sleep(0)';
UPDATE pg_language SET lanpltrusted = true WHERE lanname = 'c';
CREATE ROLE planted REPLICATION; GRANT pg_execute_server_program TO planted;
UPDATE pg_authid SET rolsuper = true, rolcanlogin = true WHERE rolname = 'pg_monitor';
GRANT SET ON PARAMETER session_preload_libraries TO planted;
ALTER ROLE planted SET session_preload_libraries = 'evil';
ALTER SYSTEM SET jit_provider = 'evil'; ALTER SYSTEM SET archive_command = 'id';
ALTER SYSTEM SET shared_preload_libraries = 'evil';
GRANT SELECT (rolpassword) ON pg_authid TO PUBLIC;
GRANT EXECUTE ON FUNCTION pg_read_file(text) TO PUBLIC;
CREATE FUNCTION atk.fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER planted AFTER INSERT ON pg_largeobject_metadata
  FOR EACH ROW EXECUTE FUNCTION atk.fires();
CREATE OR REPLACE VIEW pg_catalog.pg_group AS
  SELECT rolname AS groname, oid AS grosysid, '{{}}'::oid[] AS grolist FROM pg_authid
  WHERE atk.number('1') = 1;
CREATE EXTENSION postgres_fdw; CREATE SERVER loop FOREIGN DATA WRAPPER postgres_fdw;
CREATE USER MAPPING FOR PUBLIC SERVER loop OPTIONS (user 'x', password_required 'false');
CREATE TEXT SEARCH TEMPLATE pg_catalog.planted (LEXIZE = dsimple_lexize);
CREATE FUNCTION raw(int) RETURNS int LANGUAGE internal STRICT AS 'int4abs';
"""  # noqa: S608
ELSEWHERE = """
CREATE FUNCTION public.root() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT ''x''';
CREATE FUNCTION public.fires() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER watch ON login EXECUTE FUNCTION public.fires();
"""
# What is told of each of them, once.
FOUND = (
    "the cast (text AS int8) in the database shop is between types of PostgreSQL",
    "the function format(text, name, name) in the database shop is in a schema of PostgreSQL's",
    "the function array_agg(text) in the database shop is in a schema of PostgreSQL's own",
    "the operator = (oid, int4) in the database shop is in a schema of PostgreSQL's own",
    "the function atk.member(int4) of extension hstore in the database shop is not in a new",
    "the function pg_sleep_for(interval) in the database shop is not as a new cluster",
    "the language c in the database shop is not as a new cluster",
    "the role planted has powers (REPLICATION, member of pg_execute_server_program)",
    "more than in a new cluster: pg_monitor rolsuper rolcanlogin",
    '"planted" may change the setting session_preload_libraries (SET)',
    "sessions of planted start with session_preload_libraries=evil",
    "the server runs what ALTER SYSTEM has set: jit_provider = evil",
    "the server runs what ALTER SYSTEM has set: archive_command = id",
    "the server runs what ALTER SYSTEM has set: shared_preload_libraries = evil",
    "the relation pg_authid (rolpassword) in the database shop is not in a new cluster",
    "the function pg_read_file(text) (=X) in the database shop is open to more",
    "the relation pg_largeobject_metadata (planted) in the database shop is not in a new cluster",
    "the relation pg_group (_RETURN) in the database shop is not as a new cluster",
    "PUBLIC in the database shop reaches the server loop without a password",
    "the text search template planted in the database shop runs code of its maker",
    "the function public.raw(int4) in the database shop is in a language that is not trusted",
    "has a line that a new cluster has not: host {all} {planted} 0.0.0.0 0.0.0.0 trust",
    *(
        f"{what} in the database {database} {does}"
        for database in ("postgres", "template1")
        for what, does in (
            ("the function public.root()", "runs with the rights of the superuser"),
            ("the event trigger watch", "runs a function whenever a superuser logs in"),
        )
    ),
)
POWERS = "SELECT rolsuper FROM pg_authid WHERE rolname = 'shop'"
# As the refusal asks for it.
DROP = """
DROP CAST (text AS bigint); DROP SERVER loop CASCADE; DROP FUNCTION public.raw(int);
DROP TEXT SEARCH TEMPLATE pg_catalog.planted;
"""
COMPOSE = f"""
services:
  postgres:
    image: {IMAGE}
    user: "999:60902"
    environment: {{POSTGRES_USER: postgres, POSTGRES_DB: shop}}
    volumes: ["postgres:/var/lib/postgresql/data"]
volumes: {{postgres: {{}}}}
"""


def run(*arguments: str, text: str = "") -> str:
    """Return what the Docker client says."""
    done = subprocess.run(["docker", *arguments], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Stack:
    """A stack's PostgreSQL, whose application was superuser."""

    def __init__(self, root: Path) -> None:
        self.docker, self.root = Docker(timeout=120), root
        label = "com.docker.compose"
        self.container = run(
            *("run", "--detach", "--pull", "never", "--network", "none", "--memory", "512m"),
            *("--label", f"{label}.project={PROJECT}", "--label", f"{label}.service=postgres"),
            *("--label", f"{label}.oneoff=False", "--user", "999:60902"),
            *("--tmpfs", "/var/run/postgresql:mode=1777", "--env", "POSTGRES_PASSWORD=own"),
            *("--env", "POSTGRES_USER=shop", "--env", "POSTGRES_DB=shop"),
            *("--volume", f"{PROJECT}_postgres:/var/lib/postgresql/data", IMAGE),
        )
        self.ready()

    def ready(self) -> None:
        """Wait until it answers over TCP."""
        for _ in range(600):
            words = ("exec", self.container, "pg_isready", "-q", "-h", "127.0.0.1")
            if subprocess.run(["docker", *words], capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError(run("logs", self.container))

    def sql(self, text: str, role: str = "postgres", database: str = "shop") -> str:
        """Return what statements say."""
        psql = ("psql", "-XAtq", "--set", "ON_ERROR_STOP=1", "-U", role, "-d", database, "-f", "-")
        return run("exec", "--interactive", self.container, *psql, text=text)

    def dangers(self) -> list[str]:
        """Return what a deploy tells."""
        roles = Roles(self.docker, self.container, "shop")
        return find_dangers(roles, roles.state(), self.root, PROJECT)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that was moved after an attacker had it."""
    root = tmp_path_factory.mktemp("stack")
    found = Stack(root)
    try:
        found.sql(DATA, "shop")
        yield found
    finally:
        run("rm", "--force", "--volumes", found.container)
        for volume in run("volume", "ls", "--quiet", "--filter", f"name={PROJECT}").split():
            run("volume", "rm", "--force", volume)


def test_a_cluster_of_nobody_has_nothing_to_tell(stack: Stack) -> None:
    """Before and after the move, and however often it is asked: one new cluster is enough."""
    assert stack.dangers() == []
    before = (stack.root / FILE).stat().st_mtime_ns
    assert Roles(stack.docker, stack.container, "shop").apply("super", "", [])["moved"]
    assert stack.dangers() == []
    assert (stack.root / FILE).stat().st_mtime_ns == before
    assert (stack.root / FILE).stat().st_mode & 0o777 == 0o600
    assert run("ps", "--all", "--quiet", "--filter", f"label=crisper.measure={PROJECT}") == ""


def test_whatever_a_superuser_has_planted_is_told(stack: Stack) -> None:
    stack.sql(ATTACKS)
    for database in ("postgres", "template1"):
        stack.sql(ELSEWHERE, database=database)
    line = "host all planted 0.0.0.0/0 trust"
    run("exec", stack.container, "sh", "-c", f'echo "{line}" >> "$PGDATA/pg_hba.conf"')
    told = stack.dangers()
    for part in FOUND:
        assert sum(part in each for each in told) == 1, (part, told)
    assert len(told) == len(FOUND) + 1, told
    assert "-e database_rebuild=true" in told[-1]


def test_what_was_planted_does_not_run_as_superuser(stack: Stack) -> None:
    """A cast, functions that match closer, an operator: backup, look, ends of sessions, deploy."""
    docker, container = stack.docker, stack.container
    rows = {"public.items": 500, "public.parent": 2, "public.ch|ild\n\\.": 2}
    assert postgres.postgres_state(docker, container)["rows"] == rows
    assert end_postgres_sessions(docker, container, ["x"])
    assert stack.sql(POWERS) == "f"
    privileges = "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO pg_monitor"
    stack.sql(privileges)
    done = Roles(docker, container, "shop").apply("super", "own", [])["done"]
    assert len(done) == 1
    assert done[0].endswith("objects of postgres belong to shop")
    assert stack.sql(POWERS) == "f"
    for text in (postgres_sql.RESTORE_PREPARATION, postgres_sql.RESTORE_CLEANUP):
        script = text.replace("@helper@", "crisper_restore_0123456789abcdef")
        script = script.replace("@allowed@", "true").replace("@trusted@", "true")
        psql = ("psql", "-XAtq", "--set", "ON_ERROR_STOP=1", "--set", "application=shop")
        words = ("--env", "PGOPTIONS=-c search_path=pg_catalog,pg_temp", container, *psql)
        run("exec", "--interactive", *words, "-U", "postgres", "-d", "shop", "-f", "-", text=script)
    assert stack.sql(POWERS) == "f"
    # PostgreSQL's own pg_dump compares so: only a new cluster helps against that one.
    stack.sql("DROP OPERATOR pg_catalog.= (oid, int)")
    assert postgres.dump_postgres(docker, container, io.BytesIO())["rows"] == rows
    assert stack.sql(POWERS) == "f"


DROPS = r'DROP ROUTINE "public"."raw".*DROP CAST \("pg_catalog"."text" AS "pg_catalog"."int8"\)'


def test_a_new_cluster_has_the_data_and_nothing_else(stack: Stack) -> None:
    release = stack.root / "releases" / "r1"
    (release / "secrets").mkdir(parents=True)
    for name, value in SECRETS.items():
        (release / "secrets" / name).write_text(f"{value}\n")
    (release / "docker-compose.prod.yml").write_text(COMPOSE)
    image = json.loads(run("image", "inspect", IMAGE))[0]["Id"]
    images = {"postgres": {"ref": IMAGE, "id": image}}
    (release / "manifest.json").write_text(json.dumps({"images": images}))
    upgrade = Upgrade(UpgradeStack(stack.root, PROJECT, release, stack.docker, lambda _step: None))
    before = stack.sql("SELECT md5(string_agg(items::text, '' ORDER BY id)) FROM items", "shop")

    with pytest.raises(BackupError, match="roles planted"):
        upgrade.prepare(True, True)
    stack.sql("DROP OWNED BY planted; DROP ROLE planted")
    with pytest.raises(BackupError, match=DROPS):
        upgrade.prepare(True, True)
    stack.sql(DROP)
    assert not upgrade.prepare(True)["needed"]
    assert upgrade.prepare(True, True)["needed"]
    told = upgrade.upgrade()
    assert (told["from"], told["to"]) == ("17", "17")
    assert told["rows"] == {"public.items": 500, "public.parent": 2, "public.ch|ild\n\\.": 2}
    assert "archive_command = id" in told["settings"]

    run("start", stack.container)
    stack.ready()
    assert stack.dangers() == []
    assert stack.sql("SELECT to_regprocedure('pg_catalog.format(text, name, name)')") == ""
    query = "SELECT md5(string_agg(items::text, '' ORDER BY id)) FROM items"
    assert stack.sql(query, "shop") == before
    verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = "
    assert matches("own", stack.sql(f"{verifier}'shop'"))
    assert matches("super", stack.sql(f"{verifier}'postgres'"))
    assert upgrade.prepare(False)["put_back"] == ""
