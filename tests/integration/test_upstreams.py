"""Which containers get requests: the rendered nginx before web containers that misbehave."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.proxy.static_draft import StaticDraft
from ansible_collections.crisper.stack.plugins.module_utils.proxy.static_files import StaticFiles
from ansible_collections.crisper.stack.plugins.module_utils.proxy.upstream import Upstreams

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from hostile_values import example, unsafe, written  # noqa: E402

# A process of its own: see test_container_proxies.py.
RENDER = """
import json, sys
from rendering import Inventory
print(json.dumps(Inventory(sys.stdin.read()).files()))
"""
NAME = f"upstreams-{os.getpid()}"
# A sick replica gets nothing new within this time (two looks and their time-outs), and then some.
OUT_SECONDS = 15


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Site:
    """nginx as a release renders it, web containers by release, and requests from outside."""

    def __init__(self, live: Path) -> None:
        self.live = live
        self.containers: list[str] = []
        self.port = 0

    def web(self, release: str, replicas: int = 1, mode: str = "ok") -> list[str]:
        """Start the web containers of a release, with their ports open."""
        names = [f"{NAME}-{release}-{number}" for number in range(replicas)]
        for name in names:
            self.containers.append(name)
            docker(
                *("run", "--detach", "--init", "--name", name, "--network", NAME),
                *("--network-alias", f"backend-{release}", "--env", f"RELEASE={release}"),
                *("--env", f"MODE={mode}", "--env", "DRAIN_SECONDS=1"),
                *("--volume", f"{ROOT}/tests/apps/awkward:/srv:ro"),
                *("python:3.13-slim-trixie", "python", "/srv/awkward.py"),
            )
        for name in names:
            until(lambda name=name: "{" in docker("exec", name, *STATS), 10)
        return names

    def prepare(self, release: str, replicas: int = 1) -> Upstreams:
        """Write down where the release is."""
        service = {"port": 8000, "replicas": replicas, "probe": {"path": "/health"}}
        upstreams = Upstreams(str(self.live), {"backend": service})
        upstreams.prepare(release)
        return upstreams

    def switch(self, release: str, replicas: int = 1) -> None:
        """Do what a rollout does (crisper.rollout.traffic.switch_requests)."""
        upstreams = self.prepare(release, replicas)
        docker("exec", f"{NAME}-nginx", "sh", "/etc/crisper/upstreams.sh", "ready", release)
        upstreams.switch(release)
        docker("exec", f"{NAME}-nginx", "sh", "/etc/crisper/upstreams.sh", "release")

    def copy(self, release: str, files: dict[str, str]) -> None:
        """Do what a rollout does with a release's static files (library/static_files.py)."""
        root = self.live.parents[1]
        (root / "releases" / release).mkdir(parents=True, exist_ok=True)
        static = StaticFiles(root, release)
        if static.built(["/app/staticfiles"]):
            static.supplement()
            return
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, text in files.items():
                member = tarfile.TarInfo(f"staticfiles/{name}")
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
        stream.seek(0)
        draft = StaticDraft(static)
        draft.begin()
        list(draft.extract(stream, "/app/staticfiles"))
        draft.publish(["/app/staticfiles"])

    def get(self, name: str, etag: str = "") -> tuple[int, str, str]:
        """Return status, content and ETag of a static file."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            known = {"If-None-Match": etag} if etag else {}
            connection.request("GET", f"/static/{name}", headers=known)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.getheader("ETag") or ""
        finally:
            connection.close()

    def ask(self, path: str = "/", method: str = "GET", body: str = "") -> tuple[int, str]:
        """Return an answer's status and the release that gave it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body or None)
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.getheader("X-Release") or ""
        finally:
            connection.close()

    def stop(self, *names: str) -> None:
        """Have containers end."""
        docker("stop", "--time", "5", *names)


STATS = ("python", "/srv/awkward.py", "stats")


