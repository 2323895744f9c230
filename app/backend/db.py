"""The database: engine and sessions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from backend.settings import settings


@lru_cache
def engine() -> Engine:
    """One pool per process; a connection that died while idle is replaced before use."""
    return create_engine(
        settings().database_url,
        pool_pre_ping=True,
        pool_size=5,
        connect_args={"connect_timeout": 3},
    )


@contextmanager
def session() -> Iterator[Session]:
    """A transaction: committed at the end, rolled back on an error."""
    with Session(engine(), expire_on_commit=False) as current, current.begin():
        yield current
