"""What was said in the chats: in MariaDB where there is one, in PostgreSQL otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolError
from sqlalchemy.schema import CreateIndex, CreateTable

from backend.db import engine
from backend.models import Base
from backend.settings import settings

TIMEOUTS = {"connect_timeout": 2, "read_timeout": 5, "write_timeout": 5}  # seconds
NO_TABLE = 1146  # MariaDB's number for a table that does not exist

messages = sa.Table(
    "chat_messages",
    Base.metadata,
    # SQLAlchemy's own numbering in both: the order in which things were said.
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("session_id", sa.String(36), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("sources", sa.JSON, nullable=False),
    sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    sa.Index("ix_chat_messages_session_id_id", "session_id", "id"),
    mysql_charset="utf8mb4",
    mysql_engine="InnoDB",
)


class MariadbAwayError(Exception):
    """MariaDB is set up as the store of the chats, and does not answer."""


@dataclass(frozen=True)
class Message:
    """One message; `role` is `user` or `assistant`, `sources` what an answer was made of."""

    role: str
    content: str
    sources: list[dict[str, Any]] = field(default_factory=list)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))


def append(session_id: str, said: Sequence[Message]) -> None:
    """Add messages in this order, all or none of them.

    Raises:
        MariadbAwayError: That is the store, and it does not answer.
        sqlalchemy.exc.OperationalError: PostgreSQL is the store, and does not answer.
    """
    rows = [
        {
            "session_id": session_id,
            "role": message.role,
            "content": message.content,
            "sources": message.sources,
            "created_at": message.created_at,
        }
        for message in said
    ]
    with _connection() as connection:
        for row in rows:
            connection.execute(messages.insert().values(row))


def last(session_id: str, limit: int) -> list[Message]:
    """The last `limit` messages, the oldest of them first; none for an unknown session.

    Raises:
        MariadbAwayError, sqlalchemy.exc.OperationalError: As in `append`.
    """
    columns = messages.c
    query = (
        sa.select(columns.role, columns.content, columns.sources, columns.created_at)
        .where(columns.session_id == session_id)
        .order_by(columns.id.desc())
        .limit(limit)
    )
    with _connection() as connection:
        rows = connection.execute(query).all()
    # MariaDB keeps no time zone; what is written is UTC.
    return [
        Message(row.role, row.content, row.sources, row.created_at.replace(tzinfo=UTC))
        if row.created_at.tzinfo is None
        else Message(*row)
        for row in reversed(rows)
    ]


def ping() -> None:
    """Whether the store answers; raises as `append` does."""
    with _connection() as connection:
        connection.execute(sa.select(1))


@lru_cache
def _mariadb() -> sa.Engine:
    return sa.create_engine(
        settings().mariadb_url,
        pool_pre_ping=True,
        pool_size=5,
        pool_timeout=5,
        connect_args=TIMEOUTS,
    )


@lru_cache
def _made() -> bool:
    """The table in MariaDB, made once; each statement is atomic, so several processes may try."""
    with _mariadb().begin() as connection:
        connection.execute(CreateTable(messages, if_not_exists=True))
        for index in messages.indexes:
            connection.execute(CreateIndex(index, if_not_exists=True))
    return True


@contextmanager
def _connection() -> Iterator[sa.Connection]:
    """A transaction in the store."""
    if not settings().mariadb_url:
        with engine().begin() as connection:
            yield connection
        return
    try:
        _made()
        with _mariadb().begin() as connection:
            yield connection
    except (OperationalError, InterfaceError, PoolError) as error:
        raise MariadbAwayError(str(error)) from error
    except DBAPIError as error:
        missing = error.orig is not None and error.orig.args[:1] == (NO_TABLE,)
        if missing:
            _made.cache_clear()  # a new database took the old one's place
        if missing or error.connection_invalidated:
            raise MariadbAwayError(str(error)) from error
        raise