def until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait until it holds; return the seconds that took."""
    begun = time.monotonic()
    while True:
        try:
            if condition():
                return time.monotonic() - begun
        except (AssertionError, OSError):
            pass
        assert time.monotonic() - begun < seconds, "not in time"
        time.sleep(0.2)


def received(container: str) -> int:
    """How many requests a container got, health checks left out."""
    stats = json.loads(docker("exec", container, *STATS))
    return sum(count for path, count in stats["paths"].items() if path != "/health")


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    """The files of a release."""
    given = example()
    given["stack_app"].pop("frontend", None)
    given["stack_app"]["backend_paths"] = ["/"]
    given["stack_app"]["locations"] = [
        {"path": "/static/", "kind": "static", "alias": "/app/staticfiles"}
    ]
    done = subprocess.run(
        [sys.executable, "-c", RENDER],
        input=written(unsafe(given)),
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests/unit")},
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def site(tmp_path: Path, rendered: dict[str, str]) -> Iterator[Site]:
    """nginx before no release yet."""
    live, static = tmp_path / "live/nginx", tmp_path / "live/static"
    for folder in (live, static):
        folder.mkdir(parents=True)
    for name, content in rendered.items():
        if name.startswith("nginx/"):
            (live / Path(name).name).write_text(content)
    compose = yaml.safe_load(rendered["docker-compose.prod.yml"])
    site = Site(live)
    docker("network", "create", NAME)
    try:
        docker(
            *("run", "--detach", "--init", "--name", f"{NAME}-nginx", "--network", NAME),
            *(
                "--read-only",
                "--user",
                "101:101",
                "--tmpfs",
                "/tmp:mode=1777",
                "--tmpfs",
                "/var/tmp:mode=1777",
            ),
            *("--volume", f"{live}:/etc/crisper:ro", "--volume", f"{static}:/srv/static:ro"),
            *("--publish", "127.0.0.1::8080"),
            *("nginx:1.26", *compose["services"]["nginx"]["command"]),
        )
        site.containers.append(f"{NAME}-nginx")
        site.port = int(docker("port", f"{NAME}-nginx", "8080").rpartition(":")[2])
        until(lambda: site.ask("/-/nginx")[0] == 200, 10)
        yield site
    finally:
        if site.containers:
            subprocess.run(["docker", "rm", "-fv", *site.containers], check=False)
        docker("network", "rm", NAME)


def test_a_release_gets_requests_only_from_the_switch_on(site: Site) -> None:
    (old,) = site.web("r1")
    site.switch("r1")
    assert site.ask() == (200, "r1")
    (sick,) = site.web("r2", mode="refusing")
    site.prepare("r2")
    command = ["docker", "exec", f"{NAME}-nginx", "sh", "/etc/crisper/upstreams.sh", "ready", "r2"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1
    assert re.search("backend at [0-9.]+ answers /health with 400, not with 200", done.stderr)
    time.sleep(1.5)  # Docker's DNS has named it for longer than nginx remembers
    assert {site.ask() for _ in range(40)} == {(200, "r1")}
    assert received(sick) == 0
    (new,) = site.web("r3")
    site.switch("r3")
    before = received(old)
    assert {site.ask() for _ in range(40)} == {(200, "r3")}
    assert received(old) == before
    site.switch("r1")
    assert {site.ask() for _ in range(40)} == {(200, "r1")}
    assert received(new) == 40


def test_static_files_are_those_of_the_release_that_serves(site: Site) -> None:
    """Regression: a new release's app.css was served while the old release still was."""

    def found() -> dict[str, str]:
        names = ("app.css", "same.css", "a.1.js", "a.2.js")
        answers = {name: site.get(name) for name in names}
        return {name: text for name, (status, text, _) in answers.items() if status == 200}

    site.web("r1")
    site.copy("r1", {"app.css": "old", "same.css": "same", "a.1.js": "1"})
    assert site.get("app.css")[0] == 404, "no release serves"
    site.switch("r1")
    old = {"app.css": "old", "same.css": "same", "a.1.js": "1"}
    assert found() == old
    etag, kept = site.get("app.css")[2], site.get("same.css")[2]
    site.copy("r2", {"app.css": "new", "same.css": "same", "a.2.js": "2"})
    site.web("r2")
    site.prepare("r2")
    assert found() == old
    site.switch("r2")
    both = {"a.1.js": "1", "a.2.js": "2", "same.css": "same"}
    assert found() == both | {"app.css": "new"}
    assert site.get("app.css", etag)[:2] == (200, "new"), "of the same size, within one second"
    assert site.get("same.css", kept)[0] == 304
    site.copy("r1", {})
    assert found() == both | {"app.css": "new"}
    site.switch("r1")
    assert found() == both | {"app.css": "old"}
    assert site.get("app.css", etag)[0] == 304


