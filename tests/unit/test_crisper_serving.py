"""What serves is asked, and nothing is told that was not seen."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import serving_facts
from ansible.module_utils import crisper_serving as logic
from ansible.module_utils.crisper_rollout import Container
from ansible.module_utils.crisper_serving import Gathered, Http, judge
from ansible.module_utils.testing import patch_module_args
from hypothesis import given
from hypothesis import strategies as st

NEW, OLD = "20261127t181711z-57909e12", "20261120t080000z-99887766"
SERVICES = {
    "nginx": {"kind": "fixed"},
    "backend": {"kind": "web", "replicas": 2},
    "frontend": {"kind": "web"},
    "celery-worker": {"kind": "worker", "replicas": 1},
}
URL = "http://127.0.0.1:8080/health"
ANSWERS, REFUSED = Http(URL, 200), Http(URL, -1, "Connection refused")


def container(service: str, release: str = NEW, health: str = "healthy", state: str = "running"):
    return Container("1", f"demo-{service}-1", service, release, "sha256:1", state, health)


WHOLE = (
    container("nginx", ""),
    container("backend"),
    container("backend"),
    container("frontend"),
    container("celery-worker"),
)
GOOD: dict[str, Any] = {
    "data_root": "/var/lib/docker",
    "containers": WHOLE,
    "services": SERVICES,
    "current": NEW,
    "linked": NEW,
    "http": ANSWERS,
}
COUNTS = "nginx 1 of 1 healthy, backend {} of 2 healthy, frontend 1 of 1 healthy"


@pytest.mark.parametrize(
    ("changes", "serves", "known", "text"),
    [
        ({}, True, True, f"release {NEW} ({COUNTS.format(2)}; {URL} answers 200)"),
        (
            {"engine_error": "Cannot connect to the Docker daemon", "containers": ()},
            False,
            False,
            "unknown: the engine does not answer (Cannot connect to the Docker daemon);"
            f" {URL} answers 200",
        ),
        (
            {"engine_error": "no answer within 20 s", "containers": (), "http": Http()},
            False,
            False,
            "unknown: the engine does not answer (no answer within 20 s)",
        ),
        # As after a moved data-root: the link `current` names a release, and nothing of it is here.
        (
            {"containers": (), "data_root": "/srv/docker", "http": REFUSED},
            False,
            True,
            "nothing: no container of nginx or the application runs in this engine"
            f" (data-root /srv/docker; {URL} does not answer: Connection refused)",
        ),
        (
            {"containers": ()},
            False,
            False,
            "unknown: no container of nginx or the application runs in this engine"
            f" (data-root /var/lib/docker; {URL} answers 200)",
        ),
        (
            {"containers": WHOLE[:1] + WHOLE[2:]},
            False,
            True,
            f"release {NEW}, not whole ({COUNTS.format(1)}; {URL} answers 200)",
        ),
        (
            {"http": Http(URL, 502)},
            False,
            True,
            f"nothing that answers as it should ({COUNTS.format(2)}; {URL} answers 502)",
        ),
        (
            {"maintenance": True},
            False,
            True,
            f"the maintenance page; behind it release {NEW} ({COUNTS.format(2)};"
            f" {URL} answers 200)",
        ),
        (
            {"containers": (*WHOLE, container("backend", OLD))},
            True,
            True,
            f"release {NEW} ({COUNTS.format(2)}; {URL} answers 200; containers of release {OLD}"
            " run too)",
        ),
    ],
)
def test_what_serves(changes: dict[str, Any], serves: bool, known: bool, text: str) -> None:
    told = judge(Gathered(**{**GOOD, **changes}))
    assert (told["serves"], told["known"], told["text"]) == (serves, known, text)


def test_the_release_that_nginx_is_pointed_at_counts() -> None:
    old = tuple(container(s, OLD) for s in ("backend", "backend", "frontend"))
    told = judge(Gathered(**{**GOOD, "containers": WHOLE + old, "linked": OLD}))
    assert (told["release"], told["serves"]) == (OLD, True)


def test_manifests_of_before_have_no_services() -> None:
    few = (container("nginx", ""), container("backend", OLD))
    told = judge(Gathered(containers=few, current=OLD, http=ANSWERS))
    assert (told["release"], told["serves"]) == (OLD, True)


CONTAINERS = st.lists(
    st.builds(
        container,
        st.sampled_from(list(SERVICES)),
        st.sampled_from([NEW, OLD, ""]),
        st.sampled_from(["healthy", "unhealthy", "starting", "none"]),
        st.sampled_from(["running", "exited", "restarting"]),
    ),
    max_size=8,
)


@given(
    CONTAINERS,
    st.sampled_from(["", "dead"]),
    st.sampled_from([Http(), ANSWERS, REFUSED, Http(URL, 503)]),
    st.booleans(),
    st.sampled_from([NEW, OLD, ""]),
)
def test_nothing_serves_that_does_not_answer(
    containers: list[Container], error: str, answer: Http, maintenance: bool, linked: str
) -> None:
    found = Gathered(
        engine_error=error,
        containers=containers,
        services=SERVICES,
        current=NEW,
        linked=linked,
        maintenance=maintenance,
        http=answer,
    )
    told = judge(found)
    if told["serves"]:
        assert answer.ok
        assert not error
        assert not maintenance
        mine = [c for c in containers if c.service == "backend" and c.release == told["release"]]
        assert len([c for c in mine if c.fit]) >= 2
    if error:
        assert told["text"].startswith("unknown: the engine does not answer (dead)")


RECORD = {
    "Id": "1",
    "Name": "/demo-nginx-1",
    "Config": {"Labels": {"com.docker.compose.service": "nginx"}},
    "State": {"Status": "running", "Health": {"Status": "healthy"}},
}


@pytest.mark.parametrize(
    ("ports", "front", "expected"),
    [
        ({"8080/tcp": [{"HostIp": "", "HostPort": "80"}]}, {}, ("http", "127.0.0.1", 80)),
        ({"8080/tcp": [{"HostIp": "192.0.2.7", "HostPort": "81"}]}, {}, ("http", "192.0.2.7", 81)),
        (
            {
                "8080/tcp": [{"HostIp": "::", "HostPort": "80"}],
                "8443/tcp": [{"HostIp": "::", "HostPort": "443"}],
            },
            {},
            ("https", "127.0.0.1", 443),
        ),
        (
            {"8080/tcp": None},
            {"port": 8080, "scheme": "http", "tls": ""},
            ("http", "127.0.0.1", 8080),
        ),
        ({}, {"port": 443, "scheme": "https", "tls": "own"}, ("https", "127.0.0.1", 443)),
        # Behind a balancer that ends TLS nginx itself speaks plain HTTP.
        ({}, {"port": 80, "scheme": "https", "tls": ""}, ("http", "127.0.0.1", 80)),
        ({}, {}, ("http", "127.0.0.1", 0)),
    ],
)
def test_the_door(ports: dict[str, Any], front: dict[str, Any], expected: tuple) -> None:
    assert logic.door([{**RECORD, "NetworkSettings": {"Ports": ports}}], front) == expected


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def stack(folder: Path, port: int, docker: str) -> Path:
    """A stack's folder, and a Docker client that runs `docker`."""
    release = folder / "releases" / NEW
    release.mkdir(parents=True)
    model = {
        "front": {"port": port, "scheme": "http", "tls": ""},
        "probes": {"backend": {"path": "/ready", "status": [200]}},
        "rollout": {"nginx": {"kind": "fixed"}, "backend": {"kind": "web", "replicas": 1}},
    }
    (release / "manifest.json").write_text(json.dumps({"id": NEW, "model": model}))
    (folder / "current").symlink_to(f"releases/{NEW}")
    (folder / "live" / "nginx").mkdir(parents=True)
    (folder / "live" / "nginx" / "serving").symlink_to(f"upstreams/{NEW}")
    cli = folder / "docker"
    cli.write_text("#!/bin/sh\n" + docker)
    cli.chmod(0o755)
    return cli


