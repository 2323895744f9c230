"""Locks that a dump of PostgreSQL waits for: how long, and who holds one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ...docker.exec import Docker
from ...text import printable, quoted_lines
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
    sessions = tell_sessions(found)
    if not sessions:
        return (
            f"A session had locked a table for more than {lock_seconds(docker)} s (ACCESS"
            " EXCLUSIVE), and has ended since: run this again"
        )
    return (
        f"A table is locked for more than {lock_seconds(docker)} s (ACCESS EXCLUSIVE) by"
        f"{sessions} If that is a migration or VACUUM FULL, wait for its end; else end it as"
        f" superuser ({end_statements(found)}), and run this again"
    )


def tell_sessions(found: Sequence[Sequence[str]]) -> str:
    """Return sessions as lines below a sentence of ours, which goes on behind them.

    Name, query and role are the application's words: each line is marked as somebody else's, and
    no run of spaces wraps to where a terminal begins a line.

    Args:
        found: pid, role, state, name, begin of the transaction and query of each, as
            :data:`HOLDERS` has them.

    Returns:
        Nothing without a session.
    """
    lines = [
        f"session {pid} of {user} ({state}, {name!r}, transaction open since {since}): {query}"
        for pid, user, state, name, since, query in (
            [printable(" ".join(value.split())) for value in each]
            for each in found
            if len(each) == 6
        )
    ]
    return "\n" + quoted_lines("\n".join(lines)) + "\n" if lines else ""


def end_statements(found: Sequence[Sequence[str]]) -> str:
    """Return what ends sessions; see :func:`tell_sessions`.

    With its schema: whoever pastes it may have the search_path that the application has set.
    """
    return "; ".join(f"SELECT pg_catalog.pg_terminate_backend({int(each[0])})" for each in found)
