"""The countable work of the load test."""

from __future__ import annotations

from testkit import wait_until


def test_tasks_leave_one_mark_each_and_slow_requests_are_slow(stack):
    web, worker = stack.web(LOAD_TEST="true"), stack.worker(LOAD_TEST="true")
    try:
        with web.client() as client:
            answer = client.post("/api/load-test/tasks", json={"tasks": {"a": 0, "b": 0.2}})
            assert (answer.status_code, answer.json()) == (202, {"accepted": 2})
            wait_until(
                lambda: client.get("/api/load-test/marks").json() == {"a": 1, "b": 1},
                "both marks are counted once",
            )
            more = {"tasks": {"a": 0, "c": 0}, "queue": "embeddings"}
            assert client.post("/api/load-test/tasks", json=more).status_code == 202
            wait_until(
                lambda: client.get("/api/load-test/marks").json() == {"a": 2, "b": 1, "c": 1},
                "what runs twice is told, in every queue",
            )
            assert client.get("/api/load-test/effects").json() == {"a": 1, "b": 1, "c": 1}
            begun = client.get("/api/load-test/begun").json()
            assert {number: len(times) for number, times in begun.items()} == {
                "a": 2,
                "b": 1,
                "c": 1,
            }
            slow = client.get("/api/load-test/slow", params={"seconds": 0.3})
            assert slow.json() == {"seconds": 0.3}
            assert slow.elapsed.total_seconds() >= 0.3
            assert client.get("/api/load-test/slow", params={"seconds": 31}).status_code == 422
    finally:
        worker.kill()
        web.kill()


def test_it_is_not_there_unless_it_is_asked_for(guest):
    assert guest.get("/api/load-test/marks").status_code == 404
