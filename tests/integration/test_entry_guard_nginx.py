"""Attacks on the rendered configuration in a real nginx: each of these worked once."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.proxy import guard, maintenance_pass
from test_entry_point import (
    PYTHON,
    ROOT,
    STACK,
    Server,
    docker,
    files,
    inventory,
    start_servers,
)

__all__ = ["files"]  # a fixture
TOKEN = "T-_" + "x" * 40
HEADER_SECONDS, BODY_SECONDS, CONNECTIONS = 2, 2, 6
# What the zone of logins was in editions before: nginx must be able to reload from it.
LOGINS = "limit_req_zone $login_client zone=logins:1m rate=1r/s;"
OLD_LOGINS = "limit_req_zone $client_network zone=login:1m rate=1r/s;"


@dataclass(frozen=True)
class Lab:
    """Entry points in one network, with one application behind them."""

    direct: Server
    balanced: Server
    secure: Server
    small: Server
    folder: Path


@pytest.fixture(scope="module")
def lab(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """`direct` has no proxy before it, `balanced` one that ends TLS, `small` few connections."""
    docker("network", "create", STACK)
    try:
        gateway = docker(
            *("network", "inspect", STACK, "--format", "{{(index .IPAM.Config 0).Gateway}}")
        )
        docker(
            *("run", "--detach", "--name", f"{STACK}-app", "--network", STACK),
            *("--network-alias", "backend-r1", "--network-alias", "frontend-r1"),
            *("--volume", f"{ROOT}/tests/integration/entry:/echo:ro", PYTHON),
            *("python", "/echo/echo.py", "8000", "3000"),
        )
        names: dict[str, Any] = {"stack_server_names": ["app.example"]}
        slow = {
            "stack_header_timeout": HEADER_SECONDS,
            "stack_body_timeout": BODY_SECONDS,
            "stack_client_connections": CONNECTIONS,
        }
        texts = {
            "direct": inventory(
                **names, stack_rate_limits=[{"path": "/api/few", "rate": "2r/m", "burst": 0}]
            ),
            "balanced": inventory(
                stack_public_url="https://app.example", stack_trusted_proxies=[gateway]
            ),
            "secure": inventory(**names, stack_tls="self_signed", stack_https_port=8443),
            "small": inventory(**slow),
        }
        edits = {
            "small": {
                "worker_processes 2;": "worker_processes 1;",
                "worker_connections 2048;": "worker_connections 64;",
            }
        }
        folder = tmp_path_factory.mktemp("configuration")
        yield Lab(folder=folder, **start_servers(texts, files, folder, edits))
    finally:
        containers = docker("ps", "--all", "--quiet", "--filter", f"network={STACK}").split()
        docker("rm", "--force", "--volumes", *containers)
        docker("network", "rm", STACK)


def statuses(server: Server, path: str, times: int, **headers: str) -> list[int]:
    return [server.ask(path, "POST", b"", **headers).status for _ in range(times)]


def test_nginx_takes_the_configuration_without_a_warning(lab: Lab) -> None:
    for server in (lab.direct, lab.balanced, lab.secure):
        tested = ("exec", server.name, "sh", "-c", "nginx -t -c /etc/crisper/nginx.conf 2>&1")
        said = docker(*tested, check=False)
        assert "test is successful" in said
        assert "[warn]" not in said


# --- Slow clients ------------------------------------------------------------------------------


def send(server: Server, text: str) -> socket.socket:
    """A connection that has sent this much."""
    connection = socket.create_connection((server.address, 8080), 5)
    connection.sendall(text.encode())
    return connection


def is_served(server: Server) -> bool:
    try:
        return server.ask("/api/").status == 200
    except (OSError, http.client.HTTPException):
        return False


def seconds_until_served(server: Server, limit: float) -> float:
    begun = time.monotonic()
    while not is_served(server):
        assert time.monotonic() - begun < limit, "nobody is served"
        time.sleep(0.1)
    return time.monotonic() - begun


def test_half_a_header_holds_a_connection_for_a_moment_only(lab: Lab) -> None:
    """Regression: 9,000 half-open requests of one source held all connections for a minute."""
    with ExitStack() as stack:
        for number in range(400):
            with contextlib.suppress(OSError):
                stack.enter_context(send(lab.small, "GET /api/ HTTP/1.1\r\nHost: a\r\nX-A: b"))
            # One that has not been read yet nginx gives up for the next.
            time.sleep(0.004)
            if number % 20 == 0 and not is_served(lab.small):
                break
        else:
            raise AssertionError("the attack does not hold all connections")
        assert seconds_until_served(lab.small, 10) < HEADER_SECONDS + 2


def dribble_header(server: Server) -> float:
    """Seconds until a header that goes on for ever is cut off."""
    begun = time.monotonic()
    with (
        send(server, "GET /api/ HTTP/1.1\r\nHost: a\r\n") as connection,
        contextlib.suppress(ConnectionResetError, BrokenPipeError),
    ):
        while time.monotonic() - begun < HEADER_SECONDS + 5:
            connection.sendall(b"X-A: b\r\n")
            time.sleep(0.2)
    return time.monotonic() - begun


def stop_body(server: Server) -> float:
    """Seconds until a body of which no more comes is cut off."""
    begun = time.monotonic()
    head = "POST /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"
    with send(server, head) as connection:
        connection.settimeout(BODY_SECONDS + 5)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100) == b""
    return time.monotonic() - begun


def test_slow_headers_and_bodies_are_cut_off(lab: Lab) -> None:
    """Each piece of a header must not begin the time anew."""
    with ThreadPoolExecutor() as pool:
        header, body = pool.submit(dribble_header, lab.small), pool.submit(stop_body, lab.small)
    assert HEADER_SECONDS - 1 < header.result() < HEADER_SECONDS + 3
    assert BODY_SECONDS - 1 < body.result() < BODY_SECONDS + 3


def test_one_client_that_dribbles_bodies_leaves_room_for_others(lab: Lab) -> None:
    """A byte a second keeps a request open as long as it likes: so each client has a number."""
    head = "POST /api/ HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\nx"
    with ExitStack() as stack:
        slow = [stack.enter_context(send(lab.small, head)) for _ in range(CONNECTIONS + 4)]
        deadline = time.monotonic() + 5
        while (answer := lab.small.ask("/api/")).status == 200 and time.monotonic() < deadline:
            for connection in slow:
                with contextlib.suppress(OSError):
                    connection.sendall(b"x")
        assert answer.status == 429
        assert answer.headers["retry-after"] == "1"
        # Health checks of the stack come by the other port, users from other addresses.
        assert lab.small.ask("/api/", port=8081).status == 200
        url = f"http://{lab.small.address}:8080/api/"
        curl = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url)
        assert docker("exec", f"{STACK}-direct", *curl) == "200"
    assert seconds_until_served(lab.small, 10) < 5


def test_a_load_test_from_one_address_passes(lab: Lab) -> None:
    """With the defaults: tests/bench opens 1,000 slow requests, and so do people behind a NAT."""
    head = "POST /api/ HTTP/1.1\r\nHost: app.example\r\nContent-Length: 9\r\n\r\nx"
    with ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(send(lab.direct, head))
        assert lab.direct.ask("/api/", Host="app.example").status == 200
        for _ in range(40):
            stack.enter_context(send(lab.direct, head))
        deadline = time.monotonic() + 10
        while lab.direct.ask("/api/", Host="app.example").status == 200:
            assert time.monotonic() < deadline, "1,040 requests of one client pass"


def test_nginx_reloads_from_the_configuration_of_an_older_edition(lab: Lab) -> None:
    """A zone that counts by another key under the same name is refused by nginx."""
    path = lab.folder / "direct/nginx.conf"
    new = path.read_text()
    assert LOGINS in new
    old = new.replace(LOGINS, OLD_LOGINS).replace("limit_req zone=logins ", "limit_req zone=login ")
    for text in (old, new):
        path.write_text(text)
        docker("exec", lab.direct.name, "sh", "/etc/crisper/upstreams.sh", "reload")


# --- Limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/admin/login/", "/Admin/Login", "/api/admin/login/"])
def test_logins_are_limited_with_a_slash_and_without(lab: Lab, path: str) -> None:
    """Regression: the limit covered nothing of Django, whose path ends in a slash."""
    client = f"198.51.100.{len(path)}"
    found = statuses(lab.balanced, path, 14, X_Forwarded_For=client, Host="app.example")
    assert found[:10] == [200] * 10
    assert 429 in found[10:]
    other = statuses(lab.balanced, path, 1, X_Forwarded_For="198.51.100.99", Host="app.example")
    assert other == [200]


def test_no_stream_passes_by_the_limit_of_logins(lab: Lab) -> None:
    headers = {"X_Forwarded_For": "198.51.100.50", "Host": "app.example"}
    found = statuses(lab.balanced, "/accounts/login/", 14, **headers, Accept="text/event-stream")
    assert 429 in found


def test_no_client_chooses_whom_it_counts_as(lab: Lab) -> None:
    """Through a balancer the last address is the client's; directly no header is believed."""
    found = []
    for number in range(14):
        chain = f"203.0.113.{number}, 198.51.100.60"
        found += statuses(
            lab.balanced,
            "/login",
            1,
            X_Forwarded_For=chain,
            Host="app.example",
            X_Real_IP="1.1.1.1",
        )
    assert 429 in found
    forged = [f"203.0.113.{number}" for number in range(3)]
    found = [
        lab.direct.ask("/api/few", Host="app.example", X_Forwarded_For=one, X_Real_IP=one).status
        for one in forged
    ]
    assert found == [200, 429, 429]


