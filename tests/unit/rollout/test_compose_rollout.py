"""What `retire` does before it lets the old containers go."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_rollout
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.rollout import phases as acts

ROOT = Path(__file__).resolve().parents[3]
SERVICES = {
    "celery-worker": {"kind": "worker", "replicas": 1},
    "celery-beat": {"kind": "single", "replicas": 1},
}


def record(name: str, service: str, release: str, **state: Any) -> dict[str, Any]:
    """A container as the engine tells it; its id is its name."""
    labels = {"com.docker.compose.service": service, "crisper.release": release}
    return {
        "Id": name,
        "Name": f"/{name}",
        "Config": {"Labels": labels},
        "State": {"Status": "running", "ExitCode": 0, **state},
    }


WORKERS = [
    record("old", "celery-worker", "r1", Health={"Status": "healthy"}),
    record("new", "celery-worker", "r2", Health={"Status": "healthy"}),
]


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    """A Docker client whose containers have another state at each look; it writes down commands."""

    def client(looks: list[list[dict[str, Any]]]) -> tuple[str, Path]:
        for number, look in enumerate(looks):
            (tmp_path / f"look{number}").write_text(json.dumps(look))
        (tmp_path / "stopped").write_text(json.dumps(WORKERS[:1]))
        program, told = tmp_path / "docker", tmp_path / "told"
        program.write_text(
            f"""#!/bin/sh
cd {tmp_path}; echo "$*" >>told
case "$1" in
    ps) echo old new beat;;
    container)
        case "$*" in
            *" beat")
                n=$(cat n 2>/dev/null || echo 0); [ -e look$n ] || n=$((n - 1)); cat look$n
                echo $((n + 1)) >n;;
            *) cat stopped;;
        esac;;
    logs) echo "the schedule is broken";;
esac
"""
        )
        program.chmod(0o755)
        return str(program), told

    return client


def retire(run_module: Any, client: str, tmp_path: Path, **more: Any) -> dict[str, Any]:
    """The module's answer."""
    given = {"phases": ["retire"], "project_src": str(tmp_path), "project_name": "demo"}
    given |= {"release": "r2", "services": SERVICES, "docker_cli": client, **more}
    return run_module(compose_rollout, **given)


def beat(health: str, **state: Any) -> dict[str, Any]:
    """Beat of the new release."""
    return record("beat", "celery-beat", "r2", Health={"Status": health}, **state)


def test_old_workers_go_when_beat_has_become_healthy(
    run_module: Any, engine: Any, tmp_path: Path
) -> None:
    client, told = engine([[*WORKERS, beat("starting")]] * 3 + [[*WORKERS, beat("healthy")]])
    answer = retire(run_module, client, tmp_path)
    assert answer["stopped"] == {"old": 0}
    commands = told.read_text().splitlines()
    assert commands[: commands.index("stop old")].count("container inspect old new beat") > 3
    assert "rm --force --volumes old" in commands


@pytest.mark.parametrize(
    "state", [{"health": "unhealthy"}, {"health": "starting", "Status": "restarting"}]
)
def test_old_workers_stay_when_beat_does_not_run(
    run_module: Any, engine: Any, tmp_path: Path, state: dict[str, str]
) -> None:
    client, told = engine([[*WORKERS, beat(**state)]])
    answer = retire(run_module, client, tmp_path)
    assert answer["failed"]
    assert "beat of release r2 did not become healthy. The old workers still run." in answer["msg"]
    assert "the schedule is broken" in answer["msg"]
    assert "stop" not in told.read_text()


def test_beat_is_not_waited_for_for_ever(run_module: Any, engine: Any, tmp_path: Path) -> None:
    client, told = engine([[*WORKERS, beat("starting")]])
    answer = retire(run_module, client, tmp_path, wait_timeout=0)
    assert "did not become healthy" in answer["msg"]
    assert "stop" not in told.read_text()


class Asked:
    """Stands in for the workers: what came of telling them to leave is given."""

    session = object()

    def __init__(self, drained: list[str], wrong: str = "", foreign: int = 0) -> None:
        self.foreign = foreign  # how often somebody else answers too
        self.lost = False  # whether that one also runs the canary
        self.canaries: list[Any] = []  # what each question was told of those of the one before
        self.answering: set[str] = set()
        self.answer = {"queues": {OLD: ["default"]}, "drained": drained, "silent": []}
        self.answer["problem"] = "expectations_not_met" if wrong else ""
        self.wrong = wrong
        self.heard: list[Any] = []

    def __call__(self, asked: dict[str, Any], docker_cli: str) -> Asked:
        return self

    def leave(self, old: list[str], new: list[str]) -> None:
        self.heard.append(("leave", old, new))

    def left(self, new: list[str]) -> tuple[dict[str, Any], str]:
        self.heard.append("left")
        return self.answer, self.wrong

    def ask(self, nodes: list[str], count: int, canaries: Any = None) -> None:
        self.heard.append(("ask", nodes, count))
        self.canaries.append(canaries)

    def proof(self) -> dict[str, Any]:
        self.foreign -= 1
        findings = [{"code": "foreign_node"}] if self.foreign >= 0 else []
        lost = [{"queue": "default"}] if self.lost and self.foreign >= 0 else []
        return {"problem": "", "findings": findings, "canary": {"findings": lost}}


