"""What an operator does about an error that a data service prints.

Needs nothing but Python: the timer on a server runs it without Ansible.
"""

from __future__ import annotations

import re

_MISSING = re.compile('database "[^\n]*" does not exist')
# For a shell on the server; the owner of a database may close it for everybody.
OPEN_DATABASE = (
    """docker compose exec postgres sh -c 'psql -U "$POSTGRES_USER" -d template1 -c"""
    """ "ALTER DATABASE \\"$POSTGRES_DB\\" ALLOW_CONNECTIONS true"'"""
)


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
