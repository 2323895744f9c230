"""Data of a running service into a stream, and back: the edge to the containers.

Needs nothing but Python and the Docker client: the timer on a server runs it without Ansible.
"""

from __future__ import annotations

import ctypes
import gzip
import http.client
import itertools
import json
import os
import re
import shutil
import socket
import string
import subprocess
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any
from urllib.parse import quote

from ..process import MOST, Tail, capture_bytes
from ..text import printable, quote_output, sql_identifier
from .archive import Expected, copy_safely
from .manifest import BackupError

# The application owns its database, so it sets defaults for all who connect to it (ALTER DATABASE …
# SET), and may put functions, operators and views of its own before PostgreSQL's. What a client
# brings has precedence: names mean pg_catalog's alone, and no library, trigger or limit of the
# application is the superuser's.
_PINNED = (
    *("search_path=pg_catalog,pg_temp", "role=none", "local_preload_libraries="),
    *("session_preload_libraries=", "session_replication_role=replica"),
    *("client_min_messages=warning", "row_security=on", "check_function_bodies=on"),
    *("standard_conforming_strings=on", "quote_all_identifiers=off"),
    *("transform_null_equals=off", "default_tablespace=", "temp_tablespaces="),
    *("default_transaction_read_only=off", "default_transaction_deferrable=off"),
    r"default_transaction_isolation=read\ committed",
    *("statement_timeout=0", "lock_timeout=0", "idle_in_transaction_session_timeout=0"),
)
# By the version that has them: another server refuses the session.
_PINNED_SINCE = {
    140000: ("idle_session_timeout=0",),
    170000: ("event_triggers=off", "transaction_timeout=0"),
}


def _options(*settings: str) -> str:
    return " ".join(f"-c {setting}" for setting in settings)


# The application's role and its database have the stack's name; the bootstrap superuser (role 10)
# may be that role still, or whatever POSTGRES_USER is. Within its container all may log in. The
# question is asked in template1, where the application can set nothing, and what a former superuser
# has set there (a library, a trigger on login) only a superuser can refuse: that is tried first, by
# the names, too, that a move gives the superuser. The application cannot connect to template1
# once its roles are in order; its own database knows the name as well.
_WHO = (
    "SELECT pg_catalog.current_setting('server_version_num'), rolname"
    " FROM pg_catalog.pg_roles WHERE oid = '10'"
)
FIND_SUPERUSER = (
    f"strong='{_options(*_PINNED[:5])}'; weak='{_options(*_PINNED[:3])}';"
    " who() { superuser=$(PGOPTIONS=$1 psql --quiet --no-psqlrc --tuples-only --no-align"
    ' --field-separator " " --username "$2" --dbname "${3:-template1}"'
    f' --command "{_WHO}" 2>&1); }};'
    ' who "$strong" "$POSTGRES_USER" || who "$strong" "$POSTGRES_DB"'
    ' || who "$strong" postgres || who "$strong" "${POSTGRES_DB}_superuser"'
    ' || who "$strong" "${POSTGRES_DB}_superuser_2"'
    ' || who "$weak" "$POSTGRES_USER" || who "$weak" "$POSTGRES_DB"'
    ' || who "$weak" "$POSTGRES_DB" "$POSTGRES_DB"'
    ' || { echo "$superuser" >&2; exit 2; };'
    # A warning about collations may come first.
    " superuser=${superuser##*$'\\n'}; version=${superuser%% *}; superuser=${superuser#* };"
    f" export PGOPTIONS='{_options(*_PINNED)}';"
    + "".join(
        f' [ "$version" -lt {since} ] || PGOPTIONS="$PGOPTIONS {_options(*settings)}";'
        for since, settings in _PINNED_SINCE.items()
    )
)
# The superuser's, as tables may be other roles' or closed to their owner (FORCE ROW LEVEL
# SECURITY): pg_dump itself reads tables by COPY, and neither views nor foreign tables. Rights on
# what initdb makes are the cluster's: the application's role cannot give them in a restore.
DUMP_POSTGRES = FIND_SUPERUSER + (
    ' exec pg_dump --username "$superuser" --format custom'
    f" --exclude-schema 'crisper_restore_{'[0-9a-f]' * 16}'"
    " --exclude-schema pg_catalog --exclude-schema information_schema"
    ' --lock-wait-timeout "$LOCK_WAIT" ${SNAPSHOT:+--snapshot "$SNAPSHOT"} "$POSTGRES_DB"'
)
# Whoever was superuser may have planted in pg_catalog what matches a question better than what
# PostgreSQL has: a cast, an operator, a format(text, name). So whatever a superuser's statement
# compares or calls has one exact type, nothing is passed to a function that takes any type
# (format, unnest, coalesce of two types …), no argument is left out, and classes are numbers.
# What a restore that was killed has left of its helper, also of editions whose helper had one name
# alone. No application's: it is the superuser's, and has no tables.
HELPER = re.compile("crisper_restore(_[0-9a-f]{16})?")  # the same names, where they are read
_DROP_HELPERS = r"""
SELECT 'DROP SCHEMA ' || quote_ident(nspname::text) || ' CASCADE' FROM pg_namespace n
  WHERE nspowner = '10' AND nspname::text ~ '^crisper_restore(_[0-9a-f]{16})?$'::text
  AND NOT EXISTS (SELECT FROM pg_class WHERE relnamespace = n.oid) \gexec
"""
# A restore is the application's: what it may have planted in its dump (a check constraint runs a
# function) does not run as superuser, and all that is made belongs to it. Extensions alone are the
# superuser's, by a function that makes one, opens the tables of it that a dump fills, and can
# nothing else. It is called by the dump's own statements, and not by what the dump brings; it makes
# those extensions that it lists, where the application may make things itself.
RESTORE_PREPARATION = r"""
SELECT 'CREATE ROLE ' || quote_ident(:'application'::text) || ' LOGIN'
  WHERE NOT EXISTS (SELECT FROM pg_authid WHERE rolname = :'application'::name) \gexec
SELECT 'ALTER DATABASE ' || quote_ident(datname::text) || ' OWNER TO '
  || quote_ident(:'application'::text)
  FROM pg_database WHERE datname = current_database()
  AND pg_get_userbyid(datdba) <> :'application'::name \gexec
@drop_helpers@
CREATE SCHEMA @helper@;
CREATE FUNCTION @helper@.extension(statement text) RETURNS void
  LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
  SET session_replication_role = replica AS $crisper$
DECLARE
  words text[] := regexp_match(statement, ('^CREATE EXTENSION IF NOT EXISTS ("[^"]+"|[a-z0-9_]+)'
    ' WITH SCHEMA ("[^"]+"|[a-z0-9_]+);$')::text);
  extension text;
  place text;
  relation text;
  number oid;
  tables oid[];
  kind "char";
BEGIN
  IF words IS NULL THEN RAISE EXCEPTION 'no extension: %', statement; END IF;
  IF current_query() !~ '^(\s|--[^\n]*\n)*SELECT @helper@[.]extension[(][$]crisper[$][^$]*[$]crisper[$][)];?\s*$'::text
  THEN
    RAISE EXCEPTION 'something within the dump asks for an extension: %', statement;
  END IF;
  extension := btrim(words[1], '"'::text);
  place := btrim(words[2], '"'::text);
  IF NOT EXISTS (SELECT FROM pg_extension WHERE extname::text = extension) THEN
    IF NOT (@allowed@) THEN
      RAISE EXCEPTION 'the extension % is not in the list of the set, nor in this database, nor one that PostgreSQL trusts: name it in database_extensions, deploy, and restore again', extension;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname::text = place
        AND nspname::text !~ '^pg_'::text AND nspname::text <> 'information_schema'::text
        AND pg_has_role(session_user::name, nspowner, 'USAGE'::text))
      -- Where the owner of a database may make one himself: PostgreSQL looks at no rights there.
      AND NOT (@trusted@ AND place !~ '^pg_(toast_)?temp'::text)
      AND NOT EXISTS (SELECT FROM pg_available_extension_versions() v
        WHERE v.name::text = extension AND v.schema::text = place) THEN
      RAISE EXCEPTION 'the extension % is not made in the schema %, which is not the application''s', extension, place;
    END IF;
    EXECUTE 'CREATE EXTENSION ' || quote_ident(extension) || ' WITH SCHEMA ' || quote_ident(place);
  END IF;
  FOR tables IN SELECT extconfig FROM pg_extension
    WHERE extname::text = extension AND extconfig IS NOT NULL
  LOOP
    FOREACH number IN ARRAY tables LOOP
      SELECT textin(regclassout(c.oid::regclass)), c.relkind INTO relation, kind
        FROM pg_class c WHERE c.oid = number;
      -- No TRIGGER: what the application left there would run as whoever writes to it.
      IF kind = 'S'::"char" THEN
        EXECUTE 'GRANT USAGE, SELECT, UPDATE ON SEQUENCE ' || relation || ' TO '
          || quote_ident(session_user::text);
      ELSIF kind IS NOT NULL THEN
        EXECUTE 'GRANT SELECT, INSERT ON ' || relation || ' TO ' || quote_ident(session_user::text);
      END IF;
    END LOOP;
  END LOOP;
END $crisper$;
REVOKE ALL ON FUNCTION @helper@.extension FROM PUBLIC;
GRANT USAGE ON SCHEMA @helper@ TO :"application";
GRANT EXECUTE ON FUNCTION @helper@.extension TO :"application";
""".replace("@drop_helpers@", _DROP_HELPERS)  # noqa: E501
# Triggers (pg_trigger, but no partition's, which follows its parent's) and rules (pg_rewrite) on an
# extension's table that run a function of somebody who is no superuser: the restore of an older
# edition let the application make one. By numbers: pg_class 1259, pg_proc 1255.
_FOREIGN = """
  JOIN pg_depend m ON m.classid = '1259'::oid AND m.objid = {table} AND m.deptype = 'e'::"char"
  JOIN pg_class c ON c.oid = {table} JOIN pg_authid o ON o.oid = c.relowner
  WHERE o.rolsuper AND (c.relkind = 'r'::"char" OR c.relkind = 'p'::"char") AND EXISTS (
    SELECT FROM pg_depend d JOIN pg_proc p ON p.oid = d.refobjid
      JOIN pg_authid f ON f.oid = p.proowner
    WHERE d.classid = '{catalog}'::oid AND d.objid = t.oid
      AND d.refclassid = '1255'::oid AND NOT f.rolsuper)
"""
RESTORE_CLEANUP = r"""
DO $crisper$
DECLARE
  owner text := (SELECT pg_get_userbyid(datdba)::text FROM pg_database
    WHERE datname = current_database() AND datdba <> '10');
  tables oid[];
  number oid;
BEGIN
  IF owner IS NULL THEN RETURN; END IF;
  FOR tables IN SELECT extconfig FROM pg_extension WHERE extconfig IS NOT NULL LOOP
    FOREACH number IN ARRAY tables LOOP
      EXECUTE 'REVOKE ALL ON ' || textin(regclassout(number::regclass)) || ' FROM '
        || quote_ident(owner);
    END LOOP;
  END LOOP;
END $crisper$;
SELECT 'DROP TRIGGER ' || quote_ident(t.tgname::text) || ' ON '
  || textin(regclassout(t.tgrelid::regclass)) FROM pg_trigger t
@triggers@ AND NOT t.tgisinternal AND NOT EXISTS (SELECT FROM pg_depend b
    WHERE b.classid = '2620'::oid AND b.objid = t.oid AND b.deptype = 'P'::"char") \gexec
SELECT 'DROP RULE ' || quote_ident(t.rulename::text) || ' ON '
  || textin(regclassout(t.ev_class::regclass)) FROM pg_rewrite t
@rules@ \gexec
@drop_helpers@
"""
for _word, _text in (
    ("triggers", _FOREIGN.format(table="t.tgrelid", catalog="2620")),
    ("rules", _FOREIGN.format(table="t.ev_class", catalog="2618")),
    ("drop_helpers", _DROP_HELPERS),
):
    RESTORE_CLEANUP = RESTORE_CLEANUP.replace(f"@{_word}@", _text)
