"""Roles of a stack's PostgreSQL: a superuser, and the application's, which has no powers.

The official image makes ``POSTGRES_USER`` the bootstrap superuser, and PostgreSQL lets nobody take
that from it. Until this edition it was the application's role. Such a stack is moved once: its
objects go to a new role, a few at a time, while the old one still may everything; then one
transaction gives the superuser another name and the new role the old one. Sessions that are open
keep the superuser; whoever connects afterwards, with the same name and password, has the new role.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import stringprep
import threading
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..backup.backends.postgres_locks import end_statements, tell_sessions
from ..backup.backends.postgres_sql import (
    ASK_POSTGRES,
    AWAITED,
    END_SESSIONS,
    FIND_SUPERUSER,
    HELPER,
    MAKE_TEMPLATE,
    RESTORE_CLEANUP,
)
from ..backup.backends.psql import postgres_session, unescape
from ..backup.manifest import BackupError
from ..docker.exec import Docker
from ..text import printable, sql_identifier
from .catalog import SUPERUSER_OID, Catalog, builtin, identifier, read_catalog
from .connections import SYSTEM_DATABASES, Opening, foreign_owners, of_databases, system_openings
from .fresh_cluster import Fresh, key_of
from .planted import (
    REBUILD,
    compared,
    measure,
    of_cluster,
    of_files,
    of_superusers,
)

SUPERUSER = "postgres"
# Holds the objects until the application's role has its place.
SUFFIX = "_application"
# Its comment, by which it is known from a role of the operator's that has the same name.
HOLDER = "crisper: takes the application's place"
# Names that CREATE EXTENSION takes.
EXTENSION = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}\Z")
FORBIDDEN = ("SUPERUSER", "CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS")
ITERATIONS = 4096
VERIFIER = re.compile(r"SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):(.+)\Z")
VERIFIERS = re.compile(r"(?:SCRAM-SHA-256\$|md5)[A-Za-z0-9+/=:$]{20,}")
# Longest that a request waits behind a change of owner that cannot have its lock yet.
LOCK_MILLISECONDS = 500
# For so long a change that had to wait is made again, to see whom it waits for.
WATCHED_SECONDS = 3

# Whatever the bootstrap superuser (role 10) owns and a plain role may own. Objects of initdb have
# numbers below 16384, a large object has whatever its maker says. Members of an extension stay with
# its owner. Event triggers, foreign-data wrappers, subscriptions and publications of all tables
# need a superuser. Whatever is compared is of one type, and nothing is passed to a function that
# takes any: a function, cast or operator planted in pg_catalog is no better match.
_OBJECTS = """
  SELECT kind, (pg_identify_object(class, number, 0)).identity AS identity
  FROM (
    SELECT '1259'::oid AS class, oid AS number, CASE relkind WHEN 'r' THEN 'TABLE'
        WHEN 'p' THEN 'TABLE' WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
        WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE' END AS kind
      FROM pg_class WHERE relowner = '10' AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
        AND relpersistence <> 't'
        -- a column's sequence follows its table
        AND NOT (relkind = 'S' AND EXISTS (SELECT FROM pg_depend
          WHERE classid = '1259'::oid AND objid = pg_class.oid
          AND deptype IN ('a', 'i') AND refobjsubid > '0'))
    UNION ALL SELECT '1247'::oid, oid, 'TYPE' FROM pg_type t WHERE typowner = '10'
        AND (typtype IN ('d', 'e', 'r', 'b') OR typtype = 'c'
          AND EXISTS (SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
        AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
    UNION ALL SELECT '1255'::oid, oid, CASE prokind WHEN 'a' THEN 'AGGREGATE'
        WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END FROM pg_proc WHERE proowner = '10'
        -- whoever has the function of an event trigger has what the superuser does
        AND oid NOT IN (SELECT evtfoid FROM pg_event_trigger)
        -- or that of a cast between types of PostgreSQL, which only a superuser makes
        AND oid NOT IN (SELECT castfunc FROM pg_cast
          WHERE castsource < '16384' AND casttarget < '16384')
        -- those of a range type are the superuser's whoever made it
        AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = '1255'::oid
          AND objid = pg_proc.oid AND deptype = 'i')
    UNION ALL SELECT '2617'::oid, oid, 'OPERATOR' FROM pg_operator WHERE oprowner = '10'
    UNION ALL SELECT '2616'::oid, oid, 'OPERATOR CLASS'
      FROM pg_opclass WHERE opcowner = '10'
    UNION ALL SELECT '2753'::oid, oid, 'OPERATOR FAMILY'
      FROM pg_opfamily WHERE opfowner = '10'
    UNION ALL SELECT '3456'::oid, oid, 'COLLATION'
      FROM pg_collation WHERE collowner = '10'
    UNION ALL SELECT '2607'::oid, oid, 'CONVERSION'
      FROM pg_conversion WHERE conowner = '10'
    UNION ALL SELECT '3602'::oid, oid, 'TEXT SEARCH CONFIGURATION'
      FROM pg_ts_config WHERE cfgowner = '10'
    UNION ALL SELECT '3600'::oid, oid, 'TEXT SEARCH DICTIONARY'
      FROM pg_ts_dict WHERE dictowner = '10'
    UNION ALL SELECT '3381'::oid, oid, 'STATISTICS'
      FROM pg_statistic_ext WHERE stxowner = '10'
    UNION ALL SELECT '1417'::oid, oid, 'SERVER'
      FROM pg_foreign_server WHERE srvowner = '10'
    UNION ALL SELECT '2615'::oid, oid, 'SCHEMA' FROM pg_namespace
      WHERE nspowner = '10' AND nspname !~ '^pg_'::text
        AND nspname !~ '^crisper_restore(_[0-9a-f]{16})?$'::text
    UNION ALL SELECT '2613'::oid, oid, 'LARGE OBJECT'
      FROM pg_largeobject_metadata WHERE lomowner = '10'
  ) owned
  WHERE (number >= '16384' OR kind = 'LARGE OBJECT') AND NOT EXISTS (SELECT FROM pg_depend d
    WHERE d.classid = owned.class AND d.objid = owned.number AND d.deptype = 'e')
"""
# Each change is a transaction of its own that waits LOCK_MILLISECONDS for its lock at most: what
# the application asks meanwhile is late by that, and does not fail.
TRANSFER = """
DO $crisper$
DECLARE
  target text := current_setting('crisper.target'::text);
  deadline timestamptz := clock_timestamp() + current_setting('crisper.wait'::text)::interval;
  pending text[];
  each text;
  failed text;
BEGIN
  LOOP
    pending := ARRAY(SELECT 'ALTER ' || kind || ' ' || identity || ' OWNER TO '
      || quote_ident(target) FROM (@objects@) objects);
    EXIT WHEN pending[1] IS NULL;
    failed := NULL;
    FOREACH each IN ARRAY pending LOOP
      BEGIN
        EXECUTE each;
      EXCEPTION WHEN lock_not_available OR deadlock_detected OR undefined_table
          OR undefined_object OR undefined_function OR invalid_schema_name THEN
        failed := each;  -- locked, or dropped meanwhile
      END;
      COMMIT;
    END LOOP;
    IF clock_timestamp() > deadline THEN
      RAISE EXCEPTION '%', coalesce(failed, pending[1]) USING ERRCODE = 'lock_not_available';
    END IF;
    IF failed IS NOT NULL THEN PERFORM pg_sleep('0.3'::float8); END IF;
    COMMIT;
  END LOOP;
END $crisper$;
""".replace("@objects@", _OBJECTS)
# The same within a transaction.
_TRANSFER_REST = """
DO $crisper$
DECLARE each text;
BEGIN
  FOR each IN SELECT 'ALTER ' || kind || ' ' || identity || ' OWNER TO '
      || quote_ident(current_setting('crisper.target'::text)) FROM (@objects@) objects LOOP
    EXECUTE each;
  END LOOP;
END $crisper$;
""".replace("@objects@", _OBJECTS)
# What follows a role by its number and is no object: default privileges, user mappings, policies.
CARRY = """
DO $crisper$
DECLARE
  target text := quote_ident(current_setting('crisper.target'::text));
  scope text;
  things text;
  grantee text;
  role oid;
  roles oid[];
  each record;
  rule record;
BEGIN
  FOR each IN SELECT a.defaclobjtype, a.defaclacl, n.nspname::text AS schema FROM pg_default_acl a
      LEFT JOIN pg_namespace n ON n.oid = a.defaclnamespace WHERE a.defaclrole = '10' LOOP
    scope := 'ALTER DEFAULT PRIVILEGES FOR ROLE ' || target
      || CASE WHEN each.schema IS NULL THEN '' ELSE ' IN SCHEMA ' || quote_ident(each.schema) END;
    things := CASE each.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES'
      WHEN 'f' THEN 'ROUTINES' WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS'
      ELSE 'LARGE OBJECTS' END;
    IF each.schema IS NULL THEN
      EXECUTE scope || ' REVOKE ALL ON ' || things || ' FROM PUBLIC';
    END IF;
    FOR rule IN SELECT a.grantee, a.privilege_type, a.is_grantable
        FROM aclexplode(each.defaclacl) a WHERE a.grantee <> '10' LOOP
      grantee := CASE rule.grantee WHEN '0' THEN 'PUBLIC'
        ELSE quote_ident(pg_get_userbyid(rule.grantee)::text) END;
      EXECUTE scope || ' GRANT ' || rule.privilege_type || ' ON ' || things || ' TO ' || grantee
        || CASE WHEN rule.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END;
    END LOOP;
  END LOOP;
  FOR each IN SELECT srvname::text AS server, umoptions FROM pg_user_mapping m
      JOIN pg_foreign_server s ON s.oid = m.umserver WHERE m.umuser = '10' LOOP
    EXECUTE 'CREATE USER MAPPING IF NOT EXISTS FOR ' || target || ' SERVER '
      || quote_ident(each.server) || coalesce((SELECT ' OPTIONS (' || string_agg(
        quote_ident(option_name) || ' ' || quote_nullable(option_value), ', '::text) || ')'
        FROM pg_options_to_table(each.umoptions)), '');
  END LOOP;
  FOR each IN SELECT polname::text AS policy, polroles,
      textin(regclassout(polrelid::regclass)) AS relation FROM pg_policy
      WHERE '10' = ANY (polroles) LOOP
    things := target;
    roles := each.polroles;
    FOREACH role IN ARRAY roles LOOP
      IF role <> '10' THEN
        things := things || ', ' || quote_ident(pg_get_userbyid(role)::text);
      END IF;
    END LOOP;
    EXECUTE 'ALTER POLICY ' || quote_ident(each.policy) || ' ON ' || each.relation || ' TO '
      || things;
  END LOOP;
END $crisper$;
"""
# The application was a superuser, to whom no object was closed: those of other roles stay open.
OPEN_OTHERS = """
DO $crisper$
DECLARE
  target text := current_setting('crisper.target');
  role oid := (SELECT oid FROM pg_roles WHERE rolname = target);
  each record;
BEGIN
  FOR each IN SELECT format('SCHEMA %I', nspname) AS thing FROM pg_namespace
      WHERE nspowner <> 10 AND nspowner <> role AND nspname !~ '^pg_'
      AND nspname NOT IN ('public', 'information_schema')
    UNION ALL SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || c.oid::regclass
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE relowner <> 10 AND relowner <> role AND relpersistence <> 't'
      AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.oid >= 16384 AND NOT EXISTS (
        SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid
        AND deptype = 'e') LOOP
    EXECUTE format('GRANT ALL ON %s TO %I', each.thing, target);
  END LOOP;
END $crisper$;
"""
# Role 10 gets another name, and the role that holds its objects gets its old one. Nobody may rename
# the role that he is: a superuser who exists in this transaction alone does.
_EXCHANGE = """
UPDATE pg_db_role_setting SET setrole =
  (SELECT oid FROM pg_roles WHERE rolname = current_setting('crisper.target')) WHERE setrole = 10;
DO $crisper$
DECLARE
  old text := (SELECT rolname FROM pg_authid WHERE oid = 10);
  holder text := current_setting('crisper.target');
  superuser text := current_setting('crisper.superuser');
  secret text := (SELECT rolpassword FROM pg_authid WHERE oid = 10);
  most int := (SELECT rolconnlimit FROM pg_authid WHERE oid = 10);
  until text := (SELECT rolvaliduntil FROM pg_authid WHERE oid = 10);
  each record;
BEGIN
  EXECUTE format('REVOKE %I FROM %I', old, holder);
  EXECUTE format('COMMENT ON ROLE %I IS NULL', holder);
  FOR each IN SELECT r.rolname, m.admin_option AS admin, m.grantor FROM pg_auth_members m
      JOIN pg_roles r ON r.oid = m.member WHERE m.roleid = 10 LOOP
    EXECUTE format('GRANT %I TO %I%s', holder, each.rolname,
      CASE WHEN each.admin THEN ' WITH ADMIN OPTION' ELSE '' END);
    -- Since PostgreSQL 16 a role is a member by each of those who granted it.
    EXECUTE format('REVOKE %I FROM %I%s CASCADE', old, each.rolname,
      CASE WHEN current_setting('server_version_num')::int < 160000 THEN ''
        ELSE format(' GRANTED BY %I', pg_get_userbyid(each.grantor)) END);
  END LOOP;
  FOR each IN SELECT DISTINCT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid
      WHERE m.member = 10 AND NOT r.rolsuper AND r.rolname !~ '^pg_' LOOP
    EXECUTE format('GRANT %I TO %I', each.rolname, holder);
  END LOOP;
  CREATE ROLE crisper_renames SUPERUSER NOLOGIN;
  SET LOCAL SESSION AUTHORIZATION crisper_renames;
  EXECUTE format('ALTER ROLE %I RENAME TO %I', old, superuser);
  EXECUTE format('ALTER ROLE %I RENAME TO %I', holder, old);
  EXECUTE format('ALTER ROLE %I LOGIN INHERIT CONNECTION LIMIT %s PASSWORD %L%s', old, most,
    secret, CASE WHEN until IS NULL THEN '' ELSE format(' VALID UNTIL %L', until) END);
  EXECUTE format('ALTER ROLE %I CONNECTION LIMIT -1 VALID UNTIL %L PASSWORD %L', superuser,
    'infinity', current_setting('crisper.verifier'));
END $crisper$;
RESET SESSION AUTHORIZATION;
DROP ROLE crisper_renames;
COMMIT;
"""
FLIP = "BEGIN;\n" + _TRANSFER_REST + CARRY + _EXCHANGE
# The privileges that CARRY has copied.
DROP_CARRIED = """
DELETE FROM pg_depend WHERE classid = '826'
  AND objid IN (SELECT oid FROM pg_default_acl WHERE defaclrole = '10');
DELETE FROM pg_shdepend WHERE classid = '826'
  AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND objid IN (SELECT oid FROM pg_default_acl WHERE defaclrole = '10');
DELETE FROM pg_default_acl WHERE defaclrole = '10';
"""
# Whoever is a member of these reads files and runs programs of the database server.
SERVER = ("pg_execute_server_program", "pg_read_server_files", "pg_write_server_files")
POWERS = {
    "SUPERUSER": "rolsuper",
    "REPLICATION": "rolreplication",
    "CREATEROLE": "rolcreaterole",
    "BYPASSRLS": "rolbypassrls",
}
ATTRIBUTES = {**POWERS, "CREATEDB": "rolcreatedb", "login": "rolcanlogin"}
# A line for each; the values that it compares are of one type, which leaves PostgreSQL no choice.
OBJECTS = f"COPY (SELECT kind FROM ({_OBJECTS}) objects) TO STDOUT;"  # noqa: S608
BLOCKERS = (
    "SELECT format('session %s of %s (transaction open for %s s)', pid, usename,"
    " extract(epoch FROM now() - xact_start)::int) FROM pg_stat_activity"
    " WHERE xact_start < now() - interval '2 s' AND pid <> pg_backend_pid()"
    " AND backend_type = 'client backend' ORDER BY xact_start LIMIT 3"
)
LOCKED = "ERROR:  55P03:"
# Longest list of one kind in a summary; databases that are compared.
MOST = 10
MOST_DATABASES = 20
# Its control file may name the schema; else it goes where all others look for it.
_EXTENSION_SCHEMA = (
    "SELECT count(*) FROM pg_available_extensions e JOIN pg_available_extension_versions v"
    " ON v.name = e.name AND v.version = e.default_version WHERE v.schema IS NULL AND e.name = "
)


# --- Passwords -------------------------------------------------------------------------------
def saslprep(text: str) -> str:
    """Return a password as PostgreSQL prepares it (RFC 4013); what it refuses stays as it is."""
    if text.isascii():
        return text
    mapped = "".join(
        " " if stringprep.in_table_c12(char) else char
        for char in text
        if not stringprep.in_table_b1(char)
    )
    ready = unicodedata.normalize("NFKC", mapped)
    tables = ("c12", "c21_c22", "c3", "c4", "c5", "c6", "c7", "c8", "c9", "a1")
    checks = [getattr(stringprep, f"in_table_{table}") for table in tables]
    if not ready or any(check(char) for check in checks for char in ready):
        return text
    if any(map(stringprep.in_table_d1, ready)):
        ends = stringprep.in_table_d1(ready[0]) and stringprep.in_table_d1(ready[-1])
        if not ends or any(map(stringprep.in_table_d2, ready)):
            return text
    return ready


def scram_verifier(password: str, salt: bytes = b"", iterations: int = ITERATIONS) -> str:
    """Return what PostgreSQL stores of a password: it need not be told the password itself."""
    salt = salt or os.urandom(16)
    word = saslprep(password).encode()
    salted = hashlib.pbkdf2_hmac("sha256", word, salt, iterations)
    client = hmac.new(salted, b"Client Key", "sha256").digest()
    server = hmac.new(salted, b"Server Key", "sha256").digest()
    parts = (salt, hashlib.sha256(client).digest(), server)
    told = [base64.b64encode(part).decode() for part in parts]
    return f"SCRAM-SHA-256${iterations}:{told[0]}${told[1]}:{told[2]}"


def matches(password: str, verifier: str) -> bool:
    """Return whether a stored verifier is that of a password."""
    match = VERIFIER.match(verifier)
    if not match:
        return False
    salt = base64.b64decode(match[2])
    return hmac.compare_digest(scram_verifier(password, salt, int(match[1])), verifier)


# --- What there is, and what is to be done ----------------------------------------------------
@dataclass
class State:
    """Roles of a PostgreSQL server, and who owns what in the stack's database."""

    application: str  # its role and its database have one name
    superuser: str
    superuser_verifier: str = ""
    roles: Sequence[str] = ()
    holder: str = ""  # comment of the role that takes the objects over, if there is one
    role: dict[str, Any] = field(default_factory=dict)  # attributes; empty without one
    memberships: Sequence[str] = ()  # roles by which the application's would be more than itself
    database_owner: str = ""
    public_owner: str = ""
    objects: int = 0
    default_privileges: int = 0
    extensions: Sequence[str] = ()
    databases: Sequence[str] = ()  # others of the superuser
    # PostgreSQL's own databases that the application may connect to: from there it drops its own.
    connectable: Sequence[Opening] = ()
    foreign_owners: Sequence[tuple[str, str]] = ()  # of PostgreSQL's own databases
    no_template: bool = False  # template1 is missing
    limited: bool = False  # the application's database takes so many sessions alone
    template: bool = False  # whoever may make a database may copy the application's
    restore: bool = False  # a restore was killed, and its function is still there
    # Other roles, and what they may.
    powerful: Sequence[tuple[str, str]] = ()

    @property
    def unmoved(self) -> bool:
        """Return whether the application's role is the superuser that PostgreSQL cannot demote."""
        return self.superuser == self.application


def free_name(state: State) -> str:
    """Return the name that the superuser gets: one that no role has."""
    for name in (SUPERUSER, f"{state.application}_superuser", f"{state.application}_superuser_2"):
        if name not in state.roles:
            return name
    raise BackupError(
        f"PostgreSQL has roles {SUPERUSER} and {state.application}_superuser already, and the"
        " superuser needs a name of its own: drop or rename one of them. Nothing was changed."
    )


def plan(state: State, password: str, extensions: Iterable[str]) -> list[str]:
    """Return what has to be done, a sentence each; nothing when all is as wanted.

    Args:
        password: the superuser's.
        extensions: those that the database must have.
    """
    name, found = state.application, []
    if state.unmoved:
        return [
            f"once: PostgreSQL's role {name} is superuser; a new superuser role {free_name(state)}"
            f" takes that over, {name} keeps its password and owns its database and {state.objects}"
            " objects. Sessions stay open; a table is locked for an instant."
        ]
    if not state.role:
        found.append(f"the role {name} is made, without powers")
    if extra := [word for word in FORBIDDEN if state.role.get(word)]:
        found.append(f"the role {name} loses {', '.join(extra)}")
    if state.memberships:
        found.append(f"the role {name} leaves {', '.join(state.memberships)}")
    if state.role and not state.role.get("login"):
        found.append(f"the role {name} may log in")
    if state.role and not state.role.get("password"):
        found.append(f"the role {name} gets its password")
    if state.database_owner != name:
        found.append(f"the database {name} belongs to the role {name}")
    if state.public_owner == state.superuser:
        found.append("the schema public belongs to the owner of the database")
    if state.objects or state.default_privileges:
        found.append(f"{state.objects} objects of {state.superuser} belong to {name}")
    if not matches(password, state.superuser_verifier):
        found.append(f"the role {state.superuser} gets its password")
    if missing := [each for each in extensions if each not in state.extensions]:
        found.append(f"extensions are made: {', '.join(missing)}")
    found += [
        f"the database {printable(database)} belongs to {state.superuser} again, and not to"
        f" {printable(owner)} (its owner may drop it)"
        for database, owner in state.foreign_owners
    ]
    if everybody := [each.database for each in state.connectable if {"", name} & {*each.grantees}]:
        found.append(
            f"nobody but superusers connects to {' and '.join(everybody)} (from there the"
            f" role {name} could drop its database); a role that has to: GRANT CONNECT"
        )
    for each in state.connectable:
        if members := [grantee for grantee in each.grantees if grantee not in ("", name)]:
            found.append(
                f"the role {printable(', '.join(members))}, which {name} is a member of, connects"
                f" to {each.database} no more (from there {name} could drop its database)"
            )
    if state.no_template:
        found.append("the database template1, which is missing, is made again from template0")
    if state.limited:
        found.append(
            f"the database {name} has no limit of connections any more (its owner can set one, and"
            " keep a deploy out)"
        )
    if state.template:
        found.append(f"the database {name} is no template any more")
    if state.restore:
        found.append("what a restore that was killed left is removed")
    return found


def read_state(catalog: Catalog, application: str, objects: int) -> State:
    """Return what the catalogs of the application's database tell of its roles.

    Args:
        objects: how many objects the superuser owns that are the application's to own.
    """
    rows, roles = catalog.rows, catalog.roles
    by_name = {row["rolname"]: row for row in rows["pg_authid"]}
    superuser = by_name[roles[str(SUPERUSER_OID)]]
    own = by_name.get(application)
    if own is superuser:
        own = None
    holder = by_name.get(f"{application}{SUFFIX}", {}).get("oid")
    database = next(row for row in rows["pg_database"] if row["datname"] == application)
    public = [row["nspowner"] for row in rows["pg_namespace"] if row["nspname"] == "public"]
    powers = find_powers(rows)
    by_itself = [roles[role] for role, words in powers.items() if "SUPERUSER" in words]
    enough = {"SUPERUSER", *SERVER, *(f"member of {name}" for name in (*by_itself, *SERVER))}
    strong = {role for role, words in powers.items() if words & enough}
    return State(
        application,
        superuser=superuser["rolname"],
        superuser_verifier=superuser["rolpassword"] or "",
        roles=list(by_name),
        holder=next(
            (row["description"] for row in rows["pg_shdescription"] if row["objoid"] == holder), ""
        ),
        role={
            **{word: own[column] == "t" for word, column in ATTRIBUTES.items()},
            "password": own["rolpassword"] is not None,
        }
        if own
        else {},
        memberships=sorted(
            {
                roles[row["roleid"]]
                for row in rows["pg_auth_members"]
                if own and row["member"] == own["oid"] and row["roleid"] in strong
            }
        ),
        database_owner=roles.get(database["datdba"], ""),
        public_owner=roles.get(public[0], "") if public else "",
        objects=objects,
        default_privileges=sum(
            row["defaclrole"] == str(SUPERUSER_OID) for row in rows["pg_default_acl"]
        ),
        extensions=[name for name, *_ in catalog.extensions()],
        databases=[
            row["datname"]
            for row in sorted(rows["pg_database"], key=lambda row: row["datname"])
            if row["datdba"] == str(SUPERUSER_OID)
            and (row["datallowconn"], row["datistemplate"]) == ("t", "f")
            and row["datname"] not in (*SYSTEM_DATABASES, application)
        ],
        connectable=system_openings(catalog, application),
        foreign_owners=foreign_owners(catalog, application),
        no_template=not any(row["datname"] == "template1" for row in rows["pg_database"]),
        limited=int(database["datconnlimit"]) >= 0,
        template=database["datistemplate"] == "t",
        restore=any(
            HELPER.fullmatch(row["nspname"])
            and row["nspowner"] == str(SUPERUSER_OID)
            and not any(each["relnamespace"] == row["oid"] for each in rows["pg_class"])
            for row in rows["pg_namespace"]
        ),
        powerful=[
            (roles[role], ", ".join(_told(words)))
            for role, words in sorted(powers.items(), key=lambda item: roles[item[0]])
            if not builtin(role)
            and roles[role] not in (application, f"{application}{SUFFIX}")
            and words
        ],
    )


def find_powers(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, set[str]]:
    """Return what each role may by itself, and by the roles that it is a member of.

    Returns:
        Role -> words: an attribute, or the name of a role that has one or reaches the server.
    """
    found: dict[str, set[str]] = {}
    sources: dict[str, str] = {}
    for row in rows["pg_authid"]:
        own = {word for word, column in POWERS.items() if row[column] == "t"}
        found[row["oid"]] = own | ({row["rolname"]} & set(SERVER))
        if found[row["oid"]]:
            sources[row["oid"]] = row["rolname"]
    above: dict[str, set[str]] = {}
    for row in rows["pg_auth_members"]:
        above.setdefault(row["member"], set()).add(row["roleid"])
    for role in found:
        pending, reached = [role], {role}
        while pending:
            for each in above.get(pending.pop(), set()) - reached:
                reached.add(each)
                pending.append(each)
        found[role] = found[role] | {
            f"member of {sources[e]}" for e in reached - {role} if e in sources
        }
    return found


def _told(words: Iterable[str]) -> list[str]:
    """Return powers in the order of POWERS, memberships behind them."""
    order = [*POWERS]
    return sorted(
        words, key=lambda word: (order.index(word) if word in order else len(order), word)
    )


def of_roles(state: State) -> list[str]:
    """Return which other roles have powers, a sentence each."""
    return [
        f"the role {printable(role)} has powers ({printable(powers)}). If it is not yours:"
        f" DROP ROLE {sql_identifier(role)}"
        for role, powers in state.powerful
    ]


def shorten(kinds: Iterable[Sequence[str]]) -> list[str]:
    """Return the first of each kind of findings, how many more there are, and the way out."""
    lists = [list(each) for each in kinds]
    found = [sentence for each in lists for sentence in each[:MOST]]
    if more := sum(max(0, len(each) - MOST) for each in lists):
        found.append(f"and {more} more of these")
    if found:
        found.append(
            "whoever was superuser may have left these, and what no list finds. If one of them is"
            f" not yours, move the data into a new cluster: {REBUILD}"
        )
    return found


# --- The edge --------------------------------------------------------------------------------
def literal(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


class Roles:
    """The roles of the PostgreSQL in a container.

    Args:
        application: name of the application's role and database.
        wait: seconds to wait for locks that running transactions hold.
    """

    def __init__(self, docker: Docker, container: str, application: str, wait: int = 60) -> None:
        self.docker, self.container, self.application = docker, container, application
        self.wait = wait

    def sql(self, script: str, what: str, database: str = "", **settings: str) -> str:
        """Return the output of statements that the superuser runs; no password gets logged.

        Raises:
            BackupError: one of them failed.
        """
        lines = [
            "SET log_statement = 'none'; SET log_min_duration_statement = -1;"
            " SET log_min_error_statement = panic; SET client_min_messages = error;"
            f" SET lock_timeout = '{LOCK_MILLISECONDS}ms'; SET statement_timeout = 0;"
            " SET idle_in_transaction_session_timeout = 0;",
            "\\o /dev/null",
        ]
        for name, value in settings.items():
            lines.append(
                f"SELECT set_config('crisper.{name}'::text, {literal(value)}::text, false);"
            )
        text = "\n".join([*lines, "\\o", script, ""])
        command = FIND_SUPERUSER + (
            " exec env PGCLIENTENCODING=UTF8 psql --quiet --no-psqlrc --tuples-only --no-align"
            ' --username "$superuser"'
            ' --dbname "${IN_DATABASE:-$POSTGRES_DB}" --set ON_ERROR_STOP=1'
            " --set VERBOSITY=verbose --file -"
        )
        words = self.docker.inside(self.container, command, IN_DATABASE=database)
        try:
            return self.docker.answer(what, words, text.encode())
        except BackupError as error:
            raise BackupError(VERIFIERS.sub("…", str(error))) from None

    def state(self) -> State:
        """Return what there is.

        Raises:
            BackupError: PostgreSQL does not answer.
        """
        self.catalog = read_catalog(self.docker, self.container, self.application)
        told = self.sql(OBJECTS, "PostgreSQL's roles were not told")
        return read_state(self.catalog, self.application, len(told.splitlines()))

    def find_dangers(self, state: State, folder: Path | None, project: str = "") -> list[str]:
        """Return what would give an attacker in the application a superuser's rights.

        A sentence each, with its remedy. Operators make such things, too: nothing of it is
        removed. What cannot be compared is told, and fails nothing.

        Args:
            state: what :meth:`state` has returned last.
            folder: where the measure of a new cluster is kept; None keeps nothing.
            project: Compose project, for the name of the container that is thrown away.
        """
        catalogs, apart = [self.catalog], []
        for row in self.catalog.rows["pg_database"]:
            name = row["datname"]
            if row["datallowconn"] == "t" and name != self.application:
                if len(catalogs) == MOST_DATABASES:
                    apart.append(f"the database {printable(name)} was not looked at")
                    continue
                try:
                    catalogs.append(read_catalog(self.docker, self.container, name))
                except BackupError as error:
                    apart.append(
                        f"the database {printable(name)} was not looked at: {printable(str(error))}"
                    )
        moved = (self.application, *state.databases) if state.unmoved else ()
        planted = [of_superusers(each, each.database in moved) for each in catalogs]
        cluster = of_cluster(self.catalog, self.application)
        databases = of_databases(self.catalog, self.application)
        kinds = [of_roles(state), cluster, databases, *planted]
        try:
            fresh = Fresh(self.docker, self.container, project or self.application, folder)
            measures = fresh.measures(each.extensions() for each in catalogs)
            for each in catalogs:
                wanted = measures[key_of(each.extensions())]
                kinds.append(compared(each, measure(each), wanted["measure"], wanted["unknown"]))
                apart += [
                    f"the extension {printable(name)} in the database {printable(each.database)}"
                    " was not compared: the image does not make it in that version"
                    for name in wanted["unknown"]
                ]
            kinds.append(of_files(self.catalog, wanted["hba"], wanted["roles"]))
        except BackupError as error:
            apart.append(f"PostgreSQL was not compared with a new cluster: {printable(str(error))}")
        return shorten(kinds) + apart

    def apply(self, password: str, own: str, extensions: Sequence[str]) -> dict[str, Any]:
        """Make all as it has to be.

        Args:
            password: the superuser's.
            own: the application's, for a role that has none yet.
            extensions: those that the database must have.

        Returns:
            ``{moved, done, postponed}``: whether the stack was moved, sentences on what was done,
            and why the move has to wait, or nothing.

        Raises:
            BackupError: it failed; the next call goes on.
        """
        state = self.state()
        result: dict[str, Any] = {"moved": False, "done": [], "postponed": ""}
        if state.unmoved:
            result["done"] = plan(state, password, extensions)
            try:
                self.move(state, password)
            except BackupError as error:
                if LOCKED not in str(error):
                    raise
                holders = self.docker.text(
                    "PostgreSQL did not answer",
                    self.docker.inside(self.container, f'{ASK_POSTGRES} --command "{BLOCKERS}"'),
                )
                sessions = printable("; ".join(holders.splitlines())) or "a session"
                return {
                    "moved": False,
                    "done": [],
                    "postponed": f"{sessions} holds a lock"
                    f" ({printable(' '.join(str(error).split())[-200:])})",
                }
            result["moved"] = True
            state = self.state()
        rest = plan(state, password, extensions)
        if rest:
            self.ensure(state, password, own, extensions)
            result["done"] += rest
        return result

    def move(self, state: State, password: str) -> None:
        """Give the application's role, which is the bootstrap superuser, another place.

        Killed at any point, the next call goes on: until the last transaction the application's
        role is what it was.
        """
        name, holder = identifier(state.application), f"{state.application}{SUFFIX}"
        superuser = free_name(state)
        target = identifier(holder)
        if holder in state.roles and state.holder != HOLDER:
            raise BackupError(
                f"PostgreSQL has a role {holder}, which the move needs: rename it"
                f" (ALTER ROLE {target} RENAME TO …) and deploy again. Nothing was changed"
            )
        make = f"CREATE ROLE {target} NOLOGIN; COMMENT ON ROLE {target} IS {literal(HOLDER)};"
        begin = "" if holder in state.roles else f"BEGIN; {make} COMMIT;"
        # What it owns already must reach what it does not own yet: views, keys, functions.
        self.sql(f"{begin} GRANT {name} TO {target};", "The application's role was not made")
        what = "The objects of the application were not given to its role"
        settings = {"target": holder, "wait": f"{self.wait} s"}
        for database in ("", *state.databases):
            self.sql(TRANSFER + OPEN_OTHERS + CARRY, what, database, **settings)
            own = identifier(database or state.application)
            self.sql(f"ALTER DATABASE {own} OWNER TO {target};", what)
        what = "The application's role was not exchanged, and is as it was"
        settings |= {"superuser": superuser, "verifier": scram_verifier(password)}
        for attempt in range(10):
            try:
                self.sql(FLIP, what, **settings)
                return
            except BackupError as error:
                if LOCKED not in str(error) or attempt == 9:
                    raise

    def ensure(self, state: State, password: str, own: str, extensions: Sequence[str]) -> None:
        """Bring a stack whose superuser is a role of its own to what :func:`plan` says."""
        name, superuser = identifier(state.application), identifier(state.superuser)
        lines = []
        if not state.role:
            lines.append(f"CREATE ROLE {name};")
        wanted = " ".join(f"NO{word}" for word in FORBIDDEN)
        lines.append(f"ALTER ROLE {name} LOGIN INHERIT {wanted};")
        lines += [f"REVOKE {identifier(each)} FROM {name};" for each in state.memberships]
        if not state.role.get("password"):
            lines.append(f"ALTER ROLE {name} PASSWORD {literal(scram_verifier(own))};")
        if not matches(password, state.superuser_verifier):
            lines.append(f"ALTER ROLE {superuser} PASSWORD {literal(scram_verifier(password))};")
        if state.database_owner != state.application:
            lines.append(f"ALTER DATABASE {name} OWNER TO {name};")
        if state.public_owner == state.superuser:
            lines.append("ALTER SCHEMA public OWNER TO pg_database_owner;")
        lines += [
            f"ALTER DATABASE {identifier(database)} OWNER TO {superuser};"
            for database, _owner in state.foreign_owners
        ]
        lines += [line for each in state.connectable for line in each.revoke()]
        if state.limited:
            lines.append(f"ALTER DATABASE {name} CONNECTION LIMIT -1;")
        if state.template:
            lines.append(f"ALTER DATABASE {name} IS_TEMPLATE false;")
        if state.restore:
            lines.append(RESTORE_CLEANUP)
        what = "The roles of PostgreSQL were not put in order"
        self.watched("\n".join(["BEGIN;", *lines, "COMMIT;"]), what)
        # Whoever is connected keeps the session, whatever rights are taken.
        if closed := [each.database for each in state.connectable] + [
            database for database, _owner in state.foreign_owners
        ]:
            of = ", ".join(f"{literal(each)}::name" for each in sorted(set(closed)))
            its = f"usename = {literal(state.application)}::name"
            self.sql(f"{END_SESSIONS} datname IN ({of}) AND {its};", what)
        if state.no_template:
            self.sql(MAKE_TEMPLATE, what)
        if state.objects or state.default_privileges:
            settings = {"target": state.application, "wait": f"{self.wait} s"}
            self.watched(TRANSFER + CARRY + DROP_CARRIED, what, **settings)
        for each in extensions:
            if each not in state.extensions:
                self.create_extension(each)

    def watched(self, script: str, what: str, **settings: str) -> None:
        """Run statements as :meth:`sql`; who keeps a lock from them is named.

        No session is ended: one that holds such a lock may be a migration of the application's.

        Raises:
            BackupError: one of them failed.
        """
        try:
            self.sql(script, what, **settings)
            return
        except BackupError as error:
            if LOCKED not in str(error):
                raise
        # Again, and watched: whom a statement waits for is known while it waits.
        name = f"crisper-roles-{os.urandom(8).hex()}"
        failed: list[BackupError] = []
        again = f"SET application_name = {literal(name)};\n{script}"
        if "wait" in settings:
            settings["wait"] = f"{WATCHED_SECONDS} s"
        else:  # nothing of the application's queues behind a lock on its role
            again = f"SET lock_timeout = '{WATCHED_SECONDS}s';\n{again}"

        def run() -> None:
            try:
                self.sql(again, what, **settings)
            except BackupError as error:
                failed.append(error)

        found: list[list[str]] = []
        waiter = threading.Thread(target=run)
        with postgres_session(self.docker, self.container) as session:
            waiter.start()
            while waiter.is_alive() and not found:
                lines = session.ask(AWAITED.format(name))
                found = [[unescape(value) for value in line.split("\t")] for line in lines]
                waiter.join(0.1)
        waiter.join()
        if not failed:
            return
        if LOCKED not in str(failed[0]) or not found:
            raise failed[0]
        raise BackupError(
            f"{failed[0]}. It waits for{tell_sessions(found)} If that is a migration, wait for its"
            f" end; else end it as superuser ({end_statements(found)}), and deploy again"
        ) from failed[0]

    def create_extension(self, name: str) -> None:
        """Make an extension, which belongs to the superuser then."""
        try:
            free = self.sql(f"{_EXTENSION_SCHEMA}{literal(name)};", "PostgreSQL did not answer")
            schema = " WITH SCHEMA public" if free == "1" else ""
            make = f"CREATE EXTENSION IF NOT EXISTS {identifier(name)}{schema};"
            self.sql(make, "PostgreSQL refused")
        except BackupError as error:
            raise BackupError(
                f"database_extensions names {name!r}, and the extension was not made: {error}."
                " Take an image of PostgreSQL that has it (image_refs.postgres), or remove the"
                " name from database_extensions."
            ) from error
