"""Qdrant's JSON to the engine's objects and back. Pure: no I/O, no state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import qdrant_edge as edge

from .errors import BadRequest, MalformedBody, unsupported

Json = Any
PointId = int | UUID | str

DISTANCES = {
    "Cosine": edge.Distance.Cosine,
    "Euclid": edge.Distance.Euclid,
    "Dot": edge.Distance.Dot,
    "Manhattan": edge.Distance.Manhattan,
}
DATATYPES = {
    "float32": edge.VectorStorageDatatype.Float32,
    "float16": edge.VectorStorageDatatype.Float16,
    "uint8": edge.VectorStorageDatatype.Uint8,
}
SCHEMAS = {
    "keyword": edge.PayloadSchemaType.Keyword,
    "integer": edge.PayloadSchemaType.Integer,
    "float": edge.PayloadSchemaType.Float,
    "geo": edge.PayloadSchemaType.Geo,
    "text": edge.PayloadSchemaType.Text,
    "bool": edge.PayloadSchemaType.Bool,
    "datetime": edge.PayloadSchemaType.Datetime,
    "uuid": edge.PayloadSchemaType.Uuid,
}
UPDATE_MODES = {
    "upsert": edge.UpdateMode.Upsert,
    "insert_only": edge.UpdateMode.InsertOnly,
    "update_only": edge.UpdateMode.UpdateOnly,
}
MAX_VECTOR_SIZE = 65536
MAX_DEPTH = 32


# --- small readers ---------------------------------------------------------------------------
def mapping(value: Json, what: str) -> Mapping[str, Json]:
    if not isinstance(value, dict):
        raise MalformedBody(f"{what} must be an object, not {type(value).__name__}")
    return value


def sequence(value: Json, what: str) -> Sequence[Json]:
    if not isinstance(value, list):
        raise MalformedBody(f"{what} must be a list, not {type(value).__name__}")
    return value


def text(value: Json, what: str) -> str:
    if not isinstance(value, str):
        raise MalformedBody(f"{what} must be a string, not {type(value).__name__}")
    return value


def natural(value: Json, what: str, *, least: int = 0, most: int = 2**63 - 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise MalformedBody(f"{what} must be an integer, not {type(value).__name__}")
    if not least <= value <= most:
        raise BadRequest(f"{what} must be between {least} and {most}, not {value}")
    return value


def number(value: Json, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise MalformedBody(f"{what} must be a number, not {type(value).__name__}")
    if not math.isfinite(value):
        raise BadRequest(f"{what} must be finite")
    return float(value)


def boolean(value: Json, what: str) -> bool:
    if not isinstance(value, bool):
        raise MalformedBody(f"{what} must be true or false, not {type(value).__name__}")
    return value


def choice(value: Json, what: str, choices: Mapping[str, Any]) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise MalformedBody(f"unknown {what} {value!r}, expected one of {', '.join(choices)}")
    return choices[value]


def refuse(body: Mapping[str, Json], *names: str) -> None:
    """Options that would change the answer are refused, never ignored."""
    for name in names:
        if body.get(name) is not None:
            raise unsupported(f"`{name}`")


def only(body: Mapping[str, Json], what: str, *names: str) -> None:
    unknown = sorted(set(body) - set(names))
    if unknown:
        raise MalformedBody(f"unknown field `{unknown[0]}` in {what}, expected {', '.join(names)}")


# --- points ----------------------------------------------------------------------------------
def point_id(value: Json) -> PointId:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**64:
        return value
    if isinstance(value, str):
        try:
            return str(UUID(value))
        except ValueError:
            pass
    raise MalformedBody(
        f"value {value!r} is not a valid point ID, "
        "valid values are either an unsigned integer or a UUID"
    )


def point_ids(value: Json) -> list[PointId]:
    return [point_id(item) for item in sequence(value, "points")]


def dense(value: Json) -> list[float]:
    vector = [number(item, "vector element") for item in sequence(value, "vector")]
    if not vector:
        raise BadRequest("a vector must not be empty")
    return vector


def vector(value: Json) -> edge.Vector:
    if isinstance(value, list):
        return dense(value)
    return {name: dense(item) for name, item in mapping(value, "vector").items()}


def point(value: Json) -> edge.Point:
    body = mapping(value, "point")
    only(body, "a point", "id", "vector", "payload")
    if "id" not in body or "vector" not in body:
        raise MalformedBody("a point needs `id` and `vector`")
    payload = body.get("payload")
    if payload is not None:
        mapping(payload, "payload")
    return edge.Point(point_id(body["id"]), vector(body["vector"]), payload or {})


def points(body: Mapping[str, Json]) -> list[edge.Point]:
    """The two shapes of an upsert: `points: [...]` and column-wise `batch: {...}`."""
    if body.get("batch") is None:
        return [point(item) for item in sequence(body.get("points"), "points")]
    batch = mapping(body["batch"], "batch")
    ids = sequence(batch.get("ids"), "batch.ids")
    payloads = batch.get("payloads") or [None] * len(ids)
    columns = batch.get("vectors")
    vectors: Sequence[Json]
    if isinstance(columns, dict):
        columns = {name: sequence(column, name) for name, column in columns.items()}
        wrong = [name for name, column in columns.items() if len(column) != len(ids)]
        if wrong:
            raise BadRequest(f"batch.vectors.{wrong[0]} and batch.ids have different lengths")
        vectors = [
            {name: column[row] for name, column in columns.items()} for row in range(len(ids))
        ]
    else:
        vectors = sequence(columns, "batch.vectors")
    if not len(ids) == len(vectors) == len(payloads):
        raise BadRequest("batch.ids, batch.vectors and batch.payloads have different lengths")
    return [
        point({"id": identifier, "vector": vec, "payload": payload})
        for identifier, vec, payload in zip(ids, vectors, payloads, strict=True)
    ]


def plain_id(value: int | UUID | str) -> PointId:
    return value if isinstance(value, int) else str(value)


def plain_vector(value: Any) -> Json:
    if isinstance(value, dict):
        return {name: list(item) for name, item in value.items()}
    return None if value is None else list(value)


def record(item: edge.Record | edge.ScoredPoint) -> dict[str, Json]:
    result: dict[str, Json] = {"id": plain_id(item.id), "payload": item.payload}
    if item.vector is not None:
        result["vector"] = plain_vector(item.vector)
    if item.order_value is not None:
        result["order_value"] = item.order_value
    return result


def scored(item: edge.ScoredPoint) -> dict[str, Json]:
    result = record(item) | {"version": item.version, "score": item.score}
    if result["payload"] is None:
        del result["payload"]
    return result


# --- selectors -------------------------------------------------------------------------------
def with_payload(value: Json, *, default: bool) -> Any:
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    if isinstance(value, list):
        return [text(item, "with_payload") for item in value]
    body = mapping(value, "with_payload")
    only(body, "with_payload", "include", "exclude")
    for name, make in (
        ("include", edge.PayloadSelector.Include),
        ("exclude", edge.PayloadSelector.Exclude),
    ):
        if name in body:
            return make([text(item, name) for item in sequence(body[name], name)])
    raise MalformedBody("with_payload needs `include` or `exclude`")


def with_vector(value: Json) -> bool | list[str]:
    if value is None:
        return False
    if isinstance(value, bool):
        return value
    return [text(item, "with_vector") for item in sequence(value, "with_vector")]


# --- filters ---------------------------------------------------------------------------------
def filter_(value: Json, depth: int = 0) -> edge.Filter | None:
    if value is None:
        return None
    if depth > MAX_DEPTH:
        raise BadRequest(f"filters are nested deeper than {MAX_DEPTH}")
    body = mapping(value, "filter")
    only(body, "a filter", "must", "should", "must_not", "min_should")
    min_should = None
    if body.get("min_should") is not None:
        least = mapping(body["min_should"], "min_should")
        only(least, "min_should", "conditions", "min_count")
        min_should = edge.MinShould(
            conditions=_conditions(least.get("conditions"), depth) or [],
            min_count=natural(least.get("min_count"), "min_count"),
        )
    return edge.Filter(
        must=_conditions(body.get("must"), depth),
        should=_conditions(body.get("should"), depth),
        must_not=_conditions(body.get("must_not"), depth),
        min_should=min_should,
    )


def _conditions(value: Json, depth: int) -> list[Any] | None:
    if value is None:
        return None
    items = value if isinstance(value, list) else [value]
    return [_condition(mapping(item, "condition"), depth + 1) for item in items]


def _condition(body: Mapping[str, Json], depth: int) -> Any:
    if "key" in body:
        return _field(body)
    if "has_id" in body:
        return edge.HasIdCondition(set(point_ids(body["has_id"])))
    if "is_empty" in body:
        return edge.IsEmptyCondition(_key(body["is_empty"]))
    if "is_null" in body:
        return edge.IsNullCondition(_key(body["is_null"]))
    if "has_vector" in body:
        return edge.HasVectorCondition(text(body["has_vector"], "has_vector"))
    if "nested" in body:
        nested = mapping(body["nested"], "nested")
        inner = filter_(nested.get("filter"), depth)
        if inner is None:
            raise MalformedBody("nested needs `filter`")
        return edge.NestedCondition(_key(nested), inner)
    return filter_(body, depth)


def _key(value: Json) -> str:
    return text(mapping(value, "condition").get("key"), "key")


def _field(body: Mapping[str, Json]) -> edge.FieldCondition:
    names = ("match", "range", "values_count", "is_empty", "is_null")
    refuse(body, "geo_bounding_box", "geo_radius", "geo_polygon")
    only(body, "a condition", "key", *names)
    if all(body.get(name) is None for name in names):
        raise MalformedBody(f"a condition needs one of {', '.join(names)}")
    is_empty, is_null = body.get("is_empty"), body.get("is_null")
    return edge.FieldCondition(
        key=_key(body),
        match=_match(body.get("match")),
        range=_range(body.get("range")),
        values_count=_values_count(body.get("values_count")),
        is_empty=None if is_empty is None else boolean(is_empty, "is_empty"),
        is_null=None if is_null is None else boolean(is_null, "is_null"),
    )


_MATCHES: dict[str, Callable[[Any], Any]] = {
    "text": edge.MatchText,
    "text_any": edge.MatchTextAny,
    "phrase": edge.MatchPhrase,
    "prefix": edge.MatchPrefix,
    "substring": edge.MatchSubstring,
}


def _match(value: Json) -> Any:
    if value is None:
        return None
    body = mapping(value, "match")
    if len(body) != 1:
        raise MalformedBody("match needs exactly one of value, any, except, text")
    ((kind, operand),) = body.items()
    if kind == "value":
        if not isinstance(operand, str | int):
            raise MalformedBody("match.value must be a string, an integer or a boolean")
        return edge.MatchValue(operand)
    if kind in ("any", "except"):
        items = list(sequence(operand, f"match.{kind}"))
        strings = all(isinstance(item, str) for item in items)
        integers = all(isinstance(item, int) and not isinstance(item, bool) for item in items)
        if not (strings or integers):
            raise MalformedBody(f"match.{kind} must hold only strings or only integers")
        return edge.MatchAny(items) if kind == "any" else edge.MatchExcept(items)
    if kind in _MATCHES:
        return _MATCHES[kind](text(operand, f"match.{kind}"))
    raise MalformedBody(f"unknown match `{kind}`")


def _range(value: Json) -> edge.RangeFloat | edge.RangeDateTime | None:
    if value is None:
        return None
    body = mapping(value, "range")
    only(body, "range", "gt", "gte", "lt", "lte")
    bounds = {name: bound for name, bound in body.items() if bound is not None}
    if any(isinstance(bound, str) for bound in bounds.values()):
        return edge.RangeDateTime(**{name: text(b, f"range.{name}") for name, b in bounds.items()})
    return edge.RangeFloat(**{name: number(b, f"range.{name}") for name, b in bounds.items()})


def _values_count(value: Json) -> edge.ValuesCount | None:
    if value is None:
        return None
    body = mapping(value, "values_count")
    only(body, "values_count", "gt", "gte", "lt", "lte")
    return edge.ValuesCount(
        **{name: natural(b, f"values_count.{name}") for name, b in body.items() if b is not None}
    )


# --- collections -----------------------------------------------------------------------------
def vector_params(value: Json) -> edge.EdgeVectorParams:
    body = mapping(value, "vectors")
    refuse(body, "multivector_config")
    datatype = body.get("datatype")
    return edge.EdgeVectorParams(
        size=natural(body.get("size"), "vectors.size", least=1, most=MAX_VECTOR_SIZE),
        distance=choice(body.get("distance"), "distance", DISTANCES),
        datatype=None if datatype is None else choice(datatype, "datatype", DATATYPES),
    )


def collection_config(body: Mapping[str, Json]) -> edge.EdgeConfig:
    """Tuning (hnsw, optimizers, quantization, replication) is accepted and left to the engine."""
    if body.get("sparse_vectors"):
        raise unsupported("`sparse_vectors`")
    vectors = mapping(body.get("vectors"), "vectors")
    if "size" in vectors or "distance" in vectors:
        return edge.EdgeConfig(vectors=vector_params(vectors))
    if not vectors:
        raise BadRequest("a collection needs `vectors`")
    return edge.EdgeConfig(vectors={name: vector_params(item) for name, item in vectors.items()})


def schema(value: Json) -> edge.PayloadSchemaType:
    kind = mapping(value, "field_schema").get("type") if isinstance(value, dict) else value
    member: edge.PayloadSchemaType = choice(kind, "field_schema", SCHEMAS)
    return member


def schema_name(value: edge.PayloadSchemaType) -> str:
    return next(name for name, member in SCHEMAS.items() if member == value)


def order_by(value: Json) -> edge.OrderBy:
    if isinstance(value, str):
        return edge.OrderBy(key=value)
    body = mapping(value, "order_by")
    only(body, "order_by", "key", "direction", "start_from")
    direction = body.get("direction")
    if direction not in (None, "asc", "desc"):
        raise MalformedBody("order_by.direction must be asc or desc")
    return edge.OrderBy(
        key=_key(body),
        direction=edge.Direction.Desc if direction == "desc" else edge.Direction.Asc,
        start_from=body.get("start_from"),
    )


def search_params(value: Json) -> edge.SearchParams | None:
    if value is None:
        return None
    body = mapping(value, "params")
    hnsw_ef = body.get("hnsw_ef")
    return edge.SearchParams(
        hnsw_ef=None if hnsw_ef is None else natural(hnsw_ef, "params.hnsw_ef", least=1),
        exact=boolean(body.get("exact") or False, "params.exact"),
        indexed_only=boolean(body.get("indexed_only") or False, "params.indexed_only"),
    )