# `--clean` drops what the dump has; what a later migration added would stay in the way, so all
# schemas go whole. One transaction, ended by pg_restore's success: half a file changes nothing.
RESTORE_BEGIN = """
SET statement_timeout = 0;
BEGIN;
SELECT 'DROP SCHEMA ' || quote_ident(nspname::text) || ' CASCADE' FROM pg_namespace
  WHERE nspname::text !~ '^pg_'::text
  AND nspname <> 'information_schema' AND nspname <> '@helper@'
  AND pg_has_role(current_user::name, nspowner, 'USAGE'::text) \\gexec
SELECT lo_unlink(oid) FROM pg_largeobject_metadata WHERE pg_get_userbyid(lomowner) = current_user;
SELECT 'DROP PUBLICATION ' || quote_ident(pubname::text) FROM pg_publication
  WHERE pg_get_userbyid(pubowner) = current_user \\gexec
CREATE SCHEMA public AUTHORIZATION pg_database_owner;
GRANT USAGE ON SCHEMA public TO PUBLIC;
"""
_EXTENSIONS = (
    # Rows are data, whatever they look like: a line of them is never a backslash and a dot.
    "/^COPY .* FROM stdin;$/,/^\\\\\\.$/b\n"
    "/^-- Name: .*; Type: EXTENSION; /,/^CREATE EXTENSION /s/^CREATE EXTENSION .*;$/"
    "SELECT @helper@.extension($crisper$&$crisper$);/;"
    # They are the extension's own words, and its owner's to change.
    " /^-- Name: EXTENSION .*; Type: COMMENT; /,/^COMMENT ON EXTENSION /"
    "{/^COMMENT ON EXTENSION /d}"
)
_APPLICATION = _options("client_min_messages=warning", "local_preload_libraries=")
RESTORE_POSTGRES = f"""{FIND_SUPERUSER}
ask() {{
    psql --quiet --no-psqlrc --tuples-only --username "$1" --dbname "$POSTGRES_DB" --file - \
        --set ON_ERROR_STOP=1 --set application="$POSTGRES_DB" \
        --output /dev/null
}}
ask "$superuser" <<'SQL' || exit
{RESTORE_PREPARATION}
SQL
{{
    cat <<'SQL'
{RESTORE_BEGIN}
SQL
    pg_restore --no-owner --file - | LC_ALL=C sed '{_EXTENSIONS}' && echo 'COMMIT;' 2>/dev/null
}} | PGOPTIONS='{_APPLICATION}' ask "$POSTGRES_DB"
code=$?
ask "$superuser" <<'SQL' || exit
{RESTORE_CLEANUP}
SQL
exit $code
"""
_PSQL = (
    "env PGCLIENTENCODING=UTF8 psql --quiet --no-psqlrc --tuples-only --no-align"
    " --set ON_ERROR_STOP=1"
)
ASK_POSTGRES = f'{FIND_SUPERUSER} exec {_PSQL} --username "$superuser" --dbname "$POSTGRES_DB"'
# Where the application's own database may be missing: its owner can drop it.
_ASK_TEMPLATE = (
    f'{FIND_SUPERUSER} exec {_PSQL} --username "$superuser" --dbname template1'
    ' --set name="$POSTGRES_DB"'
)
DATABASE = "SELECT oid FROM pg_catalog.pg_database WHERE datname = :'name'::pg_catalog.name"
MAKE_DATABASE = r"""
SELECT 'CREATE ROLE ' || quote_ident(:'name'::text) || ' LOGIN'
  WHERE NOT EXISTS (SELECT FROM pg_authid WHERE rolname = :'name'::name) \gexec
CREATE DATABASE :"name" OWNER :"name" TEMPLATE template0;
"""
# Whatever runs the application's code (a view, an index's expression) is asked by its own role: a
# function called by the superuser has a superuser's rights, and SET ROLE is undone by RESET ROLE.
ASK_APPLICATION = (
    f"export PGOPTIONS='{_APPLICATION}';"
    f' exec {_PSQL} --username "$POSTGRES_DB" --dbname "$POSTGRES_DB"'
)
NEEDS_SUPERUSER = re.compile("permission denied|must be (superuser|owner)|[Mm]ust have")
_MISSING = re.compile('database "[^\n]*" does not exist')
END_SESSIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND"
)
# For a shell on the server; the owner of a database may close it for everybody.
OPEN_DATABASE = (
    """docker compose exec postgres sh -c 'psql -U "$POSTGRES_USER" -d template1 -c"""
    """ "ALTER DATABASE \\"$POSTGRES_DB\\" ALLOW_CONNECTIONS true"'"""
)
# Until a session that was told to end has done so.
SESSION_SECONDS = 30.0
# Until a table is waited for no longer that a dump or a count has to read: whoever may lock one
# (LOCK TABLE … IN ACCESS EXCLUSIVE MODE) would hold up a backup, and a deploy, for backup_timeout.
LOCK_SECONDS = 300
# pg_dump says which query, whose beginning may be cut off.
LOCKED_OUT = re.compile(r"due to (lock|statement) timeout|IN ACCESS SHARE MODE\s*\Z")
# Who holds a lock in the database that nobody can read beside. A text, and no number, is compared.
HOLDERS = (
    "COPY (SELECT a.pid, a.usename, a.state, a.application_name, pg_catalog.to_char("
    "a.xact_start, 'YYYY-MM-DD HH24:MI:SS TZ'::pg_catalog.text), a.query"
    " FROM pg_catalog.pg_stat_activity a"
    " WHERE a.pid IN (SELECT l.pid FROM pg_catalog.pg_locks l"
    " WHERE l.locktype = 'relation'::pg_catalog.text AND l.granted"
    " AND l.mode = 'AccessExclusiveLock'::pg_catalog.text AND l.database = (SELECT oid"
    " FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))"
    " ORDER BY a.xact_start LIMIT '3') TO STDOUT"
)
# Rows are counted by COPY alone, which plans nothing and compares nothing: a function, cast or
# operator that a former superuser has planted is not called. The planner evaluates functions of
# partial indexes, and whoever counts rows by a SELECT runs them. COPY refuses what became a view
# meanwhile. The names are PostgreSQL's own answers, with one line for each.
CATALOGS = {
    "pg_namespace": "oid, nspname",
    "pg_class": "oid, relname, relnamespace, relkind, relpersistence",
    "pg_inherits": "inhrelid, inhparent",
}
# The smallest column of a table is read; a name given by its number is the table's at that moment.
COLUMNS = (
    "COPY (SELECT attrelid, attnum, attlen, attname FROM pg_catalog.pg_attribute WHERE attnum > '0'"
    " AND NOT attisdropped AND attgenerated = '' AND attrelid >= '16384') TO STDOUT"
)
NAME = "COPY (SELECT '{}'::pg_catalog.regclass) TO STDOUT"
COUNTED = re.compile(r"COPY (\d+)\Z")
EXTENSIONS = "COPY pg_catalog.pg_extension (oid, extname, extconfig) TO STDOUT"
# With or without `trusted` in the fourth place, which PostgreSQL has since 13.
AVAILABLE = "COPY (SELECT * FROM pg_catalog.pg_available_extension_versions()) TO STDOUT"
PLACES = "COPY pg_catalog.pg_extension (extname, extnamespace) TO STDOUT"
SCHEMAS = "COPY pg_catalog.pg_namespace (oid, nspname) TO STDOUT"
# Relations that are members of an extension; pg_class has the number 1259, pg_extension 3079.
_MEMBERS = (
    "FROM pg_catalog.pg_depend WHERE classid = '1259' AND refclassid = '3079' AND deptype = 'e'"
)
MEMBERS = f"COPY (SELECT objid, refobjid {_MEMBERS}) TO STDOUT"
RELATIONS = (
    "COPY (SELECT oid, relowner, relkind FROM pg_catalog.pg_class"  # noqa: S608
    f" WHERE oid IN (SELECT objid {_MEMBERS})) TO STDOUT"
)
ROLES = "COPY pg_catalog.pg_authid (oid, rolsuper) TO STDOUT"
KINDS = {
    **{"r": "TABLE", "p": "TABLE", "v": "VIEW", "m": "MATERIALIZED VIEW", "S": "SEQUENCE"},
    "f": "FOREIGN TABLE",
}
# Characters that mean themselves wherever they are.
_SAFE = frozenset(string.ascii_letters + string.digits + "_-")
_TEMPORARY = re.compile("pg_(toast_)?temp")
# Of a list in an error.
MOST_NAMES = 10
# Where Alembic and Django keep what was applied. Either may be a view that never ends.
_HEAD = "SELECT pg_catalog.to_json(pg_catalog.left(head::pg_catalog.text, 600)) FROM ({}) heads"
HEADS = {
    table: _HEAD.format(f"{statement} ORDER BY 1 LIMIT 1000")
    for table, statement in {
        "alembic_version": "SELECT version_num AS head FROM alembic_version",
        "django_migrations": "SELECT app || '.' || max(name) AS head FROM django_migrations"
        " GROUP BY app",
    }.items()
}
HEAD_SECONDS = 60
# As root: views and routines may be anybody's, and only root may make them so again.
_MARIADB = 'export MYSQL_PWD="${MARIADB_ROOT_PASSWORD:-$(cat "$MARIADB_ROOT_PASSWORD_FILE")}"; '
# The dump makes its database anew, with the settings it had.
DUMP_MARIADB = (
    _MARIADB + "exec mariadb-dump --user root --single-transaction --routines"
    ' --events --triggers --add-drop-database --databases "$MARIADB_DATABASE"'
)
# DDL of MariaDB is in no transaction: a restore that fails has to be run again.
RESTORE_MARIADB = _MARIADB + "exec mariadb --user root"
TABLES_MARIADB = (
    _MARIADB + 'exec mariadb --user root --skip-column-names --execute "SHOW TABLES"'
    ' "$MARIADB_DATABASE"'
)
# The password comes from the file the server reads: it is in no process list.
_REDIS = r"""
if [ -r /run/secrets/redis.conf ]; then
    quoted=$(sed -n 's/^requirepass "\(.*\)"$/\1/p' /run/secrets/redis.conf)
    export REDISCLI_AUTH="$(printf %s "$quoted" | sed 's/\\\(.\)/\1/g')"
fi
"""
# With `appendonly yes` Redis reads the base file that the manifest names, and no dump.rdb.
RESTORE_REDIS = (
    "set -e; umask 077; cd /data; rm -rf .restored; trap 'rm -rf .restored' EXIT; mkdir .restored;"
    " cat >.restored/appendonly.aof.1.base.rdb;"
    " redis-check-rdb .restored/appendonly.aof.1.base.rdb >&2;"
    " echo 'file appendonly.aof.1.base.rdb seq 1 type b' >.restored/appendonly.aof.manifest;"
    " rm -rf appendonlydir dump.rdb; mv .restored appendonlydir; sync"
)
# 1: a file changed or went away while it was read; what is in the archive is whole all the same.
DUMP_UPLOADS = (
    "tar --directory /data --exclude ./.restored --numeric-owner --create . || [ $? -eq 1 ]"
)
# Unpacked before anything is removed: an archive that breaks off changes nothing. GNU tar takes one
# that ends between two files for a whole one, so its last file is looked for. Everything is owned
# by the application's user: {owner} is its `uid`, its `uid:gid`, or empty for the folder's owner.
RESTORE_UPLOADS = """
set -e; cd /data; rm -rf .restored
trap 'rm -rf .restored' EXIT
trap 'exit 1' TERM INT HUP
mkdir .restored
owner=$(stat --format %u:%g .); wanted={owner}
case $wanted in '') ;; *:*) owner=$wanted ;; *) [ "${owner%%:*}" = "$wanted" ] || owner=$wanted:$wanted ;; esac
tar --directory .restored --no-same-owner --preserve-permissions --extract
[ -f .restored/{last} ] || { echo "the archive broke off" >&2; exit 1; }
rm .restored/{last}
chown --recursive --no-dereference "$owner" .restored; sync --file-system .restored
trap - EXIT; trap '' TERM INT HUP  # from here on the new files are the only ones
find . -mindepth 1 -maxdepth 1 ! -name .restored -exec rm -rf {} +
chown --reference=.restored .; chmod --reference=.restored .
find .restored -mindepth 1 -maxdepth 1 -exec mv --target-directory . {} +; rmdir .restored
"""  # noqa: E501
VERSIONS = {
    "postgres": "postgres --version | grep -o '[0-9][0-9.]*' | sed -n 1p",
    "mariadb": "mariadbd --version | grep -o '[0-9.]*-MariaDB'",
    "redis": "redis-server --version | grep -o 'v=[0-9.]*'",
}
# `uid` or `uid:gid`, or nothing.
OWNER = re.compile(r"(?:\d{1,10}(?::\d{1,10})?)?\Z")
# Points of Qdrant in one answer, and bytes of one: with vectors and payloads of usual size a page
# has a megabyte. One point alone may be what one request of Qdrant's brings (32 MB), and some more.
PAGE = 100
MOST_PAGE = 8 << 20
MOST_ANSWER = 40 << 20
# Bytes that a service may say to a question, and that a session of PostgreSQL answers to one: names
# of 100,000 tables have a tenth.
MOST_TEXT = 16 << 20
MOST_ROWS = 64 << 20
# Bytes of one line of an export: those of older editions have whatever 100 points had.
MOST_LINE = 1 << 30
CLONE_NEWNET = 0x40000000
# Processes and threads of a container that is made for one task.
PIDS = "2048"
# What every container has that is made for one task; capabilities that it needs are added.
HARDENED = (
    *("--pull", "never", "--network", "none", "--read-only", "--pids-limit", PIDS),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
)
END_OF_ANSWER = "crisper-end-of-answer"
SYSTEM_SCHEMAS = ("pg_catalog", "information_schema")
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