ALIVE = """case $1 in
info) echo '{"ServerVersion": "26.1.5", "DockerRootDir": "/var/lib/docker"}' ;;
ps) echo 1 2 ;;
container) cat <<'EOF'
%s
EOF
esac
"""


def run(folder: Path, cli: Path | str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    arguments = {"root": str(folder), "project": "demo", "docker_cli": str(cli)}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        serving_facts.main()
    return json.loads(capsys.readouterr().out)


def test_the_module_asks_engine_and_nginx(
    tmp_path: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = {"com.docker.compose.service": "backend", "crisper.release": NEW}
    backend = {**RECORD, "Id": "2", "Name": "/demo-backend-1", "Config": {"Labels": labels}}
    cli = stack(tmp_path, port, ALIVE % json.dumps([RECORD, backend]))
    told = run(tmp_path, cli, capsys)
    assert told["text"] == (
        f"release {NEW} (nginx 1 of 1 healthy, backend 1 of 1 healthy;"
        f" http://127.0.0.1:{port}/ready answers 200)"
    )
    assert (told["serves"], told["current"], told["http"]["status"]) == (True, NEW, 200)
    (tmp_path / "live" / "nginx" / "maintenance.on").touch()
    assert run(tmp_path, cli, capsys)["text"].startswith("the maintenance page; behind it release")


@pytest.mark.parametrize(
    ("docker", "problem"),
    [
        ("echo 'Cannot connect to the Docker daemon' >&2; exit 1", "Cannot connect to the Docker"),
        ('echo \'{"ServerErrors": ["permission denied"]}\'', "permission denied"),
        ("echo no json", "`docker info` ended with 0"),
        ("sleep 30", "no answer within 1 s"),
    ],
)
def test_an_engine_that_does_not_answer_is_told(
    docker: str,
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(logic, "ENGINE_TIMEOUT", 1)
    cli = stack(tmp_path, 1, docker if "sleep" not in docker else "exec sleep 30")
    told = run(tmp_path, cli, capsys)
    assert told["text"].startswith(f"unknown: the engine does not answer ({problem}")
    assert "http://127.0.0.1:1/ready does not answer: " in told["text"]
    assert (told["known"], told["serves"]) == (False, False)


def test_a_host_without_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run(tmp_path, "no-such-docker", capsys)
    assert told["text"] == (
        "unknown: the engine does not answer (there is no Docker client no-such-docker)"
    )
