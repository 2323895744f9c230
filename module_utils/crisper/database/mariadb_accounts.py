"""Accounts of a stack's MariaDB: root within the container, the application in its own database."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Container, Sequence

from ..backup.backends.mariadb import ASK_MARIADB
from ..docker.exec import Docker
from ..text import printable

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
# What runs with another account's rights, accounts with rights over the server, and libraries.
_PLANTED = """
SELECT 'routine', CONCAT(ROUTINE_SCHEMA, '.', ROUTINE_NAME), DEFINER
  FROM information_schema.ROUTINES WHERE SECURITY_TYPE = 'DEFINER' AND ROUTINE_SCHEMA <> 'sys'
  AND NOT (ROUTINE_SCHEMA = 'mysql'
    AND ROUTINE_NAME IN ('AddGeometryColumn', 'DropGeometryColumn'));
SELECT 'event', CONCAT(EVENT_SCHEMA, '.', EVENT_NAME), DEFINER FROM information_schema.EVENTS;
SELECT 'trigger', CONCAT(TRIGGER_SCHEMA, '.', TRIGGER_NAME), DEFINER
  FROM information_schema.TRIGGERS WHERE TRIGGER_SCHEMA <> 'sys';
SELECT 'view', CONCAT(TABLE_SCHEMA, '.', TABLE_NAME), DEFINER FROM information_schema.VIEWS
  WHERE SECURITY_TYPE = 'DEFINER' AND TABLE_SCHEMA NOT IN ('sys', 'mysql');
SELECT 'account', GRANTEE, GROUP_CONCAT(PRIVILEGE_TYPE SEPARATOR ', ')
  FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE <> 'USAGE' GROUP BY GRANTEE;
SELECT DISTINCT 'access', GRANTEE, TABLE_SCHEMA FROM information_schema.SCHEMA_PRIVILEGES;
SELECT 'plugin', name, dl FROM mysql.plugin;
SELECT 'function', name, dl FROM mysql.func;
"""
# Before 10.4 no plugin is the default one, and its passwords have a column of their own.
_LOGIN = """
SELECT CONCAT(IF(plugin = '', 'mysql_native_password', plugin), ' ',
    IF(authentication_string = '', Password, authentication_string))
  FROM mysql.user WHERE User = {name} AND Host = '%';
