"""MariaDB: a dump of one transaction's view, and a restore from it."""

from __future__ import annotations

import gzip
from typing import IO, Any, cast

from ...docker.exec import Docker
from ...text import printable
from ..manifest import BackupError

_MARIADB = 'export MYSQL_PWD="${MARIADB_ROOT_PASSWORD:-$(cat "$MARIADB_ROOT_PASSWORD_FILE")}"; '
# Root's client, for statements of this project alone.
ASK_MARIADB = _MARIADB + "exec mariadb --user root"
# As root: a dump reads whatever is in the database. It makes the database anew, with its settings.
DUMP_MARIADB = (
    _MARIADB + "exec mariadb-dump --user root --single-transaction --routines"
    ' --events --triggers --add-drop-database --databases "$MARIADB_DATABASE"'
)
# A dump has what the application wrote, and the client cuts it into statements by an idea of
# comments that is not the server's: what stands behind "--" and a control character in a routine
# is a statement of its own. So the application's account runs the dump: what it may not do, no dump
# can. Root gives it the password of the release, which it may have changed, or a new one where
# there is none (a drill). It may have no file read for it by the client, which stands beside the
# server's secrets. DDL is in no transaction: a restore that fails has to be run again.
RESTORE_MARIADB = (
    "set -e; "
    + _MARIADB
    + r"""
account=${MARIADB_USER:-$MARIADB_DATABASE}
if [ -n "${MARIADB_PASSWORD:-}" ]; then own=$MARIADB_PASSWORD
elif [ -n "${MARIADB_PASSWORD_FILE:-}" ]; then own=$(cat "$MARIADB_PASSWORD_FILE")
else own=$(od -An -tx1 -N24 /dev/urandom | tr -d ' \n'); fi
text() { local t=${1//\\/\\\\}; printf "'%s'" "${t//\'/\'\'}"; }
name() { printf '`%s`' "${1//\`/\`\`}"; }
pattern=${MARIADB_DATABASE//_/\\_}
mariadb --user root <<SQL
SET sql_mode = '';
CREATE USER IF NOT EXISTS $(text "$account")@'%';
ALTER USER $(text "$account")@'%'
  IDENTIFIED VIA mysql_native_password USING PASSWORD($(text "$own"));
GRANT ALL ON $(name "$pattern").* TO $(text "$account")@'%';
SQL
MYSQL_PWD=$own exec mariadb --local-infile=0 --user "$account"
"""
)
TABLES_MARIADB = (
    _MARIADB + 'exec mariadb --user root --skip-column-names --execute "SHOW TABLES"'
    ' "$MARIADB_DATABASE"'
)
# What no restore could make again: what others than the application's account have defined in its
# database, which only they can; and what the server takes for a comment, and the client for a part
# of a statement: "--" and a control character that is no white space (see RESTORE_MARIADB).
_UNFIT = r"""
SELECT kind, name, definer, hides FROM (
  SELECT defined.*, definer <> CONCAT(@account, '@%') AS foreign_one,
    COALESCE(body REGEXP '--[\\x01-\\x08\\x0E-\\x1F\\x7F]', 0) AS hides
  FROM (
    SELECT LOWER(ROUTINE_TYPE) AS kind, ROUTINE_NAME AS name, DEFINER AS definer,
        ROUTINE_DEFINITION AS body
      FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = DATABASE()
    UNION ALL SELECT 'trigger', TRIGGER_NAME, DEFINER, ACTION_STATEMENT
      FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA = DATABASE()
    UNION ALL SELECT 'event', EVENT_NAME, DEFINER, EVENT_DEFINITION
      FROM information_schema.EVENTS WHERE EVENT_SCHEMA = DATABASE()
    UNION ALL SELECT 'view', TABLE_NAME, DEFINER, NULL
      FROM information_schema.VIEWS WHERE TABLE_SCHEMA = DATABASE()
  ) defined
) found WHERE foreign_one OR hides LIMIT 10
"""
UNFIT_MARIADB = (
    _MARIADB
    + r"""
account=${MARIADB_USER:-$MARIADB_DATABASE}
text() { local t=${1//\\/\\\\}; printf "'%s'" "${t//\'/\'\'}"; }
exec mariadb --user root --skip-column-names --batch --init-command \
    "SET sql_mode = '', @account = $(text "$account")" "$MARIADB_DATABASE"
"""
)
_NEEDS_ROOT = "SET USER"


def mariadb_state(docker: Docker, container: str) -> dict[str, Any]:
    """Return ``{tables: [name]}``: MariaDB cannot count the rows of what it dumps."""
    names = docker.text("MariaDB did not answer", docker.inside(container, TABLES_MARIADB))
    return {"tables": sorted(names.splitlines())}


def refuse_unfit(docker: Docker, container: str) -> None:
    """Raise where the database holds what no restore could make again.

    Raises:
        BackupError: another account has defined a view, a trigger, a routine or an event there, or
            a restore would take a part of a comment for a statement.
    """
    command = docker.inside(container, UNFIT_MARIADB)
    answer = docker.answer("MariaDB did not answer", command, _UNFIT.encode())
    rows = [line.split("\t") for line in answer.splitlines()]
    if hidden := [f"the {kind} {printable(name)}" for kind, name, _, hides in rows if hides == "1"]:
        raise BackupError(
            "MariaDB was not dumped, because a restore could run what stands in a comment (-- and"
            f" a control character): {'; '.join(hidden)}. Make these anew without it, or drop them"
        )
    if rows:
        found = "; ".join(
            f"the {kind} {printable(name)} of {printable(who)}" for kind, name, who, _ in rows
        )
        raise BackupError(
            f"MariaDB was not dumped, because no restore could make again what others than the"
            f" application's account have defined: {found}. Make these anew as the application"
            " (CREATE OR REPLACE … without DEFINER), or drop them"
        )


def dump_mariadb(docker: Docker, container: str, target: IO[bytes]) -> dict[str, Any]:
    """Dump the database, one transaction's view of it.

    Raises:
        BackupError: it was not dumped, or no restore could make it again.
    """
    state = mariadb_state(docker, container)
    refuse_unfit(docker, container)
    with gzip.GzipFile(fileobj=target, mode="wb", mtime=0) as packed:
        stream = cast(IO[bytes], packed)
        docker.out_of("MariaDB was not dumped", docker.inside(container, DUMP_MARIADB), stream)
    return state


def restore_mariadb(docker: Docker, container: str, source: IO[bytes]) -> None:
    """Replace the database by a dump, as the application's account.

    Raises:
        BackupError: it failed, and the database may be incomplete.
    """
    with gzip.GzipFile(fileobj=source) as plain:
        command = docker.inside(container, RESTORE_MARIADB)
        try:
            docker.into(
                "MariaDB was not restored; run the restore again", command, cast(IO[bytes], plain)
            )
        except BackupError as error:
            if _NEEDS_ROOT not in str(error):
                raise
            raise BackupError(
                f"{error}. The set, of an edition before this check, holds what another account"
                " than the application's has defined: choose another set, or restore this one by"
                " hand as root, if you trust it (docs/BACKUP.md)"
            ) from error
