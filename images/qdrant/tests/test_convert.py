"""Filters and points: what the engine finds equals a plain reading of the same JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import qdrant_edge as edge
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_standin import convert
from qdrant_standin.errors import ApiError

PAYLOADS: dict[int, dict[str, Any]] = {
    identifier: {"kind": kind, "n": n}
    for identifier, (kind, n) in enumerate((k, n) for k in ("a", "b", "c") for n in range(4))
}


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[edge.EdgeShard]:
    shard = edge.EdgeShard.create(
        str(tmp_path_factory.mktemp("shard")),
        convert.collection_config({"vectors": {"size": 2, "distance": "Dot"}}),
    )
    rows = [{"id": i, "vector": [1, i], "payload": p} for i, p in PAYLOADS.items()]
    shard.update(edge.UpdateOperation.upsert_points(convert.points({"points": rows})))
    yield shard
    shard.close()


leaves = st.one_of(
    st.builds(lambda v: {"key": "kind", "match": {"value": v}}, st.sampled_from("abcz")),
    st.builds(
        lambda v: {"key": "kind", "match": {"any": v}},
        st.lists(st.sampled_from("abc"), min_size=1, max_size=3),
    ),
    st.builds(
        lambda v: {"key": "n", "match": {"except": v}},
        st.lists(st.integers(0, 4), min_size=1, max_size=3),
    ),
    st.builds(lambda low: {"key": "n", "range": {"gte": low}}, st.integers(-1, 5)),
    st.builds(lambda high: {"key": "n", "range": {"lt": high}}, st.integers(-1, 5)),
    st.builds(lambda ids: {"has_id": ids}, st.lists(st.integers(0, 12), max_size=4)),
)
filters = st.recursive(
    leaves,
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            name: st.lists(inner, min_size=1, max_size=3) for name in ("must", "should", "must_not")
        },
    ).filter(bool),
    max_leaves=6,
)


def holds(condition: dict[str, Any], identifier: int) -> bool:
    payload = PAYLOADS[identifier]
    match condition:
        case {"key": key, "match": {"value": value}}:
            return bool(payload[key] == value)
        case {"key": key, "match": {"any": values}}:
            return payload[key] in values
        case {"key": key, "match": {"except": values}}:
            return payload[key] not in values
        case {"key": key, "range": {"gte": low}}:
            return bool(payload[key] >= low)
        case {"key": key, "range": {"lt": high}}:
            return bool(payload[key] < high)
        case {"has_id": ids}:
            return identifier in ids
    should = condition.get("should")
    return (
        all(holds(c, identifier) for c in condition.get("must", []))
        and (should is None or any(holds(c, identifier) for c in should))
        and not any(holds(c, identifier) for c in condition.get("must_not", []))
    )


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(condition=filters)
def test_a_filter_finds_what_it_says(shard: edge.EdgeShard, condition: dict[str, Any]) -> None:
    whole = {"must": [condition]}
    found, _ = shard.scroll(edge.ScrollRequest(limit=100, filter=convert.filter_(whole)))
    assert {record.id for record in found} == {i for i in PAYLOADS if holds(condition, i)}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "must",
                    "should",
                    "min_should",
                    "conditions",
                    "key",
                    "match",
                    "value",
                    "any",
                    "range",
                    "gte",
                    "has_id",
                    "nested",
                    "filter",
                    "id",
                    "vector",
                    "payload",
                    "size",
                    "distance",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(value=json_values)
@pytest.mark.parametrize(
    "reader", [convert.filter_, convert.point, convert.vector_params, convert.point_ids]
)
def test_any_json_is_read_or_refused(reader: Any, value: Any) -> None:
    """Whatever comes in, a client's mistake is an ApiError and never a traceback."""
    try:
        reader(value)
    except ApiError as error:
        assert 400 <= error.status < 500
        assert error.message
