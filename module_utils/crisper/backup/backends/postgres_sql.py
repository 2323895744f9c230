"""SQL and shell texts for PostgreSQL: what sessions of a superuser run, and a restore."""

from __future__ import annotations

import re

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
# once its roles are in order; its own database knows the name as well. Whoever owned template1 may
# have dropped it: the database postgres is asked then.
WHO = (
    "SELECT pg_catalog.current_setting('server_version_num'::pg_catalog.text), rolname"
    " FROM pg_catalog.pg_roles WHERE oid = '10'"
)
FIND_SUPERUSER = (
    f"strong='{_options(*_PINNED[:5])}'; weak='{_options(*_PINNED[:3])}';"
    " who() { superuser=$(PGOPTIONS=$1 psql --quiet --no-psqlrc --tuples-only --no-align"
    ' --field-separator " " --username "$2" --dbname "$3"'
    f' --command "{WHO}" 2>&1); }};'
    " find_superuser() { local place;"
    " for place in template1 postgres; do"
    ' who "$strong" "$POSTGRES_USER" "$place" || who "$strong" "$POSTGRES_DB" "$place"'
    ' || who "$strong" postgres "$place" || who "$strong" "${POSTGRES_DB}_superuser" "$place"'
    ' || who "$strong" "${POSTGRES_DB}_superuser_2" "$place"'
    ' || who "$weak" "$POSTGRES_USER" "$place" || who "$weak" "$POSTGRES_DB" "$place"'
    " && return; done;"
    ' who "$weak" "$POSTGRES_DB" "$POSTGRES_DB"; };'
    ' find_superuser || { echo "$superuser" >&2; exit 2; };'
    # A warning about collations may come first.
    " superuser=${superuser##*$'\\n'}; version=${superuser%% *}; superuser=${superuser#* };"
    f" export PGOPTIONS='{_options(*_PINNED)}';"
    + "".join(
        f' [ "$version" -lt {since} ] || PGOPTIONS="$PGOPTIONS {_options(*settings)}";'
        for since, settings in _PINNED_SINCE.items()
    )
    + ' no_timeout=; [ "$version" -lt 140000 ] || no_timeout=", \'0\'::pg_catalog.int8";'
)
# What a client of the superuser's needs to run END_SESSIONS.
SET_NO_TIMEOUT = '--set no_timeout="$no_timeout"'
# The superuser's, as tables may be other roles' or closed to their owner (FORCE ROW LEVEL
# SECURITY): pg_dump itself reads tables by COPY, and neither views nor foreign tables. Rights on
# what initdb makes are the cluster's: the application's role cannot give them in a restore.
DUMP_POSTGRES = FIND_SUPERUSER + (
    ' exec pg_dump --username "$superuser" --format custom'
    " $EXCLUDED --exclude-schema pg_catalog --exclude-schema information_schema"
    ' --lock-wait-timeout "$LOCK_WAIT" ${SNAPSHOT:+--snapshot "$SNAPSHOT"} "$POSTGRES_DB"'
)
# Whoever was superuser may have planted in pg_catalog what matches a question better than what
# PostgreSQL has: a cast, an operator, a format(text, name). So whatever a superuser's statement
# compares or calls has one exact type, nothing is passed to a function that takes any type
# (format, unnest, coalesce of two types …), no argument is left out, classes are numbers, and no
# value becomes one of a type for which PostgreSQL has no cast of its own but calls the types'
# functions for input and output (bigint to text, text to interval): these are called by name.
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
SELECT 'ALTER DATABASE ' || quote_ident(datname::text) || ' CONNECTION LIMIT -1'
  FROM pg_database WHERE datname = current_database() AND datconnlimit >= '0' \gexec