def pooled(containers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same as workers of a pool."""
    for container in containers:
        if container["Config"]["Labels"]["com.docker.compose.service"] == "celery-worker":
            container["Config"]["Labels"]["crisper.pool"] = "default"
    return containers


OLD, NEW = "default@app1-r1-old", "default@app1-r2-new"
WEB = [
    record("web1", "backend", "r1", Health={"Status": "healthy"}),
    record("web2", "backend", "r2", Health={"Status": "healthy"}),
]


def roll(
    run_module: Any,
    engine: Any,
    tmp_path: Path,
    monkeypatch: Any,
    asked: Asked,
    *phases: str,
    stopped: Any = None,
    beats: Any = None,
    new: Any = None,
) -> tuple[dict[str, Any], str]:
    """The answer to these phases, and the Docker commands; `beats` are beat at each look."""
    monkeypatch.setattr(acts, "Workers", asked)
    workers = [WORKERS[0], new or WORKERS[1]]
    looks = [[*workers, *WEB, each] for each in beats or [beat("starting")]]
    client, told = engine([pooled(json.loads(json.dumps(look))) for look in looks])
    (tmp_path / "stopped").write_text(json.dumps(stopped or [WEB[0]]))
    services = {**SERVICES, "backend": {"kind": "web", "replicas": 1}}
    answer = retire(
        run_module,
        client,
        tmp_path,
        phases=list(phases),
        services=services,
        host="app1",
        workers={"app": "demo"},
        wait_timeout=0,
    )
    return answer, told.read_text()


def test_web_containers_do_not_wait_for_workers_that_still_work(
    run_module: Any, engine: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    asked = Asked(drained=[])
    phases = ("leave", "retire", "prove")
    answer, told = roll(run_module, engine, tmp_path, monkeypatch, asked, *phases)
    assert asked.heard == [("leave", [OLD], [NEW]), "left"], "and nobody is proved yet"
    assert answer["held"] == [OLD]
    assert answer["stopped"] == {"web1": 0}
    assert "proof" not in answer
    assert "after" not in answer
    assert "stop web1" in told.splitlines()
    assert "logs" not in told, "nor for beat"


ALL = ("leave", "swap", "retire", "prove")
GONE = [WORKERS[0], WEB[0]]
OLD_BEAT = record("beat", "celery-beat", "r1", Health={"Status": "healthy"})


def test_beat_is_replaced_and_everybody_is_asked_while_old_containers_stop(
    run_module: Any, engine: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    asked = Asked(drained=[OLD])
    # One look for the plan before, one for what is let go; then beat starts.
    looks = [OLD_BEAT, OLD_BEAT, beat("starting"), beat("starting"), beat("healthy")]
    more = {"stopped": GONE, "beats": looks}
    answer, told = roll(run_module, engine, tmp_path, monkeypatch, asked, *ALL, **more)
    assert not answer.get("failed"), answer
    assert answer["stopped"] == {"old": 0, "web1": 0}
    assert answer["proof"]["findings"] == []
    assert asked.heard == [("leave", [OLD], [NEW]), "left", ("ask", [NEW], 1)]
    assert answer["left"]["queues"] == {}, "nobody is left to take them up again"
    commands = told.splitlines()
    gone, up = commands.index("stop beat"), next(c for c in commands if "up --detach" in c)
    assert gone < commands.index("rm --force beat") < commands.index(up), "never two of them"
    assert commands.index("stop old web1") < commands.index(up)
    assert commands.index("rm --force --volumes old web1") > commands.index(up)


def test_a_worker_that_has_answered_works_but_must_become_healthy(
    run_module: Any, engine: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    starting = record("new", "celery-worker", "r2", Health={"Status": "starting"})
    for answering, told in (({NEW}, "new of release r2 did not become healthy"), (set(), "stay")):
        asked = Asked(drained=[OLD])
        asked.answering = answering
        more = {"stopped": GONE, "beats": [beat("healthy")], "new": starting}
        answer, commands = roll(run_module, engine, tmp_path, monkeypatch, asked, *ALL, **more)
        assert answer["failed"]
        assert told in answer["msg"]
        assert ("stop old web1" in commands.splitlines()) == bool(answering)
        (tmp_path / "told").unlink()


def test_a_container_of_the_release_itself_that_is_not_fit_gives_way(
    run_module: Any, engine: Any, tmp_path: Path
) -> None:
    sick = record("old", "celery-worker", "r2", Health={"Status": "unhealthy"})
    gone = record("old", "celery-worker", "r2", Status="exited")
    look = [WORKERS[1], beat("healthy")]
    client, told = engine([[sick, *look]] * 3 + [[gone, *look]])
    (tmp_path / "stopped").write_text(json.dumps([gone]))
    answer = retire(run_module, client, tmp_path)
    assert not answer.get("failed"), answer
    assert answer["stopped"] == {"old": 0}
    assert "stop old" in told.read_text().splitlines()


def test_who_is_asked_while_an_old_worker_answers_is_asked_again(
    run_module: Any, engine: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    for times, found in ((1, 0), (2, 1)):
        asked = Asked(drained=[OLD], foreign=times)
        more = {"stopped": GONE, "beats": [beat("healthy")]}
        answer, _told = roll(run_module, engine, tmp_path, monkeypatch, asked, *ALL, **more)
        assert asked.heard.count(("ask", [NEW], 1)) == 2
        assert len(answer["proof"]["findings"]) == found


@pytest.mark.parametrize("lost", [False, True])
def test_canaries_that_are_accounted_for_are_not_sent_again(
    run_module: Any, engine: Any, tmp_path: Path, monkeypatch: Any, lost: bool
) -> None:
    """Busy pools are no finding: whoever asks again must not wait for them again."""
    asked = Asked(drained=[OLD], foreign=1)
    asked.lost = lost
    more = {"stopped": GONE, "beats": [beat("healthy")]}
    answer, _told = roll(run_module, engine, tmp_path, monkeypatch, asked, *ALL, **more)
    assert asked.canaries == [None, None if lost else {"findings": []}]
    assert answer["proof"]["canary"] == {"findings": []}


def test_when_beat_fails_who_undoes_it_finds_nothing_that_is_about_to_stop(
    run_module: Any, engine: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    asked = Asked(drained=[OLD])
    more = {"stopped": GONE, "beats": [OLD_BEAT, OLD_BEAT, beat("unhealthy")]}
    answer, told = roll(run_module, engine, tmp_path, monkeypatch, asked, *ALL, **more)
    assert answer["failed"]
    assert "beat of release r2 did not become healthy.\n" in answer["msg"], "no worker still runs"
    assert answer["stopped"] == {"old": 0, "web1": 0}
    assert answer["left"]["queues"] == {}
    assert "rm --force --volumes old web1" in told.splitlines()


def test_when_the_new_workers_are_not_right_beat_has_ended_before_that_is_told(
    run_module: Any, engine: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    asked = Asked(drained=[OLD], wrong="1. They consume nothing.")
    more = {"beats": [OLD_BEAT]}
    answer, told = roll(run_module, engine, tmp_path, monkeypatch, asked, *ALL, **more)
    assert answer["msg"] == "1. They consume nothing."
    commands = told.splitlines()
    assert "stop beat" in commands
    assert not [c for c in commands if "up --detach" in c and "--dry-run" not in c]
    assert "stop old web1" not in commands


def test_nothing_is_stopped_when_the_new_workers_are_not_right(
    run_module: Any, engine: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    asked = Asked(drained=[OLD], wrong="1. They consume nothing.")
    phases = ("leave", "retire", "prove")
    answer, told = roll(run_module, engine, tmp_path, monkeypatch, asked, *phases)
    assert answer["failed"]
    assert answer["msg"] == "1. They consume nothing."
    assert answer["left"]["queues"], "who undoes it must know who was told to leave"
    assert "stop" not in told
    assert "stopped" not in answer


def test_who_was_told_to_leave_is_known_when_something_else_fails_meanwhile(
    run_module: Any, engine: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    asked = Asked(drained=[OLD])
    monkeypatch.setattr(
        acts.Rollout, "swap", lambda self, steps: self.engine.run("no-such-command")
    )
    phases = ("leave", "swap", "retire")
    original = acts.DockerClient.call

    def call(self: Any, *arguments: str, folder: str | None = None) -> tuple[int, str, str]:
        if arguments[0] == "no-such-command":
            return 1, "", "no such command"
        return original(self, *arguments, folder=folder)

    monkeypatch.setattr(acts.DockerClient, "call", call)
    answer, _told = roll(run_module, engine, tmp_path, monkeypatch, asked, *phases)
    assert answer["failed"]
    assert "no such command" in answer["msg"]
    assert answer["left"]["queues"] == asked.answer["queues"]


def test_workers_cannot_be_asked_without_saying_how(
    run_module: Any, engine: Any, tmp_path: Path
) -> None:
    client, _told = engine([pooled(json.loads(json.dumps(WORKERS)))])
    answer = retire(run_module, client, tmp_path, phases=["leave"])
    assert "need the option workers" in answer["msg"]


@pytest.mark.parametrize("listening", [True, False])
def test_nothing_is_begun_for_a_controller_that_is_gone(tmp_path: Path, listening: bool) -> None:
    program = """
import sys, time
sys.path[:0] = sys.argv[1:3]
from ansible_collections.crisper.stack.plugins.module_utils.rollout import phases
sys.stdin.readline()
open(sys.argv[3], "w").write(str(phases.orphaned()))
"""
    told = tmp_path / "told"
    paths = [str(ROOT / "library"), str(ROOT / "collections"), str(told)]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    if not listening:
        process.stdout.close()
    process.stdin.write(b"\n")
    process.stdin.close()
    assert process.wait(30) == 0
    assert told.read_text() == str(not listening)