"""
_ALTER = "ALTER USER {name}@'%' IDENTIFIED VIA mysql_native_password USING {stored};"
# The image's own, and Debian's; all log in within the container alone.
_OWN = re.compile(
    r"'(?:root'@'(?:localhost|127\.0\.0\.1|::1)|(?:mysql|mariadb\.sys)'@'localhost)'\Z"
)
_ESCAPE, _ESCAPES = re.compile(r"\\(.)", re.DOTALL), {"n": "\n", "t": "\t", "0": "\0"}
# Longest list of one kind in a summary.
MOST = 10


def find_planted(docker: Docker, container: str, application: str) -> list[str]:
    """Return what would give an attacker in the application more than its database.

    A sentence each, with its remedy. Operators make such things, too: nothing of it is removed.

    Raises:
        BackupError: MariaDB does not answer.
    """
    script = f"{ASK_MARIADB} --skip-column-names --batch"
    command = docker.inside(container, script)
    answer = docker.answer("MariaDB did not answer", command, _PLANTED.encode())
    rows = [line.split("\t") for line in answer.splitlines() if line.count("\t") == 2]
    powerful = {name for kind, name, _rights in rows if kind == "account"}
    found: dict[str, list[str]] = {}
    for kind, name, what in rows:
        if kind == "account":
            sentence = _describe_account(name, what, application)
        elif kind == "access":
            sentence = _describe_access(name, what, application)
        elif kind in ("plugin", "function"):
            sentence = _describe_library(kind, name, what)
        else:
            sentence = _describe_definer(kind, name, what, powerful)
        if sentence:
            found.setdefault(kind, []).append(f"MariaDB: {sentence}")
    more = sum(max(0, len(each) - MOST) for each in found.values())
    sentences = [sentence for each in found.values() for sentence in each[:MOST]]
    return sentences + ([f"MariaDB: and {more} more of these"] if more else [])


def _describe_account(name: str, rights: str, application: str) -> str:
    """Return what is told of an account; nothing of the image's own and the application's."""
    if _OWN.match(name) or name.startswith(f"'{application}'@"):
        return ""
    return (
        f"the account {printable(name)} has rights over the server ({printable(rights)}). If it is"
        f" not yours{_remedy('DROP USER', _account(name), '@')}"
    )


def _describe_access(name: str, pattern: str, application: str) -> str:
    """Return what is told of an account with rights over the application's database.

    Args:
        pattern: of names of databases, in which MariaDB writes an underscore as itself with a
            backslash.
    """
    text = re.escape(_plain(pattern)).replace(re.escape("\\_"), "\0").replace("_", ".")
    matches = re.fullmatch(text.replace("\0", "_").replace("%", ".*"), application)
    if not matches or _OWN.match(name) or name.startswith(f"'{application}'@"):
        return ""
    return (
        f"the account {printable(name)} has rights over the database {printable(application)}, and"
        " a change of mariadb_password does not keep it out. If it is not yours"
        + _remedy("DROP USER", _account(name), "@")
    )


def _describe_library(kind: str, name: str, library: str) -> str:
    statement = "UNINSTALL PLUGIN" if kind == "plugin" else "DROP FUNCTION"
    return (
        f"the server loads {printable(library)} for {printable(name)}. If it is not yours"
        + _remedy(statement, [_plain(name)])
    )


def _describe_definer(kind: str, name: str, definer: str, powerful: Container[str]) -> str:
    """Return what is told of code that runs as its definer; nothing where that has no rights."""
    user, _, host = definer.rpartition("@")
    if f"'{user}'@'{host}'" not in powerful:
        return ""
    remedy = _remedy(
        f"DROP {'FUNCTION' if kind == 'routine' else kind.upper()}",
        _plain(name).split("."),
        "." if name.count(".") == 1 else "",
    )
    return (
        f"the {kind} {printable(name)} runs with the rights of {printable(definer)}, whoever calls"
        f" it. If it is not yours{remedy}" + (" (or DROP PROCEDURE)" if kind == "routine" else "")
    )


def _plain(name: str) -> str:
    """Return a name as it is, which ``mariadb --batch`` has written with escapes."""
    return _ESCAPE.sub(lambda match: _ESCAPES.get(match[1], match[1]), name)


def _account(grantee: str) -> list[str]:
    """Return user and host of ``'user'@'host'``, in which nothing is escaped."""
    user, _, host = _plain(grantee)[1:-1].rpartition("'@'")
    return [user, host]


def _remedy(statement: str, parts: Sequence[str], separator: str = "") -> str:
    """Return what follows "If it is not yours": a statement that can do nothing else, if possible.

    Args:
        statement: its first words.
        parts: those of the name.
        separator: what is between them; empty where that is not known.
    """
    safe = all(each and printable(each) == each for each in parts)
    if not safe or (len(parts) > 1 and not separator):
        return ": drop it as root; its name cannot be printed as a part of a statement"
    quoted = separator.join("`" + each.replace("`", "``") + "`" for each in parts)
    return f": {statement} {quoted}"


def find_excess(docker: Docker, container: str, application: str) -> list[str]:
    """Return the statements that take from accounts what they do not need.

    Raises:
        BackupError: MariaDB does not answer.
    """
    account = "CONCAT('''', " + _literal(_pattern(application)) + ", '''@%')"
    script = f"{ASK_MARIADB} --skip-column-names --batch --raw"
    question = _STATEMENTS.format(account=account).encode()
    answer = docker.answer("MariaDB did not answer", docker.inside(container, script), question)
    return answer.splitlines()


def remove_excess(docker: Docker, container: str, statements: list[str]) -> None:
    """Run the statements of :func:`find_excess`.

    Raises:
        BackupError: MariaDB refused one.
    """
    command = docker.inside(container, ASK_MARIADB)
    what = "The accounts of MariaDB were not put in order"
    docker.answer(what, command, "".join(f"{each};\n" for each in statements).encode())


def native_hash(password: str) -> str:
    """Return what MariaDB stores of a password (mysql_native_password)."""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return f"*{hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()}"


def is_locked_out(docker: Docker, container: str, application: str, own: str) -> bool:
    """Return whether the application's account has another password than the application.

    The account may give itself one, or another way to log in. As the image makes it, it logs in by
    a password, from everywhere. An account that is missing is none that is locked out.

    Args:
        own: the application's password; empty where it is not known.

    Raises:
        BackupError: MariaDB does not answer.
    """
    script = f"{ASK_MARIADB} --skip-column-names --batch"
    question = _LOGIN.format(name=_literal(application)).encode()
    answer = docker.answer("MariaDB did not answer", docker.inside(container, script), question)
    as_made = f"mysql_native_password {native_hash(own)}"
    return bool(own) and any(line != as_made for line in answer.splitlines())


def describe_lockout(application: str, locked_out: bool) -> list[str]:
    """Return what is done about an account of which :func:`is_locked_out` is true."""
    words = (
        f"the account {application} gets the password mariadb_password of stack_secrets again (it"
        " had another one, which the account can give itself)"
    )
    return [words] if locked_out else []


def set_password(docker: Docker, container: str, application: str, own: str) -> None:
    """Give the application's account its password; MariaDB gets no more than it stores of one.

    Raises:
        BackupError: MariaDB refused.
    """
    statement = _ALTER.format(name=_literal(application), stored=_literal(native_hash(own)))
    what = "The application's account of MariaDB did not get its password"
    docker.answer(what, docker.inside(container, ASK_MARIADB), statement.encode())


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _pattern(text: str) -> str:
    """Return a text for LIKE, in which an underscore would be any character."""
    return text.replace("_", r"\\_")
