"""Alembic's environment: online migrations, one at a time across all hosts."""

from __future__ import annotations

from alembic import context
from backend.db import engine
from backend.history import Base  # with all its tables: the chats' too
from sqlalchemy import text

LOCK = 0x63726973  # "cris": two deploys at once migrate one after the other

with engine().connect() as connection:
    connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
    connection.commit()
    try:
        context.configure(
            connection=connection, target_metadata=Base.metadata, transaction_per_migration=True
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": LOCK})
        connection.commit()
