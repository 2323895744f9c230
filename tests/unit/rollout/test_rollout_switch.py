"""When a rollout has nginx send requests to its release, and what it waits for before and after."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compose_rollout
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.proxy.upstream import Upstreams
from ansible_collections.crisper.stack.plugins.module_utils.rollout import traffic

SERVICES = {
    "nginx": {"kind": "stateful"},
    "backend": {"kind": "web", "replicas": 1, "port": 8000, "probe": {"path": "/health"}},
}


def record(name: str, service: str, release: str, health: str = "healthy") -> dict[str, Any]:
    labels = {"com.docker.compose.service": service, "crisper.release": release}
    state = {"Status": "running", "ExitCode": 0, "Pid": 4711, "Health": {"Status": health}}
    return {"Id": name, "Name": f"/{name}", "Config": {"Labels": labels}, "State": state}


NGINX, OLD = record("proxy", "nginx", ""), record("old", "backend", "r1")


@pytest.fixture
def rollout(tmp_path: Path, run_module: Any) -> Callable[..., tuple[dict[str, Any], list[str]]]:
    """Run the module before a Docker client that writes down commands and where requests go."""

    def run(
        *containers: dict[str, Any],
        refused: str = "",
        broken: str = "",
        proxy: str = "",
        new_proxy: str = "",
        **given: Any,
    ) -> tuple[dict[str, Any], list[str]]:
        client, told = tmp_path / "docker", tmp_path / "told"
        for container in containers:
            (tmp_path / f"{container['Id']}.json").write_text(json.dumps(container))
        names = " ".join(container["Id"] for container in containers)
        client.write_text(
            f"""#!/bin/sh
cd {tmp_path}; echo "$* [$(basename "$(readlink live/serving)")]" >>told
case "$1 $2" in
    "ps --all") echo {names};;
    "container inspect")
        shift 2; separator="["
        for id; do echo "$separator"; cat "$id.json"; separator=,; done
        echo "]";;
    "compose --dry-run") echo " DRY-RUN MODE -  Container proxy  Recreate";;
    "compose --project-name") {new_proxy or "true"};
        [ -z "{broken}" ] || {{ echo "{broken}" >&2; exit 1; }};;
    "exec proxy") {proxy or "true"};
        [ -z "{refused}" ] || {{ echo "{refused}" >&2; exit 1; }};;