def test_an_application_that_listens_on_its_loopback_alone_is_told_so(site: Site) -> None:
    """Its own health check, in its container, finds it healthy."""
    site.containers.append(f"{NAME}-deaf")
    docker(
        *("run", "--detach", "--name", f"{NAME}-deaf", "--network", NAME),
        *("--network-alias", "backend-r1", "python:3.13-slim-trixie", "sleep", "60"),
    )
    site.prepare("r1")
    command = ["docker", "exec", f"{NAME}-nginx", "sh", "/etc/crisper/upstreams.sh", "ready", "r1"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode == 1
    said = "backend at [0-9.]+:8000 does not answer /health: it must listen on 0.0.0.0"
    assert re.search(said, done.stderr)


def test_requests_under_way_meet_the_release_that_serves(site: Site) -> None:
    (old,) = site.web("r1")
    site.web("r2")
    site.switch("r1")
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(site.ask, "/slow?seconds=2")
        with socket.create_connection(("127.0.0.1", site.port), timeout=20) as upload:
            head = (
                "POST /upload HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 8\r\n\r\n"
            )
            upload.sendall(head.encode() + b"half")
            time.sleep(0.5)
            site.switch("r2")
            site.stop(old)
            assert slow.result() == (200, "r1"), "it finished on the old one"
            upload.sendall(b"half")
            answer = upload.recv(65536).decode()
    # nginx had not sent any of it: the body was not there.
    assert answer.startswith("HTTP/1.1 200"), answer
    assert "X-Release: r2" in answer


@pytest.mark.parametrize(("method", "answer"), [("GET", (200, "r2")), ("POST", (502, ""))])
def test_only_what_may_be_repeated_is_repeated(
    site: Site, method: str, answer: tuple[int, str]
) -> None:
    (old,) = site.web("r1")
    (new,) = site.web("r2")
    site.switch("r1")
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(site.ask, "/slow?seconds=4", method, "x" * (method == "POST"))
        until(lambda: received(old) == 1, 5)
        site.switch("r2")
        docker("kill", old)
        if method == "GET":
            assert asked.result(20) == answer
        assert asked.result(20) == answer
    assert received(new) == (1 if method == "GET" else 0)


def test_a_sick_replica_is_left_out_until_it_is_well(site: Site) -> None:
    well, sick = site.web("r1", replicas=2)
    site.switch("r1", replicas=2)
    assert {site.ask()[0] for _ in range(20)} == {200}
    for mode in ("hanging", "failing 0"):
        docker("exec", sick, "python", "/srv/awkward.py", "mode", *mode.split())
        # How soon the replica is out, it says itself; a busy machine takes longer to find that out.
        until(lambda: quiet(site, sick), 3 * OUT_SECONDS)
        stats = json.loads(docker("exec", sick, *STATS))
        assert stats["last_while_sick_after"] <= OUT_SECONDS
        assert {site.ask() for _ in range(20)} == {(200, "r1")}
        docker("exec", sick, "python", "/srv/awkward.py", "mode", "ok")
        before = received(sick)
        until(lambda before=before: bool(site.ask()) and received(sick) > before, 30)
    assert received(well) > 40


def quiet(site: Site, container: str) -> bool:
    """Whether many requests have ended, and none of them has reached a container.

    One that hangs in the container has reached it. They come one after the other: requests that
    wait for the same answer of Docker's DNS all go to the same container, which said nothing of
    the other one.
    """
    before = received(container)
    for _ in range(20):
        one = threading.Thread(target=attempt, args=(site,), daemon=True)
        one.start()
        one.join(1)
        while one.is_alive():
            if received(container) != before:
                return False
            one.join(0.5)
    return received(container) == before


def attempt(site: Site) -> None:
    """Ask, whatever comes of it."""
    with contextlib.suppress(OSError):
        site.ask()


def test_when_no_replica_is_well_all_are_asked(site: Site) -> None:
    names = site.web("r1", replicas=2)
    site.switch("r1", replicas=2)
    for name in names:
        docker("exec", name, "python", "/srv/awkward.py", "mode", "failing", "0")
    time.sleep(8)  # both are out by then
    assert {site.ask()[0] for _ in range(10)} == {500}
    assert all(received(name) for name in names)


def test_a_switch_takes_no_replica_of_the_old_release_along(site: Site) -> None:
    _, sick = site.web("r1", replicas=2)
    site.switch("r1", replicas=2)
    docker("exec", sick, "python", "/srv/awkward.py", "mode", "failing", "0")
    until(lambda: quiet(site, sick), 3 * OUT_SECONDS)
    site.web("r2")
    site.switch("r2")
    statuses: Counter[tuple[int, str]] = Counter()
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            statuses[site.ask()] += 1

    loader = threading.Thread(target=load)
    loader.start()
    time.sleep(5)  # two looks of the watch
    stop.set()
    loader.join()
    assert set(statuses) == {(200, "r2")}


def test_where_no_slots_can_be_shared_out_requests_go_where_they_went(site: Site) -> None:
    """Regression: with /tmp full the folder that served was removed."""
    site.web("r1")
    site.switch("r1")
    shell = ["docker", "exec", f"{NAME}-nginx", "sh", "-c"]
    sick = "echo one >/tmp/watch/backend.targets; chmod 555 /tmp/sets"
    subprocess.run([*shell, sick], check=True)
    done = subprocess.run([*shell, "sh /etc/crisper/upstreams.sh release"], check=False)
    assert done.returncode != 0
    subprocess.run([*shell, "readlink -e /tmp/upstreams/backend/0"], check=True)
    # What one that was killed has left does not count.
    left = "chmod 755 /tmp/sets; mkdir /tmp/sets/left; ln -s /tmp/sets/left /tmp/upstreams/.backend"
    subprocess.run([*shell, f"{left}; sh /etc/crisper/upstreams.sh release"], check=True)
    subprocess.run([*shell, "readlink -e /tmp/upstreams/backend/0"], check=True)
    assert site.ask() == (200, "r1")


def test_an_nginx_of_before_has_no_replicas_to_take_up(site: Site) -> None:
    """Regression: after a rollback to a release of before, every deploy failed with this."""
    script = ["--volume", f"{site.live}:/etc/crisper:ro", "nginx:1.26", "sh"]
    docker("run", "--rm", "--user", "101:101", *script, "/etc/crisper/upstreams.sh", "release")


def test_a_configuration_that_nginx_refuses_changes_nothing(site: Site) -> None:
    site.web("r1")
    site.switch("r1")
    (site.live / "nginx.conf").write_text("nonsense;")
    command = ["docker", "exec", f"{NAME}-nginx", "sh", "/etc/crisper/upstreams.sh", "reload"]
    done: Any = subprocess.run(command, capture_output=True, check=False, text=True)
    assert done.returncode != 0
    assert 'unknown directive "nonsense"' in done.stderr
    assert site.ask() == (200, "r1")
