"""Remedies for an error that a data service prints.

Needs nothing but Python: the timer on a server runs it without Ansible.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# Only what a client of PostgreSQL says of its own connection. The application writes other words
# (RAISE EXCEPTION, names), and may even begin a line of them like this: see `ask_state`.
_FATAL = r"(?m)^(?:\| |“)?(?:psql|pg_dump): error: (?:[^\n]*(?:failed|server): )?FATAL: +"
_CONNECTION = rf"{_FATAL}database \"[^\n]*\" "
_REFUSED = re.compile(f'{_FATAL}permission denied for database "[^\n]*"”?$')
_MISSING = re.compile(f"{_CONNECTION}does not exist”?$")
_CLOSED = re.compile(f"{_CONNECTION}is not currently accepting connections”?$")
# For a shell on the server; the owner of a database may close it for everybody.
OPEN_DATABASE = (
    """docker compose exec postgres sh -c 'psql -U "$POSTGRES_USER" -d template1 -c"""
    """ "ALTER DATABASE \\"$POSTGRES_DB\\" ALLOW_CONNECTIONS true"'"""
)
# A restore removes and makes all in one transaction, which takes a lock for each table and for each
# large object that goes. A restore into no database has nothing to remove.
DROP_DATABASE = (
    """docker compose exec postgres sh -c 'dropdb --force -U "$POSTGRES_USER" "$POSTGRES_DB"'"""
)
RESTORE = (
    " A restore of a set makes it again: ansible-playbook playbooks/restore.yml -e backup=<set id>"
)


def explained(words: str, ask_state: Callable[[], str]) -> str:
    """Return what a service said, with the remedy where its words alone do not show one.

    Args:
        words: its words; those of the application may be among them.
        ask_state: asks PostgreSQL whether the application's database is ``missing``, ``closed`` or
            ``open``; anything else where it does not answer. No remedy is named without it: a
            restore replaces data.
    """
    if _MISSING.search(words) and ask_state() == "missing":
        return (
            f"{words}. Somebody with the rights of the application has dropped its database (DROP"
            f" DATABASE), or it was never made. Find out who.{RESTORE}"
        )
    if _CLOSED.search(words) and ask_state() == "closed":
        return (
            f"{words}. Somebody with the rights of the application has closed the database (ALTER"
            " DATABASE … ALLOW_CONNECTIONS false), for the superuser, too. Find out who. To open"
            f" it, in the folder `current` of the stack on the server: {OPEN_DATABASE}"
        )
    if _REFUSED.search(words) and ask_state() == "open":
        return (
            f"{words}. Somebody with the rights of the application has taken the right to connect"
            " from its role (REVOKE … ON DATABASE). Find out who. The next deploy gives it back,"
            " and so does a restore"
        )
    return words


def during_restore(message: str) -> str:
    """Return the message of a restore that failed, which does not name itself as the remedy."""
    return message.replace(RESTORE, "")