esac
"""
        )
        client.chmod(0o755)
        (tmp_path / "live").mkdir(exist_ok=True)
        options = {"phases": ["stop_old"], "project_src": str(tmp_path), "project_name": "demo"}
        options |= {"release": "r2", "services": SERVICES, "docker_cli": str(client)}
        options |= {"live": str(tmp_path / "live"), "wait_timeout": 0, **given}
        answer = run_module(compose_rollout, **options)
        return answer, told.read_text().splitlines()

    return run


@pytest.fixture
def live(tmp_path: Path) -> Upstreams:
    """Release r1 serves."""
    (tmp_path / "live").mkdir()
    (tmp_path / "live/upstreams.sh").touch()
    upstreams = Upstreams(str(tmp_path / "live"), SERVICES)
    upstreams.prepare("r1")
    upstreams.switch("r1")
    return upstreams


def test_old_containers_stop_when_they_get_no_more_requests(rollout: Any, live: Upstreams) -> None:
    answer, told = rollout(NGINX, OLD, record("new", "backend", "r2"))
    assert "stop old [r2]" in told
    assert answer["serving"] == answer["after"]["serving"] == live.serving == "r2"
    assert [folder.name for folder in (live.folder / "upstreams").iterdir()] == ["r2"]
    script = "exec proxy sh /etc/crisper/upstreams.sh"
    acts = [f"{script} ready r2 [r1]", f"{script} release [r2]"]
    assert [line for line in told if line.startswith("exec")] == acts


def test_going_back_is_the_same_act(rollout: Any, live: Upstreams) -> None:
    live.prepare("r2")
    live.switch("r2")
    rollout(NGINX, OLD, record("new", "backend", "r2"), release="r1")
    assert live.serving == "r1"


def test_requests_stay_while_the_new_containers_are_not_healthy(
    rollout: Any, live: Upstreams
) -> None:
    for health, why in (
        ("starting", "new of release r2 did not become healthy"),
        ("unhealthy", "Requests stay with release r1, because the new containers do not serve:"),
    ):
        new = record("new", "backend", "r2", health)
        look = {"ExitCode": 1, "Output": "answers /health with 500, not with 200"}
        new["State"]["Health"]["Log"] = [look]
        answer, told = rollout(NGINX, OLD, new)
        assert answer["failed"]
        assert why in answer["msg"]
        # Regression: a replica that became sick before the switch was counted, and not explained.
        assert f"new ({health}):" in answer["msg"]
        assert look["Output"] in answer["msg"]
        assert live.serving == "r1"
        assert not [line for line in told if line.startswith("stop")]


@pytest.mark.parametrize(
    ("before", "link", "said"),
    [((), "", False), ((OLD,), "", True), ((NGINX,), "r1", True), ((NGINX,), "r2", False)],
    ids=["first deploy", "another release runs", "another release serves", "only its own"],
)
def test_only_what_ran_before_still_serves(
    rollout: Any, tmp_path: Path, before: tuple[Any, ...], link: str, said: bool
) -> None:
    """Regression: a first deploy that failed said that what ran before still serves."""
    if link:
        upstreams = Upstreams(str(tmp_path / "live"), SERVICES)
        upstreams.prepare(link)
        upstreams.switch(link)
    answer, _ = rollout(*before, phases=["start"], broken="no such image")
    assert "were started and removed again" in answer["msg"]
    assert ("What ran before still serves." in answer["msg"]) is said


def test_nginx_loads_its_configuration_before_requests_change_over(
    rollout: Any, live: Upstreams
) -> None:
    _, told = rollout(NGINX, OLD, record("new", "backend", "r2"), reload=True)
    assert "exec proxy sh /etc/crisper/upstreams.sh reload [r1]" in told
    assert live.serving == "r2"


def test_nginx_loads_its_configuration_where_no_release_brought_the_script(
    rollout: Any, live: Upstreams
) -> None:
    """Regression: a rollback between two releases of before failed."""
    (live.folder / "upstreams.sh").unlink()
    services = {"nginx": {"kind": "stateful"}, "backend": {"kind": "web", "replicas": 1}}
    containers = (NGINX, OLD, record("new", "backend", "r2"))
    _, told = rollout(*containers, services=services, reload=True)
    (loaded,) = [line for line in told if line.startswith("exec")]
    assert "exec proxy sh -c nginx -t -c /etc/crisper/nginx.conf && kill -HUP" in loaded


def test_a_configuration_that_nginx_refuses_moves_no_request(rollout: Any, live: Upstreams) -> None:
    containers = (NGINX, OLD, record("new", "backend", "r2"))
    answer, told = rollout(*containers, reload=True, refused="[emerg] unknown directive")
    assert answer["msg"] == (
        "nginx does not take the configuration of release r2; requests go to release r1:"
        " “[emerg] unknown directive”"
    )
    assert live.serving == "r1"
    assert not [line for line in told if line.startswith("stop")]


def test_a_release_that_became_sick_since_gets_no_request(rollout: Any, live: Upstreams) -> None:
    containers = (NGINX, OLD, record("new", "backend", "r2"))
    answer, told = rollout(*containers, refused="backend at 172.18.0.5 answers /health with 500")
    assert answer["msg"] == (
        "nginx finds no healthy containers of release r2; requests go to release r1:"
        " “backend at 172.18.0.5 answers /health with 500”"
    )
    assert live.serving == "r1"
    assert not [line for line in told if line.startswith("stop")]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the warnings; an nginx that does not answer is waited for half a second."""
    warned: list[str] = []
    monkeypatch.setattr(traffic, "PROXY_COMMAND_SECONDS", 0.5)
    monkeypatch.setattr(compose_rollout.AnsibleModule, "warn", lambda _, text: warned.append(text))
    return warned


@pytest.mark.parametrize(
    "proxy", ["exit 137", "exec sleep 20", "echo no >&2; exit 1"], ids=["kills", "stops", "lies"]
)
@pytest.mark.parametrize("new", ["", "case $* in *' run '*) echo sick >&2; exit 1;; esac"])
def test_an_nginx_that_is_replaced_refuses_no_release(
    rollout: Any, live: Upstreams, impatient: list[str], proxy: str, new: str
) -> None:
    """Regression: what killed or stopped commands in the old nginx ended, or hung, every deploy."""
    containers = (NGINX, OLD, record("new", "backend", "r2"))
    answer, told = rollout(*containers, phases=["replace"], proxy=proxy, new_proxy=new)
    (asked,) = [line for line in told if " run --rm " in line]
    assert asked.startswith("compose --project-name demo run --rm --no-deps --no-TTY --name demo-")
    assert asked.endswith("--entrypoint sh nginx /etc/crisper/upstreams.sh ready r2 [r1]")
    if new:
        assert answer["msg"] == (
            "nginx finds no healthy containers of release r2; requests go to release r1: “sick”"
        )
        assert live.serving == "r1"
        return
    assert not answer.get("failed"), answer
    assert live.serving == "r2"
    assert any(" up --detach" in line and line.endswith("[r2]") for line in told)
    assert len(impatient) == 2
    assert all("the container of nginx that is replaced now (proxy)" in text for text in impatient)