def test_an_answer_429_says_when_to_come_again(lab: Lab) -> None:
    for _ in range(2):
        answer = lab.direct.ask("/api/few/x", Host="app.example")
    assert (answer.status, answer.headers["retry-after"]) == (429, "30")
    assert answer.headers["x-frame-options"] == "DENY"
    assert "retry-after" not in lab.direct.ask("/api/", Host="app.example").headers


# --- Hosts and headers -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["direct", "secure", "balanced"])
def test_another_host_is_refused_and_in_no_redirect(lab: Lab, name: str) -> None:
    """Regression: `evil.example` came back in the redirect of a path without its slash."""
    for host in ("evil.example", "app.example.evil.example"):
        answer = through(lab, name, "/api/no-slash", host)
        assert answer.status == 421, host
        assert "location" not in answer.headers
    assert through(lab, name, "/api/x", "APP.example.:81").status == 200


def test_http2_asks_for_a_host_too(lab: Lab) -> None:
    curl = ("curl", "-sSk", "--http2", "-o", "/dev/null", "-w", "%{http_version} %{http_code}")
    url = f"https://{lab.secure.address}:8443/api/x"
    for host, told in (("app.example", "2 200"), ("evil.example", "2 421")):
        answer = docker("exec", lab.direct.name, *curl, "-H", f"Host: {host}", url)
        assert answer == told


