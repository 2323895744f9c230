"""Admin: login, items, and queueing their embeddings."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from sqlalchemy import select, update

from backend import rag_cache, vectors
from backend.api.errors import errors
from backend.auth import Admin, check
from backend.db import session
from backend.models import Item, Status
from backend.queueing import publish
from backend.tasks import regenerate_embedding_task

router = APIRouter(tags=["admin"])
MAX_ID = 2**31 - 1
ItemId = Annotated[int, Field(ge=1, le=MAX_ID)]
Text = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]  # PostgreSQL stores no NUL


class Credentials(BaseModel):
    """What a person types."""

    username: str = Field(max_length=200, examples=["admin"])
    password: str = Field(max_length=200, examples=["the password of this site"])


class NewItem(BaseModel):
    """An item to create."""

    title: Annotated[Text, Field(max_length=200, examples=["Gyeongbokgung"])]
    content: Annotated[
        Text, Field(max_length=100_000, examples=["The main palace of the Joseon dynasty."])
    ]


class ItemOut(BaseModel):
    """An item as clients see it."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    title: str
    status: Status
    error: str | None
    updated_at: datetime


class Bulk(BaseModel):
    """Ids of the items whose embeddings are to be made anew."""

    # `item_ids` is its former name, which scripts of operators still send.
    context_ids: list[ItemId] = Field(
        max_length=10_000,
        examples=[[1, 2, 3]],
        validation_alias=AliasChoices("context_ids", "item_ids"),
    )


class Queued(BaseModel):
    """What was queued."""

    queued_count: int
    task_ids: list[str]
    unknown_ids: list[int]


@router.post("/admin/login", responses=errors(401))
@router.post("/api/admin/login", include_in_schema=False)
async def login(credentials: Credentials) -> dict[str, str]:
    """A short-lived token."""
    token = await check(credentials.username, credentials.password)
    return {"access_token": token, "token_type": "bearer"}


@router.post("/api/admin/items", status_code=201)
def create_items(
    items: Annotated[list[NewItem], Field(max_length=1000)], _: Admin
) -> list[ItemOut]:
    """Create context items, PENDING."""
    with session() as current:
        rows = [Item(title=item.title, content=item.content) for item in items]
        current.add_all(rows)
        current.flush()
        for row in rows:
            current.refresh(row)
    return [ItemOut.model_validate(row) for row in rows]


@router.get("/api/admin/items")
def list_items(
    _: Admin,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    before: Annotated[int, Query(ge=1, le=MAX_ID)] = MAX_ID,
) -> list[ItemOut]:
    """The newest items with their status; `before` pages back by id."""
    with session() as current:
        query = select(Item).where(Item.id <= before).order_by(Item.id.desc()).limit(limit)
        return [ItemOut.model_validate(row) for row in current.scalars(query)]


@router.get("/api/admin/items/{item_id}", responses=errors(404))
def show_item(item_id: ItemId, _: Admin) -> dict[str, Any]:
    """One item, and what Qdrant holds for it."""
    with session() as current:
        row = current.get(Item, item_id)
        if row is None:
            raise HTTPException(404, f"There is no item {item_id}.")
        shown = ItemOut.model_validate(row).model_dump(mode="json")
    return {**shown, "vector": vectors.look_up(item_id)}


@router.delete("/api/admin/items/{item_id}", status_code=204, responses=errors(404))
def delete_item(item_id: ItemId, _: Admin) -> None:
    """Delete an item and its vector; no answer names it any more."""
    # The row stays locked until the point is gone: a failure leaves both, and a task that embeds
    # the item meanwhile waits, finds it gone and takes its point back.
    with session() as current:
        row = current.get(Item, item_id, with_for_update=True)
        if row is None:
            raise HTTPException(404, f"There is no item {item_id}.")
        current.delete(row)
        current.flush()
        vectors.remove(item_id)
    rag_cache.bump()


@router.post("/api/admin/bulk/regenerate-embeddings", status_code=202)
def bulk_regenerate_embeddings(bulk: Bulk, admin: Admin) -> Queued:
    """Queue one task per known item and answer at once; unknown ids are reported."""
    wanted = list(dict.fromkeys(bulk.context_ids))
    if not wanted:
        return Queued(queued_count=0, task_ids=[], unknown_ids=[])
    # Published before the commit: a broker that is away leaves no item PENDING that nobody will
    # do, and a worker that is fast waits for the rows until they are committed.
    with session() as current:
        query = update(Item).where(Item.id.in_(wanted)).returning(Item.id)
        known = set(current.scalars(query.values(status=Status.PENDING, error=None)))
        calls = [(i,) for i in wanted if i in known]
        tasks = publish(regenerate_embedding_task, calls, owner=f"user:{admin}")
    return Queued(
        queued_count=len(tasks),
        task_ids=tasks,
        unknown_ids=[item_id for item_id in wanted if item_id not in known],
    )
