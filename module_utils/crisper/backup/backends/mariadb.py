"""MariaDB: a dump of one transaction's view, and a restore from it."""

from __future__ import annotations

import gzip
from typing import IO, Any, cast

from ...docker.exec import Docker

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


def mariadb_state(docker: Docker, container: str) -> dict[str, Any]:
    """Return ``{tables: [name]}``: MariaDB cannot count the rows of what it dumps."""
    names = docker.text("MariaDB did not answer", docker.inside(container, TABLES_MARIADB))
    return {"tables": sorted(names.splitlines())}


def dump_mariadb(docker: Docker, container: str, target: IO[bytes]) -> dict[str, Any]:
    """Dump the database, one transaction's view of it."""
    state = mariadb_state(docker, container)
    with gzip.GzipFile(fileobj=target, mode="wb", mtime=0) as packed:
        stream = cast(IO[bytes], packed)
        docker.out_of("MariaDB was not dumped", docker.inside(container, DUMP_MARIADB), stream)
    return state


def restore_mariadb(docker: Docker, container: str, source: IO[bytes]) -> None:
    """Replace the database by a dump."""
    with gzip.GzipFile(fileobj=source) as plain:
        command = docker.inside(container, RESTORE_MARIADB)
        docker.into(
            "MariaDB was not restored; run the restore again", command, cast(IO[bytes], plain)
        )