@pytest.mark.parametrize(
    ("name", "host", "location"),
    [
        ("direct", "app.example:8080", "http://app.example:8080/api/no-slash/"),
        ("secure", "app.example:8443", "https://app.example:8443/api/no-slash/"),
        ("balanced", "app.example", "https://app.example/api/no-slash/"),
    ],
)
def test_redirects_to_a_slash_keep_https(lab: Lab, name: str, host: str, location: str) -> None:
    """Regression: the application was asked by plain HTTP, and led browsers there."""
    assert through(lab, name, "/api/no-slash", host).headers["location"] == location


@pytest.mark.parametrize("name", ["direct", "secure", "balanced", "small"])
def test_a_port_that_is_none_is_refused(lab: Lab, name: str) -> None:
    """Regression: the application redirected to the address of its container."""
    for port in ("0", "99999", "65536", "http", "80:80", ""):
        answer = through(lab, name, "/api/no-slash", f"app.example:{port}")
        assert answer.status == 400, port
        assert "location" not in answer.headers
    assert through(lab, name, "/api/x", "app.example:65535").status == 200


@pytest.mark.parametrize("name", ["direct", "secure", "balanced"])
def test_no_redirect_names_a_container(lab: Lab, name: str) -> None:
    answer = through(lab, name, "/api/odd-host/no-slash", "app.example")
    assert answer.headers["location"] == "/api/odd-host/no-slash/"


