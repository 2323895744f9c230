"""The official qdrant-client against the server, as the applications use it."""

from __future__ import annotations

import signal
import uuid
import warnings
from collections.abc import Iterator

import httpx
import pytest
from conftest import API_KEY, Server
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

UUIDS = [str(uuid.uuid5(uuid.NAMESPACE_URL, f"item-{i}")) for i in range(3)]


def fill(client: QdrantClient, name: str) -> None:
    client.create_collection(
        name, vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE)
    )
    client.upsert(
        name,
        points=[
            models.PointStruct(id=1, vector=[1, 0, 0, 0], payload={"kind": "a", "n": 1}),
            models.PointStruct(id=2, vector=[0, 1, 0, 0], payload={"kind": "b", "n": 2}),
            models.PointStruct(id=UUIDS[0], vector=[1, 1, 0, 0], payload={"kind": "a", "n": 3}),
        ],
        wait=True,
    )


@pytest.fixture
def client(module_server: Server) -> Iterator[QdrantClient]:
    # A client that finds its server's version unfit says so in a warning: fail on it.
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(in)?compatib.*")
        warnings.filterwarnings("ignore", message=".*insecure connection.*")
        client = module_server.client()
    yield client
    for collection in client.get_collections().collections:
        client.delete_collection(collection.name)
    client.close()


def test_collections_come_and_go(client: QdrantClient) -> None:
    assert not client.collection_exists("docs")
    fill(client, "docs")
    assert client.collection_exists("docs")
    assert [c.name for c in client.get_collections().collections] == ["docs"]
    info = client.get_collection("docs")
    assert info.points_count == 3
    assert info.status == models.CollectionStatus.GREEN
    assert isinstance(info.config.params.vectors, models.VectorParams)
    assert info.config.params.vectors.size == 4
    assert client.delete_collection("docs") is True
    assert client.delete_collection("docs") is False
    assert not client.collection_exists("docs")


def test_the_nearest_points_come_first(client: QdrantClient) -> None:
    fill(client, "docs")
    found = client.query_points("docs", query=[1, 0.1, 0, 0], limit=2, with_vectors=True).points
    assert [point.id for point in found] == [1, UUIDS[0]]
    assert found[0].payload == {"kind": "a", "n": 1}
    assert found[0].score > found[1].score > 0.7
    assert found[0].vector == pytest.approx([1, 0, 0, 0])


def test_a_point_is_not_its_own_neighbour(client: QdrantClient) -> None:
    fill(client, "docs")
    assert [p.id for p in client.query_points("docs", query=1).points] == [UUIDS[0], 2]


def test_filters_scores_and_pages(client: QdrantClient) -> None:
    fill(client, "docs")
    only_a = models.Filter(
        must=[models.FieldCondition(key="kind", match=models.MatchValue(value="a"))],
        must_not=[models.FieldCondition(key="n", range=models.Range(gt=2))],
    )
    assert [
        p.id for p in client.query_points("docs", [1, 1, 0, 0], query_filter=only_a).points
    ] == [1]
    assert client.count("docs", count_filter=only_a).count == 1
    near = client.query_points("docs", [1, 0, 0, 0], score_threshold=0.9, with_payload=["n"]).points
    assert [(p.id, p.payload) for p in near] == [(1, {"n": 1})]
    first, offset = client.scroll("docs", limit=2)
    rest, end = client.scroll("docs", limit=2, offset=offset)
    assert {p.id for p in first + rest} == {1, 2, UUIDS[0]}
    assert end is None


def test_retrieve_gives_what_is_there(client: QdrantClient) -> None:
    fill(client, "docs")
    found = client.retrieve("docs", ids=[2, UUIDS[0], UUIDS[1]], with_vectors=True)
    assert {point.id for point in found} == {2, UUIDS[0]}
    assert all(point.payload and point.vector for point in found)


def test_upsert_replaces_and_delete_deletes(client: QdrantClient) -> None:
    fill(client, "docs")
    client.upsert("docs", [models.PointStruct(id=1, vector=[0, 0, 0, 1], payload={"kind": "c"})])
    assert client.count("docs").count == 3
    assert client.retrieve("docs", [1])[0].payload == {"kind": "c"}
    done = client.delete("docs", points_selector=[2], wait=True)
    assert done.status == models.UpdateStatus.COMPLETED
    client.delete(
        "docs",
        points_selector=models.FilterSelector(
            filter=models.Filter(
                must=[models.FieldCondition(key="kind", match=models.MatchAny(any=["a"]))]
            )
        ),
    )
    assert [p.id for p in client.scroll("docs")[0]] == [1]


def test_payload_and_index(client: QdrantClient) -> None:
    fill(client, "docs")
    client.create_payload_index("docs", "kind", models.PayloadSchemaType.KEYWORD)
    assert client.get_collection("docs").payload_schema["kind"].points == 3
    client.set_payload("docs", {"n": 9}, points=[1])
    assert client.retrieve("docs", [1])[0].payload == {"kind": "a", "n": 9}
    client.overwrite_payload("docs", {"n": 10}, points=[1])
    assert client.retrieve("docs", [1])[0].payload == {"n": 10}
    client.delete_payload("docs", ["n"], points=[1])
    assert client.retrieve("docs", [1])[0].payload == {}