@pytest.mark.parametrize("proxy", ["exit 137", "exec sleep 20"], ids=["kills", "stops"])
def test_an_nginx_that_stays_and_gives_no_answer_is_told_in_time(
    rollout: Any, live: Upstreams, impatient: list[str], proxy: str
) -> None:
    answer, told = rollout(NGINX, OLD, record("new", "backend", "r2"), proxy=proxy)
    assert "requests go to release r1" in answer["msg"]
    assert "docker restart proxy" in answer["msg"]
    assert live.serving == "r1"
    assert not [line for line in told if line.startswith("stop")]
    assert impatient == []


def test_a_server_with_a_queue_is_not_stopped_before_it_has_accepted_all(
    rollout: Any, live: Upstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, asked = [3, 1, 0], []

    def connections(pid: int) -> int:
        asked.append((pid, live.serving))
        return waiting.pop(0)

    monkeypatch.setattr(traffic, "waiting_connections", connections)
    monkeypatch.setattr(traffic, "SETTLE_SECONDS", 0)
    _, told = rollout(NGINX, OLD, record("new", "backend", "r2"))
    assert asked == [(4711, "r2")] * 3
    assert "stop old [r2]" in told


def test_a_server_that_accepts_nothing_is_stopped_all_the_same(
    rollout: Any, live: Upstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "waiting_connections", lambda pid: 1)
    monkeypatch.setattr(traffic, "ACCEPT_SECONDS", 0.3)
    _, told = rollout(NGINX, OLD, record("new", "backend", "r2"))
    assert "stop old [r2]" in told


def test_an_nginx_that_is_replaced_begins_with_the_release(rollout: Any, tmp_path: Path) -> None:
    answer, told = rollout(record("new", "backend", "r2"), phases=["replace"])
    assert not answer.get("failed"), answer
    (up,) = [line for line in told if " up --detach" in line and line.endswith("[r2]")]
    assert "nginx" in up


def test_an_nginx_that_is_replaced_keeps_nobody_waiting_for_streams(rollout: Any) -> None:
    """Regression: an open stream kept the port closed for half a minute."""
    services = SERVICES | {"redis": {"kind": "stateful"}}
    _, told = rollout(record("new", "backend", "r2"), phases=["replace"], services=services)
    ups = [line.split(" [")[0] for line in told if " up --detach" in line]
    assert [(" --timeout 5 " in up, up.split()[-1]) for up in ups] == [
        (True, "nginx"),
        (False, "redis"),
    ]


def test_a_kept_release_of_before_is_left_to_its_own_nginx(rollout: Any, live: Upstreams) -> None:
    services = {"nginx": {"kind": "stateful"}, "backend": {"kind": "web", "replicas": 1}}
    answer, told = rollout(NGINX, OLD, record("new", "backend", "r2"), services=services)
    assert not answer.get("failed"), answer
    assert live.serving == "", "and nothing says that another release serves"
    assert "stop old []" in told


@pytest.mark.parametrize(("network", "joins"), [("demo_web", True), ("demo_edge", False)])
def test_an_nginx_of_another_edition_joins_the_networks_of_the_release_first(
    rollout: Any, live: Upstreams, network: str, joins: bool
) -> None:
    """The front end moved to a network that an nginx of before is not on."""

    def on(one: dict[str, Any], *aliases: str, name: str = "demo_edge") -> dict[str, Any]:
        return {**one, "NetworkSettings": {"Networks": {name: {"Aliases": list(aliases)}}}}

    new = on(record("new", "backend", "r2"), "backend-r2", name=network)
    answer, told = rollout(on(NGINX), on(OLD, "backend-r1"), new)
    assert answer["serving"] == "r2"
    ready = told.index("exec proxy sh /etc/crisper/upstreams.sh ready r2 [r1]")
    assert (f"network connect {network} proxy [r1]" in told[:ready]) is joins
    assert bool([line for line in told if line.startswith("network")]) is joins
