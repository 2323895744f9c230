"""An export of Qdrant: what is read back is what was there."""

from __future__ import annotations

import io

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends import qdrant
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st


class FakeQdrant:
    """What an export asks of Qdrant, in memory; pages are short."""

    received, until, timeout = 0, float("inf"), 60

    def __init__(self, collections):
        self.collections = collections
        self.aliases = []

    def names(self):
        return sorted(self.collections)

    def ask(self, method, path, body=None, missing=None, most=0):
        if path == "/aliases":
            return {"aliases": self.aliases}
        name = path.split("/")[2]
        if (method, path) == ("POST", "/collections/aliases"):
            self.aliases += [action["create_alias"] for action in body["actions"]]
        elif method == "DELETE":
            del self.collections[name]
        elif method == "PATCH":
            self.collections[name]["strict"] = body["strict_mode_config"]
        elif method == "PUT" and path.endswith("/index?wait=true"):
            self.collections[name]["indexes"][body["field_name"]] = body["field_schema"]
        elif method == "PUT" and path.endswith("/points?wait=true"):
            assert "strict" not in self.collections[name], "the batch is too large"
            self.collections[name]["points"] += body["points"]
        elif method == "PUT":
            self.collections[name] = {"request": body, "indexes": {}, "points": []}
        elif path.endswith("/scroll"):
            begin = body.get("offset") or 0
            points = self.collections[name]["points"]
            following = begin + 2 if begin + 2 < len(points) else None
            return {"points": points[begin : begin + 2], "next_page_offset": following}
        else:
            found = self.collections[name]
            schema = {field: {"data_type": kind} for field, kind in found["indexes"].items()}
            config = {"params": found["request"], "strict_mode_config": found.get("strict")}
            return {"config": config, "payload_schema": schema}
        return True


POINTS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.integers(0, 2**64 - 1),
            "vector": st.lists(st.floats(-1, 1), min_size=2, max_size=2),
            "payload": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
        }
    ),
    max_size=7,
)


# A busy machine is no failure.
@examples(deadline=None)
@given(st.dictionaries(st.sampled_from(["items", "notes"]), POINTS))
def test_an_export_of_qdrant_reads_back_as_it_was(collections):
    request = {"vectors": {"size": 2, "distance": "Cosine"}}
    theirs = {
        name: {"request": request, "indexes": {"kind": "keyword"}, "points": points}
        for name, points in collections.items()
    }
    server = FakeQdrant(theirs)
    server.aliases = [{"alias_name": "now", "collection_name": "items"}]
    other = FakeQdrant({"left": {"request": {}, "indexes": {}, "points": []}})
    stream = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qdrant, "Qdrant", lambda *_: server)
        told = qdrant.dump_qdrant(None, "", stream)
        stream.seek(0)
        patch.setattr(qdrant, "Qdrant", lambda *_: other)
        qdrant.restore_qdrant(None, "", stream)
    assert told == {"vectors": {name: len(points) for name, points in collections.items()}}
    assert other.collections == theirs
    assert other.aliases == server.aliases


def test_an_export_of_qdrant_that_breaks_off_is_told():
    server = FakeQdrant({"items": {"request": {}, "indexes": {}, "points": []}})
    stream = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qdrant, "Qdrant", lambda *_: server)
        qdrant.dump_qdrant(None, "", stream)
        half = io.BytesIO(stream.getvalue()[:-12])
        with pytest.raises((BackupError, EOFError)):
            qdrant.restore_qdrant(None, "", half)


def test_limits_of_requests_come_back_behind_the_points():
    """Regression: a batch size of 1 in strict_mode_config refused the points of a restore."""
    points = [{"id": n, "vector": [1, 0], "payload": {}} for n in range(5)]
    strict = {"enabled": True, "upsert_max_batchsize": 1}
    theirs = {"items": {"request": {}, "indexes": {}, "points": points, "strict": strict}}
    server, stream = FakeQdrant(theirs), io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qdrant, "Qdrant", lambda *_: server)
        qdrant.dump_qdrant(None, "", stream)
        stream.seek(0)
        qdrant.restore_qdrant(None, "", stream)
    assert server.collections["items"]["points"] == points
    assert server.collections["items"]["strict"] == strict


def test_a_request_is_no_longer_than_it_came():
    """Regression: 14 MB of emoji came back as 42 MB of escapes, which Qdrant refuses."""
    body = {"points": [{"id": 1, "vector": [1, 0], "payload": {"t": "😀" * 1000}}]}
    assert len(qdrant.encode(body)) < 4100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qdrant, "MOST_REQUEST", 4000)
        with pytest.raises(BackupError, match="The point 1 of the collection 'items' has more"):
            qdrant.refuse_oversize(body["points"], "items")
        qdrant.refuse_oversize([{"id": 1, "vector": [], "payload": {}}], "items")


def test_a_collection_is_made_again_with_what_was_set():
    info = {
        "config": {
            "params": {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 1},
            "hnsw_config": {"m": 16},
            "optimizer_config": {"flush_interval_sec": 5},
            "wal_config": {"wal_capacity_mb": 32},
            "quantization_config": None,
            "strict_mode_config": {},
        }
    }
    assert qdrant.collection_request(info) == {
        "vectors": {"size": 2, "distance": "Dot"},
        "shard_number": 1,
        "hnsw_config": {"m": 16},
        "optimizers_config": {"flush_interval_sec": 5},
        "wal_config": {"wal_capacity_mb": 32},
    }


@pytest.mark.parametrize(
    ("schema", "request_"),
    [
        ({"data_type": "keyword", "points": 3}, "keyword"),
        (
            {"data_type": "integer", "params": {"type": "integer", "lookup": True}},
            {"type": "integer", "lookup": True},
        ),
    ],
)
def test_an_index_is_made_again_as_it_was(schema, request_):
    assert qdrant.index_request(schema) == request_
