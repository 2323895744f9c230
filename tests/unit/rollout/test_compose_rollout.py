"""In which order a rollout stops, starts and asks, and what it waits for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollout_engine import SERVICES, RolloutEngine

ROOT = Path(__file__).resolve().parents[3]
BEAT = {"celery-beat": {"kind": "singleton", "replicas": 1}}
ONE_WORKER = {**SERVICES, "celery-worker": {"kind": "worker", "replicas": 1}}
OLD = "default@app1-r1-old"
CANARY = {"task": "health_check", "queues": ["default"], "timeout": 1.0}
ALL = ("cancel_consumers", "replace", "stop_old", "verify")


@pytest.fixture
def engine(tmp_path: Path, run_module: Callable[..., dict[str, Any]]) -> RolloutEngine:
    """Return an engine on which release r2 has started beside r1."""
    made = RolloutEngine(tmp_path, run_module)
    made.state["release"] = "r2"
    made.has("web1", "backend", "r1")
    made.has("web2", "backend", "r2")
    made.has("old", "celery-worker", "r1", "good")
    made.has("new", "celery-worker", "r2", "good")
    made.has("beat", "celery-beat", "r1")
    return made


def roll(engine: RolloutEngine, *phases: str, **options: Any) -> dict[str, Any]:
    """Take these phases of release r2."""
    services = {**ONE_WORKER, **BEAT}
    return engine.roll(*phases, **{"release": "r2", "services": services, **options})


def stop_old(engine: RolloutEngine, beat: list[str], **options: Any) -> dict[str, Any]:
    """Take the phase `stop_old` when beat of r2 has started; what it is at each look."""
    del engine.state["records"]["beat"]
    engine.has("beat", "celery-beat", "r2")
    engine.state["records"]["beat"]["healths"] = beat
    return roll(engine, "stop_old", **options)


def stops(engine: RolloutEngine) -> list[str]:
    """Return what was stopped."""
    return [line for line in engine.commands if line.startswith("stop ")]


def test_old_workers_go_when_beat_has_become_healthy(engine: RolloutEngine) -> None:
    result = stop_old(engine, ["starting"] * 3 + ["healthy"] * 9)

    assert result["stopped"] == {"old": 0, "web1": 0}
    looks = engine.commands[: engine.commands.index("stop web1 old")]
    assert len([line for line in looks if line.startswith("container inspect")]) > 3
    assert engine.containers == ["beat", "new", "web2"]


@pytest.mark.parametrize(
    ("health", "state"), [("unhealthy", "running"), ("starting", "restarting")]
)
def test_old_workers_stay_when_beat_does_not_run(
    engine: RolloutEngine, health: str, state: str
) -> None:
    del engine.state["records"]["beat"]
    engine.has("beat", "celery-beat", "r2", Status=state, Health={"Status": health})

    result = roll(engine, "stop_old")

    assert "beat of release r2 did not become healthy. The old workers still run." in result["msg"]
    assert "the last line of beat" in result["msg"]
    assert not stops(engine)


def test_beat_is_not_waited_for_for_ever(engine: RolloutEngine) -> None:
    result = stop_old(engine, ["starting"] * 99, wait_timeout=0)

    assert "did not become healthy" in result["msg"]
    assert not stops(engine)


def test_web_containers_do_not_wait_for_workers_that_still_work(engine: RolloutEngine) -> None:
    engine.state["holds"] = [OLD]

    result = roll(engine, "cancel_consumers", "stop_old", "verify")

    assert engine.questions == ["cancel_consumers"], "and nobody is proved yet"
    assert result["held"] == [OLD]
    assert result["stopped"] == {"web1": 0}
    assert "proof" not in result
    assert "after" not in result
    assert stops(engine) == ["stop web1"]
    assert "logs" not in " ".join(engine.commands), "nor for beat"


def test_beat_is_replaced_and_everybody_is_asked_while_old_containers_stop(
    engine: RolloutEngine,
) -> None:
    engine.state["healths"] = {"celery-beat": ["starting", "starting"] + ["healthy"] * 9}

    result = roll(engine, *ALL)

    assert not result.get("failed"), result["msg"]
    assert result["stopped"] == {"old": 0, "web1": 0}
    assert result["proof"]["findings"] == []
    assert engine.questions == ["cancel_consumers", "ask"]
    assert result["left"]["queues"] == {}, "nobody is left to take them up again"
    commands = engine.commands
    up = next(n for n, line in enumerate(commands) if "up --detach" in line and "beat" in line)
    assert commands.index("stop beat") < commands.index("rm --force beat") < up, "never two of them"
    assert commands.index("stop web1 old") < up
    assert commands.index("rm --force --volumes web1 old") > up
    assert engine.containers == ["n1", "new", "web2"]


@pytest.mark.parametrize(
    ("pings", "seconds", "said"),
    [
        (True, 3, "n2 of release r2 did not become healthy.\n"),
        (False, 0, "Not healthy within 0 s."),
    ],
)
def test_a_worker_that_has_answered_works_but_must_become_healthy(
    engine: RolloutEngine, pings: bool, seconds: int, said: str
) -> None:
    engine.state |= {"pings": pings, "health": "starting", "healths": {"backend": ["healthy"]}}
    for name in ("web2", "new", "beat"):
        del engine.state["records"][name]

    result = roll(engine, "start", *ALL, services=ONE_WORKER, wait_timeout=seconds)

    assert said in result["msg"]
    assert ("stop web1 old" in engine.commands) == pings


def test_a_container_of_the_release_itself_that_is_not_healthy_gives_way(
    engine: RolloutEngine,
) -> None:
    engine.has("old", "celery-worker", "r2", "good", Health={"Status": "unhealthy"})
    engine.has("beat", "celery-beat", "r2")

    result = roll(engine, "stop_old")

    assert not result.get("failed"), result["msg"]
    assert result["stopped"] == {"old": 0, "web1": 0}


@pytest.mark.parametrize(("strangers", "findings"), [(1, 0), (9, 2)])
def test_who_is_asked_while_an_old_worker_answers_is_asked_again(
    engine: RolloutEngine, strangers: int, findings: int
) -> None:
    engine.state["strangers"] = strangers

    result = roll(engine, *ALL)

    assert engine.questions == ["cancel_consumers", "ask", "ask"]
    assert len(result["proof"]["findings"]) == findings


@pytest.mark.parametrize("lost", [False, True])
def test_canaries_that_are_accounted_for_are_not_sent_again(
    engine: RolloutEngine, lost: bool
) -> None:
    """Busy pools are no finding: whoever asks again must not wait for them again."""
    engine.state |= {"strangers": 1, "canary_lost": lost}
    workers = {"app": "demo", "timeout": 1.0, "canary": CANARY}

    result = roll(engine, *ALL, workers=workers)

    again = "ask with canaries" if lost else "ask"
    assert engine.questions == ["cancel_consumers", "ask with canaries", again]
    assert result["proof"]["canary"]["findings"] == []
    assert result["proof"]["canary"]["queues"]["default"]["state"] == "SUCCESS"


def test_when_beat_fails_an_undo_finds_nothing_that_is_about_to_stop(
    engine: RolloutEngine,
) -> None:
    engine.state["healths"] = {"celery-beat": ["unhealthy"] * 9}

    result = roll(engine, *ALL)

    assert "n1 of release r2 did not become healthy.\n" in result["msg"], "no worker still runs"
    assert result["stopped"] == {"old": 0, "web1": 0}
    assert result["left"]["queues"] == {}
    assert engine.containers == ["n1", "new", "web2"]


def test_when_the_new_workers_are_not_right_beat_has_ended_before_that_is_told(
    engine: RolloutEngine,
) -> None:
    engine.state["answers"]["new"] = "nonsense"

    result = roll(engine, *ALL)

    assert "1. default@app1-r2-new answered " in result["msg"]
    assert stops(engine) == ["stop beat"]
    assert engine.state["records"]["beat"]["State"]["Status"] == "exited"
    ups = [line for line in engine.commands if "up --detach" in line]
    assert not [line for line in ups if "--dry-run" not in line]


def test_nothing_is_stopped_when_the_new_workers_are_not_right(engine: RolloutEngine) -> None:
    engine.state["answers"]["new"] = "nonsense"

    result = roll(engine, "cancel_consumers", "stop_old", "verify")

    assert "answered registered with {'ok': 1}" in result["msg"]
    assert result["left"]["queues"] == {OLD: ["default"]}, (
        "the undo must know who was told to leave"
    )
    assert not stops(engine)
    assert "stopped" not in result


def test_who_was_told_to_leave_is_known_when_something_else_fails_meanwhile(
    engine: RolloutEngine,
) -> None:
    engine.state["refused"] = "up --detach --no-deps --no-build --timeout"
    services = {**ONE_WORKER, **BEAT, "nginx": {"kind": "stateful"}}

    result = roll(engine, "cancel_consumers", "replace", "stop_old", services=services)

    assert "nginx of release r2 did not start: “no such command”." in result["msg"]
    assert result["left"]["queues"] == {OLD: ["default"]}
    assert engine.state["records"]["beat"]["State"]["Status"] == "exited", "nor is beat stopping"


def test_workers_cannot_be_asked_without_saying_how(engine: RolloutEngine) -> None:
    result = roll(engine, "cancel_consumers", workers=None)

    assert "need the option workers" in result["msg"]


@pytest.mark.parametrize("listening", [True, False])
def test_nothing_is_begun_for_a_controller_that_is_gone(tmp_path: Path, listening: bool) -> None:
    program = """
import sys, time
sys.path[:0] = sys.argv[1:3]
from ansible_collections.crisper.stack.plugins.module_utils.rollout import state
sys.stdin.readline()
open(sys.argv[3], "w").write(str(state.orphaned()))
"""
    answer = tmp_path / "answer"
    paths = [str(ROOT / "library"), str(ROOT / "collections"), str(answer)]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    if not listening:
        process.stdout.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.wait(30) == 0
    assert answer.read_text() == str(not listening)
