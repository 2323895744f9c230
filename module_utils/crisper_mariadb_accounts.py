"""Accounts of a stack's MariaDB: root within the container, the application in its own database."""

from __future__ import annotations

from .crisper_backup_data import RESTORE_MARIADB, Docker

# Quoted by the server, run by the server: names of accounts hold anything.
_STATEMENTS = """
SELECT CONCAT('DROP USER ', QUOTE(User), '@', QUOTE(Host)) FROM mysql.user
  WHERE User = 'root' AND Host NOT IN ('localhost', '127.0.0.1', '::1', '');
SELECT CONCAT('REVOKE ', GROUP_CONCAT(PRIVILEGE_TYPE SEPARATOR ', '), ' ON *.* FROM ', GRANTEE)
  FROM information_schema.USER_PRIVILEGES
  WHERE GRANTEE LIKE {account} AND PRIVILEGE_TYPE <> 'USAGE' GROUP BY GRANTEE;
SELECT DISTINCT CONCAT('REVOKE GRANT OPTION ON *.* FROM ', GRANTEE)
  FROM information_schema.USER_PRIVILEGES WHERE GRANTEE LIKE {account} AND IS_GRANTABLE = 'YES';
"""


def find_excess(docker: Docker, container: str, application: str) -> list[str]:
    """Return the statements that take from accounts what they do not need.

    Raises:
        BackupError: MariaDB does not answer.
    """
    account = "CONCAT('''', " + _literal(_pattern(application)) + ", '''@%')"
    script = f"{RESTORE_MARIADB} --skip-column-names --batch --raw"
    question = _STATEMENTS.format(account=account).encode()
    told = docker.answer("MariaDB did not answer", docker.inside(container, script), question)
    return told.splitlines()


def remove_excess(docker: Docker, container: str, statements: list[str]) -> None:
    """Run the statements of :func:`find_excess`.

    Raises:
        BackupError: MariaDB refused one.
    """
    command = docker.inside(container, RESTORE_MARIADB)
    what = "The accounts of MariaDB were not put in order"
    docker.answer(what, command, "".join(f"{each};\n" for each in statements).encode())


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _pattern(text: str) -> str:
    """Return a text for LIKE, in which an underscore would be any character."""
    return text.replace("_", r"\\_")
