"""Statements of the move of the application's objects from the superuser to its own role."""

from __future__ import annotations

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
  deadline timestamptz := clock_timestamp()
    + interval_in(textout(current_setting('crisper.wait'::text)), '0'::oid, '-1'::int4);
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
# A line for each; the values that it compares are of one type, which leaves PostgreSQL no choice.
# It is made of constants of this file alone.
OBJECTS = f"COPY (SELECT kind FROM ({_OBJECTS}) objects) TO STDOUT;"  # noqa: S608
BLOCKERS = (
    "SELECT format('session %s of %s (transaction open for %s s)', pid, usename,"
    " extract(epoch FROM now() - xact_start)::int) FROM pg_stat_activity"
    " WHERE xact_start < now() - interval '2 s' AND pid <> pg_backend_pid()"
    " AND backend_type = 'client backend' ORDER BY xact_start LIMIT 3"
)
# Its control file may name the schema; else it goes where all others look for it.
EXTENSION_SCHEMA = (
    "SELECT count(*) FROM pg_available_extensions e JOIN pg_available_extension_versions v"
    " ON v.name = e.name AND v.version = e.default_version WHERE v.schema IS NULL AND e.name = "
)
