"""The applications of the scenarios: inventories that fit, and the pure parts of their programs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rendering import APPS, GIVEN, Inventory

sys.path[:0] = [str(APPS), str(APPS / "awkward")]
import awkward  # noqa: E402
import outside  # noqa: E402
from outside import Outcome  # noqa: E402


@pytest.mark.parametrize(
    "file", ["channels/stack_app.yml", "awkward/stack_app.yml", "awkward/on_reference.yml"]
)
def test_inventories_of_the_applications_have_no_findings(file: str):
    inventory = Inventory((APPS / file).read_text() + GIVEN)
    assert inventory.findings() == []
    assert "backend:" in inventory.files()["docker-compose.prod.yml"]


def test_a_mode_makes_another_release_of_the_awkward_application():
    text = (APPS / "awkward/stack_app.yml").read_text() + GIVEN + 'awkward_mode: "warming 20"\n'
    assert "MODE='warming 20'" in Inventory(text).files()[".env.prod"].replace('"', "'")


def test_the_application_is_told_the_queues_that_workers_consume():
    """Of an inventory of before, the reference application sends nothing to a newer queue."""
    text = (APPS / "awkward/on_reference.yml").read_text() + GIVEN
    assert 'CELERY_WORKER_QUEUES="default,embeddings"' in Inventory(text).files()[".env.prod"]
    pools = yaml.safe_load(text)["celery_workers"]
    pools = [*pools, {"name": "research", "queues": ["research"]}]
    text = yaml.safe_dump({**yaml.safe_load(text), "celery_workers": pools})
    told = 'CELERY_WORKER_QUEUES="default,embeddings,research"'
    assert told in Inventory(text).files()[".env.prod"]


@pytest.mark.parametrize("site", ["local", "example"])
def test_workers_of_our_inventories_consume_every_queue_of_the_application(site: str):
    text = (APPS.parents[1] / f"inventories/{site}/group_vars/all/stack.yml").read_text()
    consumed = {
        queue for pool in yaml.safe_load(text)["celery_workers"] for queue in pool["queues"]
    }
    assert consumed == {"default", "embeddings", "research"}


# awkward.py


@pytest.mark.parametrize(
    ("mode", "age", "status"),
    [
        ("ok", 0, 200),
        ("warming", 19.9, 503),
        ("warming", 20, 200),
        ("warming 5", 6, 200),
        ("not_found", 14, 404),
        ("not_found", 15, 200),
        ("refusing", 1e9, 400),
        ("hanging", 1e9, awkward.HANG),
        ("hanging:3", 2, awkward.HANG),
        ("hanging:3", 4, 200),
        ("failing", 29, 200),
        ("failing", 1e6, 500),
        ("flapping", 4, 200),
        ("flapping", 6, 503),
        ("flapping", 11, 200),
        ("flapping 0", 3, 200),
    ],
)
def test_a_mode_decides_the_status_by_its_age(mode: str, age: float, status: int):
    assert awkward.judge(*awkward.parse_mode(mode), age)[0] == status


def test_a_status_tells_for_how_long_it_is_so():
    assert awkward.judge("failing", 30, 42) == (500, 12)
    assert awkward.judge("warming", 20, 25) == (200, 5)


@pytest.mark.parametrize("text", ["", "\n", "sick", "ok 1 2", "hanging soon"])
def test_what_is_no_mode_is_refused(text: str):
    with pytest.raises(ValueError, match=r"none of|could not convert"):
        awkward.parse_mode(text)


def test_the_file_of_a_container_goes_before_its_environment(tmp_path: Path):
    file, baked = tmp_path / "mode", tmp_path / "baked"
    baked.write_text("not_found\n")
    assert awkward.Modes({}, file, baked).now()[0] == 404
    modes = awkward.Modes({"MODE": "refusing"}, file, baked)
    assert modes.now()[0] == 400
    file.write_text("ok\n")
    assert modes.now()[0] == 200
    file.write_text("")  # a shell between opening and writing
    assert modes.now()[0] == 400
    file.unlink()
    assert modes.now()[0] == 400


def test_seconds_of_the_environment_belong_to_its_mode(tmp_path: Path):
    modes = awkward.Modes({"MODE": "warming", "MODE_SECONDS": "0"}, tmp_path / "a", tmp_path / "b")
    assert modes.now()[0] == 200


def test_requests_before_the_first_healthy_answer_are_counted():
    stats = awkward.Stats()
    stats.count("/", 503, 0.5)
    stats.count("/health", 503, 1)
    stats.count("/health", 200, 0)
    stats.count("/", 200, 1)
    stats.count("/", awkward.HANG, 3.25)
    stats.terminated_at = 1.0
    stats.count("/", 200, 4)
    assert stats.summary()["before_healthy"] == 1
    assert stats.summary()["while_sick"] == 2
    assert stats.summary()["last_while_sick_after"] == 3.25
    assert stats.summary()["after_term"] == 1
    assert stats.summary()["requests"] == 4
    assert stats.summary()["health_checks"] == {"503": 1, "200": 1}


async def read(data: bytes) -> tuple[int, bool, bytes]:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return await awkward.read_frame(reader)


@given(st.sampled_from([0, 1, 2, 9]), st.binary(max_size=70_000), st.booleans())
def test_a_frame_is_read_as_it_was_written(opcode: int, payload: bytes, final: bool):
    assert asyncio.run(read(awkward.frame(opcode, payload, final))) == (opcode, final, payload)


@given(st.binary(max_size=125))
def test_a_masked_frame_is_read_as_it_was_written(payload: bytes):
    assert asyncio.run(read(outside.masked_frame(1, payload))) == (1, True, payload)


# outside.py


def answered(*given: tuple[float, str]) -> list[Outcome]:
    return [Outcome(due, due + 0.01, "", 200, release) for due, release in given]


def test_one_switch_is_no_mixture():
    outcomes = answered((0.1, "r1"), (0.9, "r1"), (1.5, "r2"), (2.5, "r2"))
    assert outside.timeline(outcomes) == [[0, "r1"], [1, "r2"]]
    assert len(outside.switches(outcomes)) == 1
    assert outside.mixed_seconds(outside.switches(outcomes)) == 0


def test_there_and_back_are_two_switches_and_no_mixture():
    outcomes = answered((0, "r1"), (10, "r2"), (60, "r2"), (61, "r1"))
    assert outside.switches(outcomes) == [10, 61]
    assert outside.mixed_seconds([10, 61]) == 0


def test_releases_that_take_turns_are_a_mixture():
    outcomes = answered((0, "r1"), (10, "r2"), (11, "r1"), (12.5, "r2"), (99, "r2"))
    assert outside.mixed_seconds(outside.switches(outcomes)) == 2.5
    # In the order of the requests, not of the answers.
    assert outside.switches(outcomes[::-1]) == outside.switches(outcomes)


def test_a_second_with_two_releases_names_both():
    assert outside.timeline(answered((0, "a"), (1.1, "b"), (1.2, "a"), (2, "b"))) == [
        [0, "a"],
        [1, "a+b"],
        [2, "b"],
    ]


def test_failures_are_told_by_kind_and_second():
    outcomes = answered((0, "r1"), (1, "r1"))
    outcomes += [
        Outcome(2.5, 12.5, "deadline"),
        Outcome(2.6, 2.7, "HTTP 400", 400, "r2", "Bad Request"),
        Outcome(3.0, 3.1, "HTTP 400", 400, "r2"),
    ]
    figures = outside.summarize(outcomes)
    assert (figures["sent"], figures["failed"]) == (5, 3)
    assert figures["errors"] == {"HTTP 400": 2, "deadline": 1}
    assert figures["failed_at"] == [[2, 2], [3, 1]]
    assert figures["statuses"] == {"200": 2, "400": 2}
    assert figures["release_timeline"] == [[0, "r1"], [2, "r2"]]
    assert figures["samples"][1]["answer"] == "Bad Request"


def test_nothing_sent_is_no_error_of_the_figures():
    assert outside.summarize([])["p99_ms"] == 0


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 1))
def test_a_percentile_is_one_of_the_values(values: list[float], share: float):
    found = outside.percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)


@pytest.mark.parametrize(
    ("headers", "body", "release"),
    [
        ({"x-release": "r1"}, b'{"release": "r2"}', "r1"),
        ({}, b'{"status": "ok", "release":"r2"}', "r2"),
        ({}, b"<html>", ""),
    ],
)
def test_the_release_is_of_the_header_or_the_answer(headers: dict, body: bytes, release: str):
    assert outside.release_of(headers, body) == release


async def parsed(data: bytes) -> outside.Answer:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return await outside.Connection(reader, None).answer("GET")  # type: ignore[arg-type]


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("data", "body", "reusable"),
    [
        (HEAD + b"Content-Length: 2\r\n\r\nhi", b"hi", True),
        (HEAD + b"Content-Length: 2\r\nConnection: close\r\n\r\nhi", b"hi", False),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", b"hi", True),
        (HEAD + b"\r\nhi", b"hi", False),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" + HEAD + b"Content-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    ],
)
def test_a_whole_answer_is_read(data: bytes, body: bytes, reusable: bool):
    answer = asyncio.run(parsed(data))
    assert (answer.body, answer.reusable) == (body, reusable)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200",
        HEAD + b"Content-Length: 3\r\n\r\nhi",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhi",
    ],
)
def test_an_answer_that_breaks_off_is_no_answer(data: bytes):
    with pytest.raises(outside.CutError):
        asyncio.run(parsed(data))


@pytest.mark.parametrize(
    ("body", "size"), [(b'{"bytes": 7}', 7), (b"{}", None), (b"[1]", None), (b"<html>", None)]
)
def test_the_bytes_that_arrived_are_those_of_the_answer(body: bytes, size: int | None):
    assert outside.received(body) == size


def test_a_url_without_a_scheme_is_refused():
    with pytest.raises(SystemExit, match=r"none such as http://127\.0\.0\.1"):
        outside.Site(outside.parse_arguments(["127.0.0.1:80", "stop"]))


def test_a_close_frame_without_a_code_is_1005():
    assert outside.end_of(b"") == "close 1005"
    assert outside.end_of(b"\x03\xf4bye") == "close 1012"