SELECT 'GRANT ALL ON DATABASE ' || quote_ident(datname::text) || ' TO '
  || quote_ident(:'application'::text)
  FROM pg_database WHERE datname = current_database()
  AND NOT (has_database_privilege(:'application'::name, datname::text, 'CONNECT'::text)
    AND has_database_privilege(:'application'::name, datname::text, 'CREATE'::text)) \gexec
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
# The application's role may set these for itself so that none of its sessions gets anything done.
# Needs `version`, and sets `options`.
_APPLICATION = (
    "options='"
    + _options(
        *("role=none", "local_preload_libraries=", "client_min_messages=warning"),
        *("row_security=on", "default_tablespace=", "temp_tablespaces="),
        *("default_transaction_read_only=off", "default_transaction_deferrable=off"),
        r"default_transaction_isolation=read\ committed",
        *("statement_timeout=0", "lock_timeout=0", "idle_in_transaction_session_timeout=0"),
    )
    + "';"
    + "".join(
        f' [ "$version" -lt {since} ] || options="$options {_options(setting)}";'
        for since, setting in (
            (140000, "idle_session_timeout=0"),
            (170000, "transaction_timeout=0"),
        )
    )
)
# The same, for what a restore runs before the dump's own statements, and for how a value is read:
# names mean PostgreSQL's, whatever the application has put before them.
_RESTORING = _options(
    *("search_path=pg_catalog", "array_nulls=on", "datestyle=ISO", "intervalstyle=postgres")
)
RESTORE_POSTGRES = f"""{FIND_SUPERUSER}
@read@
@judge@
ask() {{
    psql --quiet --no-psqlrc --tuples-only --username "$1" --dbname "$POSTGRES_DB" --file - \
        --set ON_ERROR_STOP=1 --set application="$POSTGRES_DB" \
        --output /dev/null
}}
{_APPLICATION}
ask "$superuser" <<'SQL' || exit
{RESTORE_PREPARATION}
SQL
{{
    cat <<'SQL'
{RESTORE_BEGIN}
SQL
    pg_restore --no-owner --file - | LC_ALL=C sed '{_EXTENSIONS}' \
        && {{ judge && echo 'COMMIT;'; }} 2>/dev/null
}} | PGOPTIONS="$options {_RESTORING}" ask "$POSTGRES_DB"
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
ASK_POSTGRES = (
    f"{FIND_SUPERUSER} exec {_PSQL} {SET_NO_TIMEOUT}"
    ' --username "$superuser" --dbname "$POSTGRES_DB"'
)
# Where the application's own database may be missing: its owner can drop it. template1 may be, too.
ASK_TEMPLATE = (
    f"{FIND_SUPERUSER} place=template1;"
    ' psql --quiet --no-psqlrc --username "$superuser" --dbname template1 --command ""'
    " < /dev/null > /dev/null 2>&1 || place=postgres;"
    f' exec {_PSQL} --username "$superuser" --dbname "$place"'
    ' --set name="$POSTGRES_DB"'
)
DATABASE = "SELECT oid FROM pg_catalog.pg_database WHERE datname = :'name'::pg_catalog.name"
# Whether the application's database takes connections: `t`, `f`, or no line where it is missing.
OPEN = "SELECT datallowconn FROM pg_catalog.pg_database WHERE datname = :'name'::pg_catalog.name"
# As initdb makes it, but that nobody else connects to it, and only where it is missing: createdb
# and CREATE DATABASE without a template copy it.
MAKE_TEMPLATE = r"""
SELECT 'CREATE DATABASE template1 TEMPLATE template0 IS_TEMPLATE true'
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'template1'::name) \gexec
REVOKE ALL ON DATABASE template1 FROM PUBLIC;
"""
MAKE_DATABASE = r"""
SELECT 'CREATE ROLE ' || quote_ident(:'name'::text) || ' LOGIN'
  WHERE NOT EXISTS (SELECT FROM pg_authid WHERE rolname = :'name'::name) \gexec
SELECT 'CREATE DATABASE ' || quote_ident(:'name'::text) || ' OWNER ' || quote_ident(:'name'::text)
  || ' TEMPLATE template0'
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name'::name) \gexec
"""
# Whatever runs the application's code (a view, an index's expression) is asked by its own role: a
# function called by the superuser has a superuser's rights, and SET ROLE is undone by RESET ROLE.
ASK_APPLICATION = (
    # The server is the same package's.
    "version=$(psql -V); version=${version#*) }; version=${version%%[!0-9]*}0000;"
    f' {_APPLICATION} export PGOPTIONS="$options";'
    f' exec {_PSQL} --username "$POSTGRES_DB" --dbname "$POSTGRES_DB"'
)
# Since PostgreSQL 14 it takes a second argument, which may be left out: beside a function that has
# only the first one, planted by a former superuser, PostgreSQL cannot choose then, and refuses.
END_SESSIONS = (
    "SELECT pg_catalog.pg_terminate_backend(pid:no_timeout) FROM pg_catalog.pg_stat_activity"
    " WHERE pid <> pg_catalog.pg_backend_pid() AND"
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
EXTENSIONS = "COPY pg_catalog.pg_extension (oid, extname, extconfig) TO STDOUT"
# With or without `trusted` in the fourth place, which PostgreSQL has since 13.
AVAILABLE = "COPY (SELECT * FROM pg_catalog.pg_available_extension_versions()) TO STDOUT"
PLACES = "COPY pg_catalog.pg_extension (extname, extnamespace) TO STDOUT"
SCHEMAS = "COPY pg_catalog.pg_namespace (oid, nspname) TO STDOUT"
SCHEMA_OWNERS = "COPY pg_catalog.pg_namespace (oid, nspname, nspowner) TO STDOUT"
FUNCTION_PLACES = (
    "COPY (SELECT pronamespace, proname FROM pg_catalog.pg_proc WHERE oid >= '16384') TO STDOUT"
)
RELATION_PLACES = "COPY pg_catalog.pg_class (relnamespace) TO STDOUT"
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
_SESSION = (
    "a.pid, a.usename, a.state, a.application_name, pg_catalog.to_char("
    "a.xact_start, 'YYYY-MM-DD HH24:MI:SS TZ'::pg_catalog.text), a.query"
)
# Whom the session of a name waits for.
AWAITED = (
    f"COPY (SELECT {_SESSION}"  # noqa: S608
    " FROM pg_catalog.pg_stat_activity a, pg_catalog.pg_stat_activity w"
    " WHERE w.application_name = '{}'::pg_catalog.text"
    " AND a.pid = ANY (pg_catalog.pg_blocking_pids(w.pid))"
    " ORDER BY a.xact_start LIMIT '3') TO STDOUT"
)
# Who holds a lock in the database that nobody can read beside. A text, and no number, is compared.
HOLDERS = (
    f"COPY (SELECT {_SESSION}"  # noqa: S608
    " FROM pg_catalog.pg_stat_activity a"
    " WHERE a.pid IN (SELECT l.pid FROM pg_catalog.pg_locks l"
    " WHERE l.locktype = 'relation'::pg_catalog.text AND l.granted"
    " AND l.mode = 'AccessExclusiveLock'::pg_catalog.text AND l.database = (SELECT oid"
    " FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))"
    " ORDER BY a.xact_start LIMIT '3') TO STDOUT"
)
