"""Remedies for an error that a data service prints.

Needs nothing but Python: the timer on a server runs it without Ansible.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# Only what a client of PostgreSQL says of its own connection; a quote has one space behind FATAL.
# The application writes other words
# (RAISE EXCEPTION, names), and may even begin a line of them like this: see `ask_state`.
_CONNECTION = (
    r"(?m)^(?:\| |“)?(?:psql|pg_dump): error: (?:[^\n]*(?:failed|server): )?FATAL: +database"
    r" \"[^\n]*\" "
)
_MISSING = re.compile(f"{_CONNECTION}does not exist”?$")
_CLOSED = re.compile(f"{_CONNECTION}is not currently accepting connections”?$")
# The owner of a database may take the right to connect from himself. No data is replaced by what
# is advised, so PostgreSQL is not asked.
_DENIED = re.compile(
    r"(?m)^(?:\| |“)?psql: error: (?:[^\n]*(?:failed|server): )?FATAL: +permission denied for"
    r" database \""
)
# For a shell on the server; the owner of a database may close it for everybody.
OPEN_DATABASE = (
    """docker compose exec postgres sh -c 'psql -U "$POSTGRES_USER" -d template1 -c"""
    """ "ALTER DATABASE \\"$POSTGRES_DB\\" ALLOW_CONNECTIONS true"'"""
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
    if _DENIED.search(words):
        return (
            f"{words}. The role may not connect (REVOKE CONNECT ON DATABASE). A deploy gives that"
            " back to the application's role: ansible-playbook deploy.yml"
        )
    return words


def during_restore(message: str) -> str:
    """Return the message of a restore that failed, which does not name itself as the remedy."""
    return message.replace(RESTORE, "")