class Docker:
    """The Docker client, with a time limit for everything that goes on in a container."""

    def __init__(self, cli: str = "docker", timeout: int = 3600) -> None:
        self.cli = cli
        self.timeout = timeout

    def run(self, *arguments: str) -> str:
        """Standard output of a Docker command.

        Raises:
            BackupError: it failed.
        """
        try:
            code, out, err, cut = capture_bytes(
                [self.cli, *arguments], b"", self.timeout + 30, most=MOST
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackupError(f"`docker {arguments[0]} …`: {error}") from error
        command = f"`docker {' '.join(arguments[:2])} …`"
        if cut:
            raise BackupError(f"{command} printed more than {MOST >> 20} MiB, and was ended")
        if code != 0:
            why = quote_output((err or out).decode(errors="replace").strip()[-1000:])
            raise BackupError(f"{command} failed: {why}")
        return out.decode(errors="replace")

    def container(self, project: str, service: str) -> str:
        """Id of the running container of a service; empty when none runs."""
        label = "label=com.docker.compose"
        found = self.run(
            *("ps", "--quiet", "--no-trunc", "--filter", f"{label}.project={project}"),
            *("--filter", f"{label}.service={service}", "--filter", f"{label}.oneoff=False"),
        )
        return (found.split() or [""])[0]

    def inspect(self, container: str) -> dict[str, Any]:
        """What the engine knows of a container."""
        return json.loads(self.run("container", "inspect", container))[0]

    def inside(self, container: str, script: str, **environment: str) -> list[str]:
        """The `docker exec` command of a script in a container.

        timeout(1) runs in the container: ending the client would leave the work going on.
        """
        command = [self.cli, "exec", "--interactive"]
        for name, value in environment.items():
            command += ["--env", f"{name}={value}"]
        shell = ["timeout", str(self.timeout), "bash", "-o", "pipefail", "-c", script]
        return [*command, container, *shell]

    def out_of(self, what: str, command: list[str], target: IO[bytes]) -> None:
        """Copy what a command writes into a stream.

        Raises:
            BackupError: it failed; what was written is not whole.
        """
        with _started(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as running:
            shutil.copyfileobj(running.stdout, target, 1 << 20)
        self.judge(what, running)

    def into(self, what: str, command: list[str], source: IO[bytes]) -> None:
        """Feed a stream to a command.

        Raises:
            BackupError: it failed.
        """
        with _started(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as running:
            try:
                shutil.copyfileobj(source, running.stdin, 1 << 20)
                running.stdin.close()
            except BrokenPipeError:
                pass  # it ended early; its exit code and its messages say why
        self.judge(what, running)

    def text(self, what: str, command: list[str]) -> str:
        """Return what a command in a container says, stripped.

        Raises:
            BackupError: it failed, or said more than MOST_TEXT bytes.
        """
        return self.answer(what, command, b"")

    def answer(self, what: str, command: list[str], question: bytes) -> str:
        """Return what a command says to what it is told, stripped.

        Raises:
            BackupError: it failed, or said more than MOST_TEXT bytes.
        """
        try:
            code, out, err, cut = capture_bytes(
                command, question, self.timeout + 30, most=MOST_TEXT
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BackupError(f"{what}: {error}") from error
        if cut:
            raise BackupError(
                f"{what}: it said more than {MOST_TEXT >> 20} MiB, which are not read, and was"
                " ended. The service or the application in it is out of order, or hostile: look at"
                " its log (docker compose logs)"
            )
        if code != 0:
            said = err.decode(errors="replace").strip()[-1000:]
            self.judge(what, subprocess.CompletedProcess(command, code), said)
        return out.decode(errors="replace").strip()

    def version(self, service: str, container: str) -> str:
        """Version of the service that runs in a container, as it tells it."""
        if service == "uploads":
            return "1"  # of the archive's form
        if service == "qdrant":
            return str(Qdrant(self, container).ask("GET", "/")["version"])
        command = self.inside(container, VERSIONS[service])
        return self.text(f"The version of {service} was not told", command).removeprefix("v=")

    def judge(self, what: str, ended: Any, said: str | None = None) -> None:
        """Fail when a command that ended did; `said` is what it printed, else it knows that."""
        if ended.returncode != 0:
            late = f" within {self.timeout} s" if ended.returncode == 124 else ""
            why = (ended.said if said is None else said) or f"exit code {ended.returncode}"
            raise BackupError(f"{what}{late}: {explained(quote_output(why))}")


def explained(said: str) -> str:
    """Return what a service said, with the remedy where its words alone do not show one."""
    if _MISSING.search(said):
        return (
            f"{said}. Somebody with the rights of the application has dropped its database (DROP"
            " DATABASE), or it was never made. Find out who. A restore of a set makes it again:"
            " ansible-playbook playbooks/restore.yml -e backup=<set id>"
        )
    if "not currently accepting connections" not in said:
        return said
    return (
        f"{said}. Somebody with the rights of the application has closed the database (ALTER"
        " DATABASE … ALLOW_CONNECTIONS false), for the superuser, too. Find out who. To open it, in"
        f" the folder `current` of the stack on the server: {OPEN_DATABASE}"
    )


@contextmanager
def _started(command: list[str], **streams: Any) -> Iterator[Any]:
    """A running command; its exit code and the end of its messages are known afterwards."""
    try:
        running: Any = subprocess.Popen(command, stderr=subprocess.PIPE, **streams)
    except OSError as error:
        raise BackupError(f"{command[0]}: {error}") from error
    tail = Tail(running.stderr)
    try:
        yield running
    except BaseException:
        running.kill()
        raise
    finally:
        for stream in (running.stdin, running.stdout):
            if stream and not stream.closed:
                with suppress(BrokenPipeError):
                    stream.close()
        running.wait()
        running.said = tail.text().strip()[-1000:]


# --- PostgreSQL ------------------------------------------------------------------------------
class _Session:
    """Questions to PostgreSQL in one session."""

    def __init__(self, running: Any) -> None:
        self.running = running

    def ask(self, statement: str) -> list[str]:
        """Return the answer's lines.

        Raises:
            BackupError: the answer has more than MOST_ROWS bytes.
        """
        question = f"{statement};\n\\echo {END_OF_ANSWER}\n"
        try:
            self.running.stdin.write(question.encode())
            self.running.stdin.flush()
        except BrokenPipeError:
            return []
        lines, left = [], MOST_ROWS
        while line := self.running.stdout.readline(left + 1):
            left -= len(line)
            if left < 0:
                raise BackupError(
                    f"PostgreSQL answered with more than {MOST_ROWS >> 20} MiB, which are not read:"
                    f" {statement[:60]!a} … Something has made an extraordinary number of tables or"
                    " rows there: look at the database, and drop them"
                )
            text = line.decode(errors="replace").rstrip("\n")
            if text == END_OF_ANSWER:
                return lines
            lines.append(text)
        return lines


@contextmanager
def postgres_session(
    docker: Docker, container: str, name: str = "", script: str = ASK_POSTGRES
) -> Iterator[_Session]:
    """Return a session for questions; raises when PostgreSQL does not answer.

    `name` is what PostgreSQL knows the session by; empty leaves that to psql. `script` says whose
    session it is.
    """
    command = docker.inside(container, script, **_named(name))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with _started(command, **pipes) as running:
        yield _Session(running)
    docker.judge("PostgreSQL did not answer", running)


def _named(name: str) -> dict[str, str]:
    return {"PGAPPNAME": name} if name else {}


def end_postgres_sessions(docker: Docker, container: str, names: Iterable[str]) -> bool:
    """End the sessions of these names; return whether all have ended within SESSION_SECONDS.

    What runs in a container by `docker exec` outlives its client: a dump that nobody takes goes on,
    and keeps migrations from the tables that it reads.

    Raises:
        BackupError: PostgreSQL does not answer.
    """
    listed = ", ".join(f"'{name}'" for name in names)
    deadline = time.monotonic() + SESSION_SECONDS
    with postgres_session(docker, container) as session:
        while session.ask(f"{END_SESSIONS} application_name IN ({listed})"):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
    return True


def unescape(text: str) -> str:
    """Return a value of COPY's text format, which is not NULL."""
    return _ESCAPED.sub(lambda match: _ESCAPES.get(match[1], match[1]), text)


def count_names(pairs: Iterable[tuple[tuple[str, str], int]]) -> dict[str, int]:
    """Return ``{schema.table: rows}`` of counts by schema and table.

    A dot is part of a name, too: names that would be the same are told with their quotes.
    """
    pairs = list(pairs)
    names = Counter(".".join(pair) for pair, _ in pairs)
    return {
        name
        if names[name := ".".join(pair)] == 1
        else ".".join('"' + word.replace('"', '""') + '"' for word in pair): rows
        for pair, rows in pairs
    }


def _rows(session: _Session) -> dict[str, int]:
    """Return ``{schema.table: rows}``; a table has the rows of its partitions and heirs, too.

    Raises:
        BackupError: an answer cannot be read.
    """
    told = {
        name: [
            line.split("\t")
            for line in session.ask(f"COPY pg_catalog.{name} ({columns}) TO STDOUT")
        ]
        for name, columns in CATALOGS.items()
    }
    smallest: dict[str, tuple[bool, int, str]] = {}
    for line in session.ask(COLUMNS):
        table, number, length, name = line.split("\t")
        each = (int(length) < 0, int(number), name)
        smallest[table] = min(smallest.get(table, each), each)
    try:
        schemas = {number: unescape(name) for number, name in told["pg_namespace"]}
        tables = {
            number: (schemas[schema], unescape(name), kind)
            for number, name, schema, kind, persistence in told["pg_class"]
            if kind in "rp" and persistence != "t" and schemas[schema] not in SYSTEM_SCHEMAS
        }
        session.ask("\\set QUIET off\n")  # else COPY does not tell how many
        own = {
            number: _count(session, number, smallest.get(number))
            for number, (_schema, _name, kind) in tables.items()
            if kind == "r"
        }
        session.ask("\\set QUIET on\n")
    except (ValueError, KeyError) as error:
        raise BackupError(f"PostgreSQL's tables cannot be read: {error}") from error
    heirs: dict[str, list[str]] = {}
    for heir, parent in told["pg_inherits"]:
        heirs.setdefault(parent, []).append(heir)
    counts = []
    for number, (schema, name, _kind) in tables.items():
        pending, below = [number], {number}
        while pending:
            for heir in heirs.get(pending.pop(), ()):
                if heir not in below:
                    below.add(heir)
                    pending.append(heir)
        counts.append(((schema, name), sum(own.get(each, 0) for each in below)))
    return count_names(sorted(counts))


def _count(session: _Session, number: str, column: tuple[bool, int, str] | None) -> int:
    """Return the rows of one table; 0 when the session has ended, which tells why itself."""
    name = unescape("".join(session.ask(NAME.format(int(number)))))
    quoted = unescape(column[2]).replace('"', '""') if column else ""
    told = session.ask(f"COPY {name}" + (f' ("{quoted}")' if column else "") + " TO '/dev/null'")
    match = COUNTED.match("".join(told))
    if not told:
        return 0
    if not match:
        raise ValueError(f"{name!a} was not counted")
    return int(match[1])


def _heads(docker: Docker, container: str, name: str = "", snapshot: str = "") -> list[str]:
    """Return what is applied of the migrations, as the application's role tells it."""
    with postgres_session(docker, container, name, ASK_APPLICATION) as session:
        session.ask(f"SET statement_timeout = '{HEAD_SECONDS}s'")
        session.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if snapshot:
            session.ask(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
        lines: list[str] = []
        for table, statement in HEADS.items():
            known = f"SELECT pg_catalog.to_regclass('{table}') IS NOT NULL"
            if session.ask(known) == ["t"]:
                lines = session.ask(statement)
                break
    try:
        return [str(json.loads(line)) for line in lines if line]
    except ValueError as error:
        raise BackupError(f"The head of the migrations cannot be read: {error}") from error


def postgres_state(docker: Docker, container: str) -> dict[str, Any]:
    """``{rows: {table: count}, migration_head: [...]}`` of a database."""
    with name_lock_holders(docker, container), postgres_session(docker, container) as session:
        session.ask(f"SET lock_timeout = '{lock_seconds(docker)}s'")
        session.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        rows = _rows(session)
    return {"rows": rows, "migration_head": _heads(docker, container)}


def lock_seconds(docker: Docker) -> int:
    """Return for how many seconds a dump waits for a table."""
    return max(1, min(LOCK_SECONDS, docker.timeout // 2))


@contextmanager
def name_lock_holders(docker: Docker, container: str) -> Iterator[None]:
    """Say who holds the lock that a dump has waited for in vain.

    Raises:
        BackupError: as within; with the sessions and the remedy, if that was it.
    """
    try:
        yield
    except BackupError as error:
        if not LOCKED_OUT.search(str(error)):
            raise
        raise BackupError(f"{error}. {_lock_holders(docker, container)}") from error


def _lock_holders(docker: Docker, container: str) -> str:
    """Return which sessions keep others from reading tables, and what to do about them."""
    try:
        with postgres_session(docker, container) as session:
            found = [[unescape(each) for each in line.split("\t")] for line in session.ask(HOLDERS)]
    except BackupError:
        found = []
    # As many columns as are asked for.
    sessions = [
        f"session {printable(pid)} of {printable(user)} ({printable(state)}, {printable(name)!r},"
        f" transaction open since {printable(since)}): {printable(' '.join(query.split()))}"
        for pid, user, state, name, since, query in (each for each in found if len(each) == 6)
    ]
    if not sessions:
        return (
            f"A session had locked a table for more than {lock_seconds(docker)} s (ACCESS"
            " EXCLUSIVE), and has ended since: run this again"
        )
    ends = "; ".join(f"SELECT pg_terminate_backend({int(each[0])})" for each in found)
    return (
        f"A table is locked for more than {lock_seconds(docker)} s (ACCESS EXCLUSIVE): by"
        f" {'; by '.join(sessions)}. If that is a migration or VACUUM FULL, wait for its end; else"
        f" end it as superuser ({ends}), and run this again"
    )


def dump_postgres(
    docker: Docker, container: str, target: IO[bytes], name: str = ""
) -> dict[str, Any]:
    """Dump the database; what is told of it was counted in the dump's own snapshot.

    `name` is what PostgreSQL knows its sessions by.
    """
    rows: dict[str, int] = {}
    head: list[str] = []
    extensions: list[str] = []
    with (
        name_lock_holders(docker, container),
        postgres_session(docker, container, name) as session,
    ):
        session.ask(f"SET lock_timeout = '{lock_seconds(docker)}s'")
        session.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        snapshot = "".join(session.ask("SELECT pg_export_snapshot()"))
        if snapshot:  # else the session has ended, and tells why when it is left
            rows = _extensions(session)
            extensions, hidden = find_hidden(*rows)
            refuse_misplaced(_misplaced(session, rows[1]))
            refuse_hidden(
                (kind, unescape("".join(session.ask(NAME.format(number)))), of)
                for kind, number, of in hidden
            )
            environment = {"SNAPSHOT": snapshot, "LOCK_WAIT": f"{lock_seconds(docker)}s"}
            command = docker.inside(container, DUMP_POSTGRES, **environment, **_named(name))
            docker.out_of("PostgreSQL was not dumped", command, target)
            rows = _rows(session)
            head = _heads(docker, container, name, snapshot)
    return {"rows": rows, "migration_head": head, "extensions": extensions}


Rows = Sequence[Sequence[str]]


def _extensions(session: _Session) -> list[list[list[str]]]:
    """Return the rows of EXTENSIONS, AVAILABLE, MEMBERS, RELATIONS and ROLES."""
    questions = (EXTENSIONS, AVAILABLE, MEMBERS, RELATIONS, ROLES)
    return [[line.split("\t") for line in session.ask(question)] for question in questions]


def find_hidden(
    extensions: Rows, available: Rows, members: Rows, relations: Rows, roles: Rows
) -> tuple[list[str], list[tuple[str, int, str]]]:
    """Return the extensions, and what the application has put into one.

    That are relations that its script has not made: those are its owner's, a superuser's, or hold
    what a dump takes along (extconfig). The script of an extension that needs no superuser may have
    made anything.

    Args:
        extensions: rows of EXTENSIONS, as COPY writes them.
        available: those of AVAILABLE.
        members: those of MEMBERS.
        relations: those of RELATIONS.
        roles: those of ROLES.

    Returns:
        ``([name], [(kind, number, extension)])``, sorted; a kind as ``ALTER EXTENSION`` has it.

    Raises:
        BackupError: the answers cannot be read.
    """
    try:
        names = {number: unescape(name) for number, name, _ in extensions}
        dumped = {each for *_, config in extensions for each in re.findall(r"\d+", config)}
        free = {unescape(row[0]) for row in available if row[2] == "f"}
        super_users = {number for number, power in roles if power == "t"}
        found = {number: (owner, kind) for number, owner, kind in relations}
        hidden = [
            (KINDS[found[number][1]], int(number), names[of])
            for number, of in members
            # What is gone meanwhile is in no answer.
            if number in found
            and of in names
            and found[number][1] in KINDS
            and found[number][0] not in super_users
            and number not in dumped
            and names[of] not in free
        ]
    except (ValueError, IndexError) as error:
        raise BackupError(f"PostgreSQL's extensions cannot be read: {error}") from error
    return sorted(names.values()), sorted(hidden, key=lambda each: each[1])


def refuse_hidden(found: Iterable[tuple[str, str, str]]) -> None:
    """Raise BackupError for kind, quoted name and extension of what is hidden, if anything."""
    listed = [
        (kind, _printable_name(name), sql_identifier(of))
        for kind, name, of in itertools.islice(found, MOST_NAMES)
    ]
    if listed:
        names = ", ".join(f"{name} (of {of})" for _, name, of in listed)
        kind, name, of = listed[0]
        raise BackupError(
            "The application has added objects of its own to an extension, and pg_dump leaves out"
            f" what belongs to one, so they would be lost: {names}. PostgreSQL was not dumped. Take"
            f" them out of the extension (ALTER EXTENSION {of} DROP {kind} {name}), and run again"
        )


def find_misplaced(available: Rows, places: Rows, schemas: Rows) -> list[tuple[str, str]]:
    """Return extensions that a restore cannot make where they are, and their schemas.

    A superuser has put them into a schema of PostgreSQL's own, and neither does PostgreSQL let the
    application do so (it is trusted) nor does the extension's control file name that schema.

    Args:
        available: rows of AVAILABLE, as COPY writes them.
        places: those of PLACES.
        schemas: those of SCHEMAS.

    Raises:
        BackupError: the answers cannot be read.
    """
    try:
        names = {number: unescape(name) for number, name in schemas}
        trusted = _trusted(available)
        own = {(unescape(row[0]), unescape(row[-3])) for row in available}
        found = [(unescape(name), names.get(schema, "pg_temp")) for name, schema in places]
        return sorted(
            (name, schema)
            for name, schema in found
            if (schema.startswith("pg_") or schema in SYSTEM_SCHEMAS)
            and (name not in trusted or _TEMPORARY.match(schema))
            and (name, schema) not in own
        )
    except (ValueError, IndexError) as error:
        raise BackupError(f"PostgreSQL's extensions cannot be read: {error}") from error


def _misplaced(session: _Session, available: Rows) -> list[tuple[str, str]]:
    """Return what :func:`find_misplaced` finds in the database of a session."""
    told = [[line.split("\t") for line in session.ask(each)] for each in (PLACES, SCHEMAS)]
    return find_misplaced(available, *told)


def refuse_misplaced(found: Sequence[tuple[str, str]]) -> None:
    """Raise BackupError for the extensions that no restore could make again, if any."""
    if found:
        listed = ", ".join(
            f"{sql_identifier(name)} (in {sql_identifier(schema)})"
            for name, schema in found[:MOST_NAMES]
        )
        name = sql_identifier(found[0][0])
        raise BackupError(
            "A superuser has put extensions into schemas of PostgreSQL's own, where no restore may"
            f" make them again: {listed}. PostgreSQL was not dumped. As superuser move each to a"
            f" schema of the application (ALTER EXTENSION {name} SET SCHEMA public), or drop it,"
            " and run again"
        )


def misplaced_extensions(docker: Docker, container: str) -> list[tuple[str, str]]:
    """Return what :func:`find_misplaced` finds in the application's database."""
    with postgres_session(docker, container) as session:
        available = [line.split("\t") for line in session.ask(AVAILABLE)]
        return _misplaced(session, available)


def _printable_name(name: str) -> str:
    """Return a name as PostgreSQL quotes it (``a."b c"``), so that it can be printed and pasted."""
    if name.isprintable():
        return name
    parts = re.findall(r'"((?:[^"]|"")*)"|([^".]+)', name)
    return ".".join(sql_identifier(quoted.replace('""', '"') or plain) for quoted, plain in parts)


def allowed_extensions(listed: Iterable[str], present: Rows, available: Rows) -> str:
    """Return the condition of SQL that an extension may be made, whose name is ``extension``.

    It is within a function's body, within a script for the shell: of names nothing is left that
    could end one of them.

    Args:
        listed: those of the set.
        present: rows of EXTENSIONS, as COPY writes them.
        available: those of AVAILABLE; who may make a database may make those that are trusted.
    """
    return _one_of({*listed, *(unescape(row[1]) for row in present), *_trusted(available)})


def _trusted(available: Rows) -> set[str]:
    return {unescape(row[0]) for row in available if len(row) > 7 and row[3] == "t"}


def _one_of(names: Iterable[str]) -> str:
    """Return the condition of SQL that ``extension`` is one of these names."""
    literals = (
        "E'" + "".join(c if c in _SAFE else f"\\U{ord(c):08x}" for c in name) + "'"
        for name in sorted(names)
        if name and "\0" not in name and not any("\ud800" <= c <= "\udfff" for c in name)
    )
    return f"extension = ANY (ARRAY[{', '.join(literals)}]::text[])"


def restore_postgres(
    docker: Docker,
    container: str,
    source: IO[bytes],
    name: str = "",
    extensions: Sequence[str] | None = None,
    made_by: str = "",
) -> None:
    """Replace the database by a dump, whole or not at all.

    Args:
        docker: the Docker client.
        container: the one of PostgreSQL.
        source: the dump.
        name: what PostgreSQL knows its session by.
        extensions: those that the database had when it was dumped, besides which only those are
            made that this one has or that PostgreSQL trusts; None for what the dump asks for.
        made_by: version of PostgreSQL that made the dump; empty when it is unknown.

    Raises:
        BackupError: it failed, and the database is as it was.
    """
    what = "PostgreSQL was not restored, and is as it was"
    try:
        with postgres_session(docker, container, name) as session:
            present, available, *_ = _extensions(session)
        allowed = "true"
        if extensions is not None:
            allowed = allowed_extensions(extensions, present, available)
        script = RESTORE_POSTGRES.replace("@allowed@", allowed)
        script = script.replace("@trusted@", _one_of(_trusted(available)))
        script = script.replace("@helper@", f"crisper_restore_{os.urandom(8).hex()}")
        docker.into(what, docker.inside(container, script, **_named(name)), source)
    except BackupError as error:
        why = str(error) if str(error).startswith(what) else f"{what}: {error}"
        problem = f"{why}{_versions(docker, container, made_by)}"
        if not NEEDS_SUPERUSER.search(str(error)):
            raise BackupError(problem) from error
        raise BackupError(
            f"{problem}. The application's role restores, and the dump holds what only a superuser"
            " may make: docs/BACKUP.md says how to restore that by hand"
        ) from error


def _versions(docker: Docker, container: str, made_by: str) -> str:
    """Return what to say of a restore that failed when the versions differ; empty else."""
    try:
        ours = docker.version("postgres", container) if made_by else ""
    except BackupError:
        ours = ""
    if not ours or ours == made_by:
        return ""
    return (
        f" (PostgreSQL {printable(made_by)} made the dump, and {printable(ours)} restores it: set"
        " image_refs.postgres to the version of the dump, or a newer one, and try again)"
    )


def has_postgres_database(docker: Docker, container: str) -> bool:
    """Return whether the application's database is there: its owner can drop it.

    Raises:
        BackupError: PostgreSQL does not answer.
    """
    with postgres_session(docker, container, script=_ASK_TEMPLATE) as session:
        found = session.ask(DATABASE)
    return bool(found)


def make_postgres_database(docker: Docker, container: str) -> None:
    """Make the application's database, empty and its own, as a restore needs it.

    Raises:
        BackupError: PostgreSQL refused.
    """
    what = "The database that is missing was not made"
    docker.answer(what, docker.inside(container, _ASK_TEMPLATE), MAKE_DATABASE.encode())


# --- MariaDB ---------------------------------------------------------------------------------
def mariadb_state(docker: Docker, container: str) -> dict[str, Any]:
    """``{tables: [name]}``: MariaDB cannot count the rows of what it dumps."""
    told = docker.text("MariaDB did not answer", docker.inside(container, TABLES_MARIADB))
    return {"tables": sorted(told.splitlines())}


def dump_mariadb(docker: Docker, container: str, target: IO[bytes]) -> dict[str, Any]:
    """Dump the database, one transaction's view of it."""
    state = mariadb_state(docker, container)
    with gzip.GzipFile(fileobj=target, mode="wb", mtime=0) as packed:
        docker.out_of("MariaDB was not dumped", docker.inside(container, DUMP_MARIADB), packed)
    return state


def restore_mariadb(docker: Docker, container: str, source: IO[bytes]) -> None:
    """Replace the database by a dump."""
    with gzip.GzipFile(fileobj=source) as plain:
        command = docker.inside(container, RESTORE_MARIADB)
        docker.into("MariaDB was not restored; run the restore again", command, plain)


# --- Redis -----------------------------------------------------------------------------------
def redis_script(command: str) -> str:
    """Return a script for a shell in the container of Redis; `redis-cli` is its administrator's."""
    return _REDIS + command


def _redis(docker: Docker, container: str, command: str) -> str:
    script = redis_script(command)
    return docker.text("Redis did not answer", docker.inside(container, script))


def _redis_facts(docker: Docker, container: str, section: str) -> dict[str, str]:
    told = _redis(docker, container, f"redis-cli info {section}")
    return dict(line.strip().split(":", 1) for line in told.splitlines() if ":" in line)


def redis_keys(docker: Docker, container: str) -> int:
    """Number of keys in all databases; waits while Redis still loads them."""
    deadline = time.monotonic() + docker.timeout
    while _redis_facts(docker, container, "persistence").get("loading") != "0":
        if time.monotonic() > deadline:
            raise BackupError(f"Redis has not loaded its data within {docker.timeout} s.")
        time.sleep(0.2)
    found = _redis_facts(docker, container, "keyspace")
    return sum(int(value.split(",")[0].partition("=")[2]) for value in found.values())


def dump_redis(docker: Docker, container: str, target: IO[bytes]) -> dict[str, Any]:
    """Have Redis save a snapshot beside its log, and copy it.

    `redis-cli --rdb -` would leave the transfer's end mark in the file (Redis 8.0).
    """

    def saves() -> int:
        facts = _redis_facts(docker, container, "persistence")
        if (
            facts.get("rdb_bgsave_in_progress") == "0"
            and facts.get("rdb_last_bgsave_status") == "err"
        ):
            raise BackupError("Redis could not save a snapshot: look at its log and its disk.")
        return int(facts.get("rdb_saves", -1)) if facts.get("rdb_bgsave_in_progress") == "0" else -1

    deadline = time.monotonic() + docker.timeout
    before = -1
    while before < 0 or saves() <= before:
        if time.monotonic() > deadline:
            raise BackupError(f"Redis has not saved a snapshot within {docker.timeout} s.")
        if before < 0:
            before = saves()
            if before >= 0:
                # SCHEDULE: after a rewrite of the log that may go on.
                _redis(docker, container, "redis-cli bgsave schedule")
        time.sleep(0.2)
    command = docker.inside(container, "exec cat /data/dump.rdb")
    docker.out_of("The snapshot of Redis was not read", command, target)
    return {}


def restore_redis(
    docker: Docker, image: str, volume: str, source: IO[bytes], label: str = ""
) -> None:
    """Put a snapshot into the volume of a Redis that does not run, when it is a whole one.

    `label` is of the container that does it, ``name=value``.
    """
    command = [docker.cli, "run", "--rm", "--interactive", *HARDENED, "--log-driver", "none"]
    command += ["--label", label] if label else []
    command += ["--user", "999:999", "--volume", f"{volume}:/data", "--entrypoint", "sh"]
    docker.into("Redis was not restored", [*command, image, "-c", RESTORE_REDIS], source)


# --- Qdrant ----------------------------------------------------------------------------------
class TooLargeError(BackupError):
    """An answer has more bytes than are taken."""


class _WithinContainer(http.client.HTTPConnection):
    """A connection to a port of a container that is on no network."""

    def __init__(self, pid: int, port: int, timeout: float) -> None:
        super().__init__("127.0.0.1", port, timeout=timeout)
        self.pid = pid

    def connect(self) -> None:
        """Make the socket in the container's network namespace; it stays there.

        Raises:
            OSError: the container has ended, this is not root, or nobody listens.
        """
        failed: list[OSError] = []

        def enter() -> None:
            try:
                with open(f"/proc/{self.pid}/ns/net", "rb") as there:
                    libc = ctypes.CDLL(None, use_errno=True)
                    if libc.setns(there.fileno(), CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                self.sock = socket.create_connection((self.host, self.port), self.timeout)
            except OSError as error:
                failed.append(error)

        # A namespace is of a thread: this one ends with its own.
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]


def _read(response: http.client.HTTPResponse, most: int, deadline: float) -> bytes:
    """Return an answer, or its first bytes; asked for at once, all of `most` would be reserved."""
    pieces, left = [], most
    # Not `read`, which waits for all of it: each byte could come just before the time-out.
    while left > 0 and (piece := response.read1(min(left, 1 << 20))):
        pieces.append(piece)
        left -= len(piece)
        if time.monotonic() > deadline:
            raise TimeoutError("its answer came too slowly")
    if left > 0 and response.length:
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(pieces)


class Qdrant:
    """Qdrant's REST API: at the container's own address, as it has no published port, or within
    a container that is on no network.
    """

    received = 0  # bytes of the last answer

    def __init__(self, docker: Docker, container: str) -> None:
        seen = docker.inspect(container)
        networks = seen["NetworkSettings"]["Networks"].values()
        self.address = next((n["IPAddress"] for n in networks if n["IPAddress"]), "")
        self.pid = int(seen["State"]["Pid"])
        environment = dict(item.split("=", 1) for item in seen["Config"]["Env"] if "=" in item)
        self.headers = {"Content-Type": "application/json"}
        if environment.get("QDRANT__SERVICE__API_KEY"):
            self.headers["api-key"] = environment["QDRANT__SERVICE__API_KEY"]
        self.timeout = docker.timeout
        self.until = time.monotonic() + self.timeout  # for an export as a whole

    def connection(self) -> http.client.HTTPConnection:
        """Return a connection that is not made yet."""
        if self.address:
            return http.client.HTTPConnection(self.address, 6333, timeout=self.timeout)
        return _WithinContainer(self.pid, 6333, self.timeout)

    def ask(
        self, method: str, path: str, body: Any = None, missing: Any = None, most: int = MOST_ANSWER
    ) -> Any:
        """The answer's ``result`` (the answer itself where it has none).

        Args:
            missing: what a 404 means; None makes it an error.
            most: bytes of an answer that are taken.

        Raises:
            TooLargeError: the answer has more; no more than those were read.
            BackupError: Qdrant did not answer, or refused.
        """
        connection = self.connection()
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, self.headers)
            response = connection.getresponse()
            raw = _read(response, most + 1, time.monotonic() + self.timeout)
        except (OSError, http.client.HTTPException) as error:
            raise BackupError(f"Qdrant did not answer {method} {path}: {error}") from error
        finally:
            connection.close()
        self.received = len(raw)
        if self.received > most:
            raise TooLargeError(
                f"Qdrant answered {method} {path} with more than {most} bytes, which are not read:"
                " the server's memory is for what serves"
            )
        if response.status == 404 and missing is not None:
            return missing
        if response.status != 200:
            told = raw.decode(errors="replace")[:500]
            raise BackupError(f"Qdrant answered {method} {path} with {response.status}: {told}")
        answer = json.loads(raw)
        return answer.get("result", answer)

    def names(self) -> list[str]:
        """Names of the collections."""
        return sorted(item["name"] for item in self.ask("GET", "/collections")["collections"])

    def wait(self) -> None:
        """Wait until it is ready."""
        deadline = time.monotonic() + 60
        while True:
            try:
                self.ask("GET", "/collections")
                return
            except BackupError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)


def collection_request(info: dict[str, Any]) -> dict[str, Any]:
    """The request that makes a collection like the one Qdrant described."""
    config = info["config"]
    request = dict(config["params"])
    for told, asked in (
        ("hnsw_config", "hnsw_config"),
        ("optimizer_config", "optimizers_config"),
        ("wal_config", "wal_config"),
        ("quantization_config", "quantization_config"),
        ("strict_mode_config", "strict_mode_config"),
        ("metadata", "metadata"),
    ):
        request[asked] = config.get(told)
    # What is empty is what Qdrant has by default.
    return {name: value for name, value in request.items() if value not in (None, {})}


def index_request(schema: dict[str, Any]) -> Any:
    """The ``field_schema`` that makes an index like the one Qdrant described."""
    return schema.get("params") or schema["data_type"]


def qdrant_state(docker: Docker, container: str) -> dict[str, Any]:
    """``{vectors: {collection: points}}``."""
    qdrant = Qdrant(docker, container)
    counted = {}
    for name in qdrant.names():
        path = f"/collections/{quote(name, safe='')}/points/count"
        counted[name] = qdrant.ask("POST", path, {"exact": True})["count"]
    return {"vectors": counted}


def _pages(qdrant: Qdrant, name: str) -> Iterator[list[dict[str, Any]]]:
    """Return all points of a collection, page after page; of large points few at a time.

    Raises:
        BackupError: a point alone is too large, and named; or the pages have no end.
    """
    path = f"/collections/{quote(name, safe='')}/points/scroll"
    ended = f"Qdrant hands out the collection {name!a} without an end, so it was not exported"
    remedy = (
        "Look at its log, and at the number of its points. A collection that really takes that"
        " long needs a higher backup_timeout"
    )
    # An offset that comes again begins a circle: one is remembered, at distances that double
    # (Brent), so that memory and time stay small however many pages there are.
    remembered, steps, distance = None, 0, 1
    # Few at first: Qdrant, which serves meanwhile, has the whole answer in its memory too.
    ask: dict[str, Any] = {"limit": 1, "with_payload": True, "with_vector": True}
    while True:
        try:
            most = MOST_ANSWER if ask["limit"] == 1 else MOST_PAGE
            page = qdrant.ask("POST", path, ask, most=most)
        except TooLargeError as error:
            if ask["limit"] > 1:
                ask["limit"] //= 2
                continue
            bare = {**ask, "with_payload": False, "with_vector": False}
            point = qdrant.ask("POST", path, bare)["points"][0]["id"]
            raise BackupError(
                f"The point {point!a} of the collection {name!a} has more than {MOST_ANSWER >> 20}"
                " MiB with its vectors and payload, so Qdrant was not exported: keep what is that"
                " large as a file or in the database, or delete the point"
            ) from error
        kept = ("id", "vector", "payload")
        points = [{key: point.get(key) for key in kept} for point in page["points"]]
        if points:
            yield points
        if page.get("next_page_offset") is None:
            return
        ask["offset"] = page["next_page_offset"]
        if ask["offset"] == remembered:
            raise BackupError(f"{ended}: after {remembered!a} it came to the same point. {remedy}")
        if time.monotonic() > qdrant.until:
            raise BackupError(f"{ended} within {qdrant.timeout} s (backup_timeout). {remedy}")
        steps += 1
        if steps == distance:
            remembered, steps, distance = ask["offset"], 0, 2 * distance
        # Also after a large one: that is no reason to ask for each small one alone.
        if qdrant.received < MOST_PAGE // 4:
            ask["limit"] = min(2 * ask["limit"], PAGE)


def _put(qdrant: Qdrant, base: str, points: list[dict[str, Any]]) -> None:
    """Write points, in as many requests as they need: Qdrant refuses one of more than 32 MB."""
    if len(points) > 1 and len(json.dumps(points)) > MOST_PAGE:
        half = len(points) // 2
        _put(qdrant, base, points[:half])
        _put(qdrant, base, points[half:])
    else:
        qdrant.ask("PUT", f"{base}/points?wait=true", {"points": points})


def dump_qdrant(docker: Docker, container: str, target: IO[bytes]) -> dict[str, Any]:
    """Write every collection's settings, indexes and points as JSON lines.

    A logical export and not Qdrant's snapshot: it is the same for Qdrant and its stand-in, reads
    back into newer versions, and needs no room beside the collections (`/qdrant/snapshots` is
    memory). A point that is written meanwhile is in it as it was or as it is, whole.
    """
    qdrant = Qdrant(docker, container)
    counted = {}
    with gzip.GzipFile(fileobj=target, mode="wb", mtime=0) as packed:

        def write(**entry: Any) -> None:
            packed.write(json.dumps(entry, separators=(",", ":")).encode() + b"\n")

        for name in qdrant.names():
            base = f"/collections/{quote(name, safe='')}"
            info = qdrant.ask("GET", base)
            schema = info.get("payload_schema") or {}
            indexes = {field: index_request(told) for field, told in schema.items()}
            write(collection=name, request=collection_request(info), indexes=indexes)
            counted[name] = 0
            for points in _pages(qdrant, name):
                write(points=points)
                counted[name] += len(points)
        aliases = qdrant.ask("GET", "/aliases", missing={"aliases": []})["aliases"]
        write(aliases=aliases)
    return {"vectors": counted}


def restore_qdrant(docker: Docker, container: str, source: IO[bytes]) -> None:
    """Replace all collections by those of an export.

    Raises:
        BackupError: Qdrant refused something; run it again, nothing of it is left half-read.
    """
    qdrant = Qdrant(docker, container)
    for name in qdrant.names():
        qdrant.ask("DELETE", f"/collections/{quote(name, safe='')}")
    base, ended = "", False
    with gzip.GzipFile(fileobj=source) as plain:
        while line := plain.readline(MOST_LINE + 1):
            if len(line) > MOST_LINE:
                raise BackupError(
                    f"The export of Qdrant has a line of more than {MOST_LINE >> 30} GiB, which no"
                    " backup writes: choose another set."
                )
            entry = json.loads(line)
            if "collection" in entry:
                base = f"/collections/{quote(entry['collection'], safe='')}"
                qdrant.ask("PUT", base, entry["request"])
                for field, schema in entry["indexes"].items():
                    request = {"field_name": field, "field_schema": schema}
                    qdrant.ask("PUT", f"{base}/index?wait=true", request)
            elif "points" in entry:
                _put(qdrant, base, entry["points"])
            else:
                ended = True
                actions = [{"create_alias": alias} for alias in entry["aliases"]]
                if actions:
                    qdrant.ask("POST", "/collections/aliases", {"actions": actions})
    if not ended:
        raise BackupError("The export of Qdrant ends too early: choose another set.")


# --- Uploaded files --------------------------------------------------------------------------
class _Counting:
    """A stream that is written into another while it is read."""

    def __init__(self, source: IO[bytes], target: IO[bytes]) -> None:
        self.source = source
        self.target = target

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        piece = self.source.read(size)
        self.target.write(piece)
        return piece


class Uploads:
    """The volume with uploaded files, reached by throwaway containers of an image that has tar.

    Args:
        labels: of those containers, ``name=value``.
    """

    def __init__(self, docker: Docker, image: str, volume: str, *labels: str) -> None:
        self.docker = docker
        self.image = image
        self.volume = volume
        self.labels = [piece for label in labels for piece in ("--label", label)]

    def _command(self, script: str, access: str) -> list[str]:
        # No log: the engine would write every byte of the archive into it. Of root's capabilities
        # those stay that files of other owners need: no device can be made.
        return [
            *(self.docker.cli, "run", "--rm", "--interactive", *HARDENED, *self.labels),
            *("--log-driver", "none", "--user", "0:0"),
            *("--cap-add", "CHOWN", "--cap-add", "DAC_OVERRIDE", "--cap-add", "FOWNER"),
            *("--volume", f"{self.volume}:/data:{access}"),
            *("--entrypoint", "timeout", self.image, str(self.docker.timeout)),
            *("bash", "-o", "pipefail", "-c", script),
        ]

    def dump(self, target: IO[bytes]) -> dict[str, Any]:
        """Write the files as a tar; what is told of them was counted in it."""
        what, counted = "The uploaded files were not read", {"files": 0, "bytes": 0}
        broken, entries = "", 0
        command = self._command(DUMP_UPLOADS, "ro")
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        with _started(command, **pipes) as running:
            stream = _Counting(running.stdout, target)
            try:
                with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
                    for member in archive:
                        entries += 1
                        archive.members = []  # else each stays in memory
                        if member.isreg() or member.islnk():
                            counted["files"] += 1
                            counted["bytes"] += member.size
                while stream.read(1 << 20):
                    pass
            except tarfile.TarError as error:
                broken = str(error)
        self.docker.judge(what, running)
        if broken:
            raise BackupError(f"{what}: {broken}")
        return {"uploads": counted, "entries": entries}

    def restore(self, source: IO[bytes], expected: Expected, owner: str = "") -> dict[str, int]:
        """Replace the files by those of a tar; return how many entries were left out or changed.

        Args:
            source: the tar.
            expected: what the manifest tells of it.
            owner: uid or ``uid:gid`` of all files; empty for the owner of the folder.

        Raises:
            BackupError: the files are as they were.
        """
        if not OWNER.match(owner):
            raise BackupError(f"{owner!a} is no owner of files")  # it becomes part of a script
        what, last = "The uploaded files were not restored", f".crisper-{os.urandom(8).hex()}"
        script = RESTORE_UPLOADS.replace("{owner}", owner).replace("{last}", last)
        command, problem = self._command(script, "rw"), ""
        left_out: dict[str, int] = {}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
        with _started(command, **pipes) as running:
            try:
                left_out = copy_safely(source, running.stdin, expected, last)
                running.stdin.close()
            except BrokenPipeError:
                pass  # it ended early; its exit code and its messages say why
            except BackupError as error:
                # Without its last file nothing is replaced; the script is to end by itself.
                problem = str(error)
        if problem:
            raise BackupError(f"{what}, because of their archive: {problem}")
        self.docker.judge(what, running)
        return left_out


def _uploads(docker: Docker, container: str, *labels: str) -> Uploads:
    seen = docker.inspect(container)
    return Uploads(docker, seen["Image"], f"{_project(seen)}_uploads", *labels)


def _project(seen: dict[str, Any]) -> str:
    return str(seen["Config"]["Labels"]["com.docker.compose.project"])


def uploads_owner(docker: Docker, project: str) -> str:
    """Return uid or ``uid:gid`` of the application that writes uploads; empty when unknown.

    Its containers are there, though they do not run. A user by name is known to its image alone;
    the folder in the volume has its owner then, as the engine has made it.
    """
    volume = f"{project}_uploads"
    for container in docker.run(
        *("ps", "--all", "--quiet", "--no-trunc", "--filter", f"volume={volume}"),
        *("--filter", f"label=com.docker.compose.project={project}"),
    ).split():
        seen = docker.inspect(container)
        writes = any(m.get("Name") == volume and m.get("RW") for m in seen["Mounts"])
        user = str(seen["Config"].get("User") or "")
        if writes and user and OWNER.match(user):
            return user
    return ""


def uploads_state(docker: Docker, container: str) -> dict[str, Any]:
    """``{uploads: {files, bytes}}``; the container is one of the stack whose image has tar."""
    with open(os.devnull, "wb") as nowhere:
        return _uploads(docker, container).dump(nowhere)


def dump_uploads(docker: Docker, container: str, target: IO[bytes]) -> dict[str, Any]:
    """Write the uploaded files as a packed tar."""
    with gzip.GzipFile(fileobj=target, mode="wb", mtime=0) as packed:
        return _uploads(docker, container).dump(packed)  # type: ignore[arg-type]


def restore_uploads(
    docker: Docker, container: str, source: IO[bytes], expected: Expected, label: str
) -> dict[str, int]:
    """Replace the uploaded files; the application does not run meanwhile.

    Returns:
        How many entries were left out or changed, by what they are.
    """
    owner = uploads_owner(docker, _project(docker.inspect(container)))
    with gzip.GzipFile(fileobj=source) as plain:
        files = _uploads(docker, container, label)
        return files.restore(plain, expected, owner)  # type: ignore[arg-type]