def test_a_target_with_a_host_of_its_own_opens_no_way(lab: Lab) -> None:
    for target, host in (("app.example", "evil.example"), ("evil.example", "app.example")):
        with send(lab.direct, f"GET http://{target}/ HTTP/1.1\r\nHost: {host}\r\n\r\n") as one:
            assert b" 421 " in one.recv(100)


def test_health_checks_ask_by_address(lab: Lab) -> None:
    for path in ("/health", "/-/nginx"):
        assert lab.direct.ask(path, Host=lab.direct.address).status == 200
    assert lab.direct.ask("/", Host=lab.direct.address).status == 421
    # A balancer's own request names no client; one that it passes on does.
    assert lab.balanced.ask("/", Host=lab.balanced.address).status == 200
    passed = lab.balanced.ask("/", Host=lab.balanced.address, X_Forwarded_For="198.51.100.1")
    assert passed.status == 421


def through(lab: Lab, name: str, path: str, host: str) -> Any:
    """Ask as a browser does: with TLS, or through the balancer that ends it."""
    server: Server = getattr(lab, name)
    if name == "balanced":
        client = {"X_Forwarded_For": "198.51.100.1", "X_Forwarded_Proto": "https"}
        return server.ask(path, Host=host, **client)
    if name in ("direct", "small"):
        return server.ask(path, Host=host)
    return ask_secure(server, path, Host=host)


@dataclass(frozen=True)
class Secure:
    """An answer over TLS."""

    status: int
    headers: dict[str, str]


def ask_secure(server: Server, path: str, **headers: str) -> Secure:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(server.address, 8443, timeout=20, context=context)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return Secure(answer.status, {name.lower(): value for name, value in answer.getheaders()})


def test_no_client_says_what_frameworks_believe_of_proxies(lab: Lab) -> None:
    names = [*guard.BELIEVED_HEADERS, *guard.DROPPED_HEADERS]
    # gunicorn and Django take `_` for `-`.
    given = dict.fromkeys([*names, *(name.replace("-", "_") for name in names)], "forged")
    connection = http.client.HTTPConnection(lab.direct.address, 8080, timeout=20)
    connection.request("GET", "/api/", headers={"Host": "app.example", **given})
    assert b"forged" not in connection.getresponse().read()
    connection.close()
    forged = {name.replace("-", "_"): "forged" for name in names}
    told = lab.balanced.ask("/api/", Host="app.example", **forged).told["headers"]
    arrived = {name for name, value in told.items() if value == ["forged"]}
    assert arrived == {name.lower() for name in guard.BELIEVED_HEADERS}


# --- The maintenance page ----------------------------------------------------------------------


def test_only_the_token_passes_the_maintenance_page(lab: Lab) -> None:
    """Regression: `X-Crisper-Pass: anything` passed."""
    live = lab.folder / "direct"
    page, passes = live / "maintenance.on", live / Path(maintenance_pass.FOLDER).name

    def asked(**headers: str) -> int:
        return lab.direct.ask("/api/", Host="app.example", **headers).status

    page.touch()
    try:
        assert asked(X_Crisper_Pass=TOKEN) == 503  # without the folder nobody passes
        passes.mkdir()
        passes.chmod(maintenance_pass.MODE)
        (passes / TOKEN).touch()
        for other in (
            "anything",
            "verify",
            "",
            "none",
            ".",
            "..",
            "../maintenance.html",
            TOKEN[:-1],
        ):
            assert asked(X_Crisper_Pass=other) == 503, other
        answer = lab.direct.ask("/api/", Host="app.example", X_Crisper_Pass=TOKEN)
        assert answer.status == 200
        assert TOKEN.encode() not in answer.body  # the application does not get it
        # A worker of nginx may look for a token, and list none.
        listed = docker("exec", lab.direct.name, "ls", "/etc/crisper/passes", check=False)
        assert listed == ""
        assert TOKEN not in lab.direct.log()
    finally:
        page.unlink()
    assert asked() == 200
