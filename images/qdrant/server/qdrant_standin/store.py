"""Collections on disk: <storage>/collections/<name>/{config.json, shard/}.

A collection appears and disappears by one rename, so that a killed server leaves either all or
nothing of it. Points are as durable as the engine makes them: every update is in its write-ahead
log before it is acknowledged, and the log is flushed every few seconds and at shutdown.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import qdrant_edge as edge

from . import convert
from .convert import Json, PointId
from .errors import BadRequest, Conflict, NotFound, unsupported

_FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f]')


def checked_name(name: str) -> str:
    if not 1 <= len(name.encode()) <= 255 or name in (".", "..") or _FORBIDDEN.search(name):
        raise BadRequest(
            f"collection name {name!r} is empty, too long or holds a forbidden character"
        )
    return name


class Collection:
    """One shard of the engine. Engine errors about a request become BadRequest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.request: dict[str, Json] = json.loads((folder / "config.json").read_text())
        self._shard = edge.EdgeShard.load(str(folder / "shard"))
        # Updates one at a time; reads go beside them, as the engine allows.
        self._write = threading.Lock()
        self._operations = 0
        self._dirty = False

    def close(self) -> None:
        with self._write:
            self._shard.flush()
            self._shard.close()

    def flush(self) -> None:
        with self._write:
            if self._dirty:
                self._shard.flush()
                self._dirty = False

    def _update(self, operation: edge.UpdateOperation) -> int:
        with self._write:
            self._dirty = True
            try:
                self._shard.update(operation)
            except Exception as error:
                raise BadRequest(str(error)) from error
            self._operations += 1
            return self._operations

    # --- writing ---
    def upsert(self, body: Mapping[str, Json]) -> int:
        convert.refuse(body, "shard_key")
        mode = body.get("update_mode")
        return self._update(
            edge.UpdateOperation.upsert_points(
                convert.points(body),
                convert.filter_(body.get("update_filter")),
                None if mode is None else convert.choice(mode, "update_mode", convert.UPDATE_MODES),
            )
        )

    def delete_points(self, body: Mapping[str, Json]) -> int:
        ids, where = _selection(body)
        if ids is not None:
            return self._update(edge.UpdateOperation.delete_points(ids))
        return self._update(edge.UpdateOperation.delete_points_by_filter(where))

    def set_payload(self, body: Mapping[str, Json], *, overwrite: bool) -> int:
        payload = dict(convert.mapping(body.get("payload"), "payload"))
        ids, where = _selection(body)
        operation = edge.UpdateOperation
        if ids is not None:
            by_ids = operation.overwrite_payload if overwrite else operation.set_payload
            return self._update(by_ids(ids, payload, body.get("key")))
        by_filter = (
            operation.overwrite_payload_by_filter if overwrite else operation.set_payload_by_filter
        )
        return self._update(by_filter(where, payload, body.get("key")))

    def delete_payload(self, body: Mapping[str, Json]) -> int:
        keys = [convert.text(key, "keys") for key in convert.sequence(body.get("keys"), "keys")]
        ids, where = _selection(body)
        if ids is not None:
            return self._update(edge.UpdateOperation.delete_payload(ids, keys))
        return self._update(edge.UpdateOperation.delete_payload_by_filter(where, keys))

    def create_index(self, body: Mapping[str, Json]) -> int:
        field = convert.text(body.get("field_name"), "field_name")
        return self._update(
            edge.UpdateOperation.create_field_index(field, convert.schema(body.get("field_schema")))
        )

    def delete_index(self, field: str) -> int:
        return self._update(edge.UpdateOperation.delete_field_index(field))

    # --- reading ---
    def retrieve(self, body: Mapping[str, Json]) -> list[Json]:
        convert.refuse(body, "shard_key")
        return self._records(
            convert.point_ids(body.get("ids")),
            convert.with_payload(body.get("with_payload"), default=True),
            convert.with_vector(body.get("with_vector")),
        )

    def point(self, identifier: str) -> Json:
        wanted = convert.point_id(int(identifier) if identifier.isdecimal() else identifier)
        found = self._records([wanted], True, True)
        if not found:
            raise NotFound(f"Point with id {identifier} does not exists!")
        return found[0]

    def _records(self, ids: list[PointId], payload: Any, vector: Any) -> list[Json]:
        if not ids:
            return []
        return [convert.record(item) for item in self._shard.retrieve(ids, payload, vector)]

    def count(self, body: Mapping[str, Json]) -> int:
        convert.refuse(body, "shard_key")
        where = convert.filter_(body.get("filter"))
        exact = body.get("exact")
        found: int = self._read(
            self._shard.count,
            edge.CountRequest(exact=True if exact is None else exact, filter=where),
        )
        return found

    def scroll(self, body: Mapping[str, Json]) -> Json:
        convert.refuse(body, "shard_key")
        offset, order = body.get("offset"), body.get("order_by")
        limit = body.get("limit")
        found, following = self._read(
            self._shard.scroll,
            edge.ScrollRequest(
                offset=None if offset is None else convert.point_id(offset),
                limit=10 if limit is None else convert.natural(limit, "limit", least=1),
                filter=convert.filter_(body.get("filter")),
                with_payload=convert.with_payload(body.get("with_payload"), default=True),
                with_vector=convert.with_vector(body.get("with_vector")),
                order_by=None if order is None else convert.order_by(order),
            ),
        )
        return {
            "points": [convert.record(item) for item in found],
            "next_page_offset": None if following is None else convert.plain_id(following),
        }

    def query(self, body: Mapping[str, Json]) -> Json:
        convert.refuse(body, "shard_key", "prefetch", "lookup_from")
        where = convert.filter_(body.get("filter"))
        using = body.get("using")
        query = body.get("query")
        if isinstance(query, dict):
            convert.only(
                query,
                "query",
                "nearest",
                "order_by",
                "sample",
                "mmr",
                "recommend",
                "discover",
                "context",
                "fusion",
                "rrf",
                "formula",
                "relevance_feedback",
            )
            if "nearest" in query:
                convert.refuse(query, "mmr")
        ask: Any = None
        match query:
            case None:
                pass
            case {"order_by": order}:
                ask = convert.order_by(order)
            case {"sample": "random"}:
                ask = edge.Sample.Random
            case {"nearest": operand}:
                ask, where = self._nearest(operand, using, where)
            case list() | int() | str():
                ask, where = self._nearest(query, using, where)
            case _:
                raise unsupported(f"the query {sorted(convert.mapping(query, 'query'))}")
        limit, offset = body.get("limit"), body.get("offset")
        threshold = body.get("score_threshold")
        found = self._read(
            self._shard.query,
            edge.QueryRequest(
                query=ask,
                limit=10 if limit is None else convert.natural(limit, "limit", least=1),
                offset=None if offset is None else convert.natural(offset, "offset"),
                filter=where,
                score_threshold=None if threshold is None else convert.number(threshold, "score"),
                params=convert.search_params(body.get("params")),
                with_payload=convert.with_payload(body.get("with_payload"), default=False),
                with_vector=convert.with_vector(body.get("with_vector")),
            ),
        )
        return {"points": [convert.scored(item) for item in found]}

    def _nearest(self, operand: Json, using: str | None, where: Any) -> tuple[Any, Any]:
        """By a vector, or by a stored point, which then is not among its own neighbours."""
        if isinstance(operand, list):
            return edge.Query.Nearest(convert.dense(operand), using), where
        if isinstance(operand, dict):
            raise unsupported("a query by sparse vector, document or image")
        identifier = convert.point_id(operand)
        found = self._records([identifier], False, True)
        if not found:
            raise NotFound(f"No point with id {identifier} found")
        vector = found[0]["vector"]
        if isinstance(vector, dict):
            if using not in vector:
                raise BadRequest(f"Not existing vector name error: {using}")
            vector = vector[using]
        others = edge.Filter(must_not=[edge.HasIdCondition({identifier})])
        where = others if where is None else edge.Filter(must=[where, others])
        return edge.Query.Nearest(vector, using), where

    @staticmethod
    def _read(method: Any, request: Any) -> Any:
        try:
            return method(request)
        except Exception as error:
            raise BadRequest(str(error)) from error

    def info(self) -> Json:
        shard = self._shard.info()
        asked = self.request
        return {
            "status": "green",
            "optimizer_status": "ok",
            "indexed_vectors_count": shard.indexed_vectors_count,
            "points_count": shard.points_count,
            "segments_count": shard.segments_count,
            "config": {
                "params": {
                    "vectors": asked["vectors"],
                    "shard_number": 1,
                    "replication_factor": 1,
                    "write_consistency_factor": 1,
                    "on_disk_payload": True,
                },
                "hnsw_config": {"m": 16, "ef_construct": 100, "full_scan_threshold": 10000},
                "optimizer_config": {
                    "deleted_threshold": 0.2,
                    "vacuum_min_vector_number": 1000,
                    "default_segment_number": 0,
                    "flush_interval_sec": 5,
                },
                "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0},
                "quantization_config": None,
                "metadata": asked.get("metadata"),
            },
            "payload_schema": {
                field: {"data_type": convert.schema_name(index.data_type), "points": index.points}
                for field, index in shard.payload_schema.items()
            },
        }