def test_batch_upsert_and_named_vectors(client: QdrantClient) -> None:
    client.create_collection(
        "named",
        vectors_config={
            "title": models.VectorParams(size=2, distance=models.Distance.DOT),
            "body": models.VectorParams(size=3, distance=models.Distance.EUCLID),
        },
    )
    client.upsert(
        "named",
        models.Batch(
            ids=[1, 2],
            vectors={"title": [[1, 0], [0, 1]], "body": [[1, 0, 0], [0, 1, 0]]},
            payloads=[{"x": 1}, {}],
        ),
    )
    found = client.query_points("named", [0, 1, 0], using="body", limit=1, with_vectors=["title"])
    assert found.points[0].id == 2
    assert found.points[0].vector == {"title": [0, 1]}
    answers = client.query_batch_points(
        "named", [models.QueryRequest(query=[1, 0], using="title", limit=1)] * 2
    )
    assert [answer.points[0].id for answer in answers] == [1, 1]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_everything_outlives_the_process(own_server: Server, how: signal.Signals) -> None:
    client = own_server.client()
    fill(client, "docs")
    fill(client, "gone")
    client.delete_collection("gone")
    client.delete("docs", points_selector=[2])
    own_server.stop(how)
    own_server.start()
    client = own_server.client()
    assert [c.name for c in client.get_collections().collections] == ["docs"]
    assert {p.id for p in client.scroll("docs")[0]} == {1, UUIDS[0]}
    client.upsert("docs", [models.PointStruct(id=5, vector=[0, 0, 1, 0])])
    assert client.query_points("docs", [0, 0, 1, 0], limit=1).points[0].id == 5


def test_a_half_made_collection_is_cleared_at_the_start(own_server: Server) -> None:
    own_server.stop()
    (own_server.storage / "collections" / ".new-abc" / "shard").mkdir(parents=True)
    own_server.start()
    assert own_server.client().get_collections().collections == []
    assert not (own_server.storage / "collections" / ".new-abc").exists()


def refused(call: object, *arguments: object, **options: object) -> tuple[int, str]:
    with pytest.raises(UnexpectedResponse) as caught:
        call(*arguments, **options)  # type: ignore[operator]
    assert caught.value.status_code is not None
    return caught.value.status_code, caught.value.content.decode()


def test_errors_say_what_is_wrong(client: QdrantClient) -> None:
    status, words = refused(client.count, "nope")
    assert status == 404
    assert "Collection `nope` doesn't exist!" in words
    fill(client, "docs")
    status, words = refused(
        client.create_collection,
        "docs",
        vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE),
    )
    assert (status, "already exists" in words) == (409, True)
    status, words = refused(client.query_points, "docs", [1, 2])
    assert (status, "expected dim: 4, got 2" in words) == (400, True)
    status, words = refused(
        client.upsert, "docs", [models.PointStruct(id="x", vector=[1, 2, 3, 4])]
    )
    assert (status, "not a valid point ID" in words) == (400, True)
    status, words = refused(
        client.create_collection,
        "sparse",
        sparse_vectors_config={"words": models.SparseVectorParams()},
    )
    assert (status, "not part of this stand-in" in words) == (400, True)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/collections/docs/points", b"{not json", 400),
        ("POST", "/collections/docs/points", b"[]", 400),
        ("POST", "/collections/docs/points", b'{"ids": [true]}', 400),
        ("POST", "/collections/docs/points/delete", b"{}", 400),
        ("POST", "/collections/docs/points/query", b'{"query": {"fusion": "rrf"}}', 400),
        ("POST", "/collections/docs/points/query", b'{"query": [NaN, 1, 1, 1]}', 400),
        ("POST", "/collections/docs/points/count", b'{"filter": {"most": []}}', 400),
        ("POST", "/collections/docs/points/count", b"[" * 100_000, 400),
        ("PUT", "/collections/..", b'{"vectors": {"size": 4, "distance": "Dot"}}', 404),
        ("PUT", "/collections/a:b", b'{"vectors": {"size": 4, "distance": "Dot"}}', 400),
        ("PUT", "/collections/big", b'{"vectors": {"size": 0, "distance": "Dot"}}', 400),
        ("PUT", "/collections/docs/points", b" " * 2**20 + b"{}", 413),
        ("GET", "/nowhere", b"", 404),
    ],
)
def test_bad_requests_get_a_status_and_a_reason(
    client: QdrantClient, module_server: Server, method: str, path: str, body: bytes, status: int
) -> None:
    fill(client, "docs")
    answer = httpx.request(
        method, module_server.url + path, content=body, headers={"api-key": API_KEY}
    )
    assert answer.status_code == status, answer.text
    assert answer.json()["status"]["error"]


@pytest.mark.parametrize("key", [None, "wrong"])
def test_without_the_key_only_the_probes_answer(module_server: Server, key: str | None) -> None:
    status, _ = refused(module_server.client(key).get_collections)
    assert status == 401
    for path in ("/", "/healthz", "/readyz", "/livez"):
        assert httpx.get(module_server.url + path).status_code == 200
    assert httpx.get(f"{module_server.url}/metrics").status_code == 401
    bearer = {"authorization": f"Bearer {API_KEY}"}
    assert "collections_total" in httpx.get(f"{module_server.url}/metrics", headers=bearer).text
