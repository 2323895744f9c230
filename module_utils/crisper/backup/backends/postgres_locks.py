"""Locks that a dump of PostgreSQL waits for: how long, and who holds one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ...docker.exec import Docker
from ...text import printable
from ..manifest import BackupError
from .postgres_sql import HOLDERS
from .psql import postgres_session, unescape

# Until a table is waited for no longer that a dump or a count has to read: whoever may lock one
# (LOCK TABLE … IN ACCESS EXCLUSIVE MODE) would hold up a backup, and a deploy, for backup_timeout.
LOCK_SECONDS = 300
# pg_dump says which query, whose beginning may be cut off.
LOCKED_OUT = re.compile(r"due to (lock|statement) timeout|IN ACCESS SHARE MODE\s*\Z")


def lock_seconds(docker: Docker) -> int:
    """Return for how many seconds a dump waits for a table."""
    return max(1, min(LOCK_SECONDS, docker.timeout // 2))


@contextmanager
def name_lock_holders(docker: Docker, container: str) -> Iterator[None]:
    """Say who holds the lock that a dump has waited for in vain.

    Raises:
        BackupError: as within; with the sessions and the remedy, if that was it.
    """
    try:
        yield
    except BackupError as error:
        if not LOCKED_OUT.search(str(error)):
            raise
        raise BackupError(f"{error}. {_lock_holders(docker, container)}") from error


def _lock_holders(docker: Docker, container: str) -> str:
    """Return which sessions keep others from reading tables, and what to do about them."""
    try:
        with postgres_session(docker, container) as session:
            found = [[unescape(each) for each in line.split("\t")] for line in session.ask(HOLDERS)]
    except BackupError:
        found = []
    # As many columns as are asked for.
    sessions = [
        f"session {printable(pid)} of {printable(user)} ({printable(state)}, {printable(name)!r},"
        f" transaction open since {printable(since)}): {printable(' '.join(query.split()))}"
        for pid, user, state, name, since, query in (each for each in found if len(each) == 6)
    ]
    if not sessions:
        return (
            f"A session had locked a table for more than {lock_seconds(docker)} s (ACCESS"
            " EXCLUSIVE), and has ended since: run this again"
        )
    ends = "; ".join(f"SELECT pg_terminate_backend({int(each[0])})" for each in found)
    return (
        f"A table is locked for more than {lock_seconds(docker)} s (ACCESS EXCLUSIVE): by"
        f" {'; by '.join(sessions)}. If that is a migration or VACUUM FULL, wait for its end; else"
        f" end it as superuser ({ends}), and run this again"
    )