def _selection(body: Mapping[str, Json]) -> tuple[list[PointId] | None, Any]:
    """Exactly one of `points` and `filter`: an update of neither must not mean everything."""
    convert.refuse(body, "shard_key")
    if body.get("points") is not None:
        if body.get("filter") is not None:
            raise BadRequest("give `points` or `filter`, not both")
        return convert.point_ids(body["points"]), None
    where = convert.filter_(body.get("filter"))
    if where is None:
        raise BadRequest("either `points` or `filter` is required")
    return None, where


class Store:
    def __init__(self, storage: Path) -> None:
        self.folder = storage / "collections"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._collections: dict[str, Collection] = {}
        for entry in sorted(self.folder.iterdir()):
            if entry.name.startswith("."):
                shutil.rmtree(entry)  # half-made or half-deleted when the server was killed
            else:
                self._collections[unquote(entry.name)] = Collection(entry)

    def names(self) -> list[str]:
        return sorted(self._collections)

    def get(self, name: str) -> Collection:
        try:
            return self._collections[name]
        except KeyError:
            raise NotFound(f"Collection `{name}` doesn't exist!") from None

    def create(self, name: str, body: Mapping[str, Json]) -> None:
        config = convert.collection_config(body)
        folder = self.folder / quote(checked_name(name), safe=" ")
        with self._lock:
            if name in self._collections:
                raise Conflict(f"Collection `{name}` already exists!")
            new = Path(tempfile.mkdtemp(prefix=".new-", dir=self.folder))
            try:
                (new / "shard").mkdir()
                shard = edge.EdgeShard.create(str(new / "shard"), config)
                shard.flush()
                shard.close()
                kept = {"vectors": body["vectors"], "metadata": body.get("metadata")}
                (new / "config.json").write_text(json.dumps(kept))
                new.rename(folder)
            except BaseException:
                shutil.rmtree(new, ignore_errors=True)
                raise
            _sync_folder(self.folder)
            self._collections[name] = Collection(folder)

    def delete(self, name: str) -> bool:
        with self._lock:
            collection = self._collections.pop(name, None)
            if collection is None:
                return False
            collection.close()
            trash = Path(tempfile.mkdtemp(prefix=".deleted-", dir=self.folder))
            collection.folder.rename(trash / "collection")
            _sync_folder(self.folder)
            shutil.rmtree(trash, ignore_errors=True)
            return True

    def flush(self) -> None:
        for collection in list(self._collections.values()):
            collection.flush()

    def close(self) -> None:
        with self._lock:
            for collection in self._collections.values():
                collection.close()
            self._collections.clear()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
