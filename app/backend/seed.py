"""Load the sample places: ``python -m backend.seed``. Run again, it does only what is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kombu.exceptions import BatchPublishError
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from sqlalchemy import func, select, update
from sqlalchemy.exc import OperationalError as DatabaseError

from backend.celery_app import app as celery
from backend.db import session
from backend.models import Item, Status
from backend.queueing import publish
from backend.tasks import regenerate_embedding_task

PLACES = Path(__file__).parent / "data" / "places.jsonl"
LOCK = 0x73656564  # "seed": two at once come one after the other
CONNECT = {"max_retries": 1, "timeout": 3}


def places(file: Path = PLACES) -> dict[str, str]:
    """Content by title, the content in English and then in Korean."""
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {line["title"]: f"{line['en']}\n{line['ko']}" for line in lines}


def seed() -> str:
    """Create what is missing, renew what changed, queue what has no vector; what was done.

    A title that is already there is the same item: the lowest id of several.

    Raises:
        sqlalchemy.exc.OperationalError: The database is away; nothing was done.
        kombu.exceptions.OperationalError: The broker is away; what was created has no vectors
            until the next run queues them.
    """
    wanted = places()
    with session() as current:
        current.execute(select(func.pg_advisory_xact_lock(LOCK)))
        query = select(Item).where(Item.title.in_(wanted)).order_by(Item.id.desc())
        items = {item.title: item for item in current.scalars(query)}
        new = [Item(title=t, content=wanted[t]) for t in wanted if t not in items]
        changed = [item for item in items.values() if item.content != wanted[item.title]]
        for item in changed:
            item.content, item.status, item.error = wanted[item.title], Status.PENDING, None
        current.add_all(new)
        current.flush()
        ids = [item.id for item in (*items.values(), *new)]
    queued = _queue(ids)
    same = len(wanted) - len(new) - len(changed)
    return (
        f"{len(wanted)} places: {len(new)} new, {len(changed)} changed, {same} unchanged; "
        f"{queued} embeddings queued"
    )


def _queue(ids: list[int]) -> int:
    """Queue those that have no vector yet, after their rows are there for every worker to see."""
    with session() as current:
        query = update(Item).where(Item.id.in_(ids), Item.status != Status.COMPLETED)
        values = {"status": Status.PENDING, "error": None}
        missing = sorted(current.scalars(query.values(values).returning(Item.id)))
        # Asked once and briefly: publishing by itself would go on trying.
        with celery.connection_for_write() as connection:
            connection.ensure_connection(**CONNECT)
        return len(publish(regenerate_embedding_task, [(item_id,) for item_id in missing]))


def main() -> int:
    """The exit code: 0, or 1 after one line that names what is away."""
    try:
        print(f"seed: {seed()}")
    except DatabaseError as error:
        return _failed("the database is away", error.orig or error)
    except (BrokerError, BatchPublishError, RedisError) as error:
        return _failed("the broker is away", error)
    return 0


def _failed(what: str, error: BaseException) -> int:
    print(f"seed: {what}: {' '.join(str(error).split())}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
