"""The rendered configuration in a real nginx, in front of an application that tells what it got."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.proxy.static_draft import StaticDraft
from ansible_collections.crisper.stack.plugins.module_utils.proxy.static_files import StaticFiles
from ansible_collections.crisper.stack.plugins.module_utils.proxy.upstream import Upstreams

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from hostile_values import example, unsafe, written  # noqa: E402

NGINX, PYTHON = "nginx:1.26", "python:3.13-slim-trixie"
STACK = f"entrytest-{os.getpid()}"
# A process of its own: rendering loads Ansible's controller (see test_container_proxies).
RENDER = """
import json, sys
from rendering import outcome
print(json.dumps([outcome(text) for text in json.load(sys.stdin)]))
"""
LOCATIONS = [
    {"path": "/static/", "kind": "static", "alias": "/app/staticfiles", "cache": "immutable"},
    {"path": "/media/", "kind": "static", "alias": "/app/media", "cache": 60},
    {"path": "/robots.txt", "kind": "static", "alias": "/app/staticfiles/r.txt", "exact": True},
    {"path": "/big/", "kind": "backend", "body_size": "3m"},
    {"path": "/small/", "kind": "backend", "body_size": "1k"},
    {"path": "/quick/", "kind": "backend", "timeout": 1},
    {"path": "/patient/", "kind": "backend", "timeout": 30},
    {"path": "/unbuffered/", "kind": "backend", "buffering": False, "request_buffering": False},
    {"path": "/ndjson/", "kind": "backend", "buffering": False},
    {"path": "/cached/", "kind": "backend", "cache": 300},
    {"path": "/assets/", "kind": "frontend", "cache": "immutable"},
    {"path": "/old/", "kind": "redirect", "to": "/new/", "status": 308},
    {"path": "/away", "kind": "redirect", "to": "https://www.example.org/x?y=1", "exact": True},
    {"path": "/.git", "kind": "deny"},
    {"path": "/closed/", "kind": "deny", "status": 403},
    {"path": "/api/rare/", "kind": "backend", "rate_limit": {"rate": "1r/m", "burst": 2}},
]


def docker(*arguments: str, check: bool = True, **options: Any) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, check=False, **options)
    assert done.returncode == 0 or not check, done.stderr.decode()
    return done.stdout.decode().strip()


def inventory(**values: Any) -> str:
    """Return the example site with these locations and variables, as an operator writes it."""
    site = example()
    site["stack_app"] |= {
        "uploads": "/app/media",
        "backend_paths": ["/api/", "/api/admin/login", "/health"],
        "locations": LOCATIONS,
    }
    site["stack_app"]["web"] |= {"port": 8000, "health_path": "/health"}
    site["stack_app"]["frontend"] |= {"port": 3000}
    return written(unsafe(site | values))


@dataclass(frozen=True)
class Answer:
    """What came back: status, headers by lower-case name, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def told(self) -> dict[str, Any]:
        """What the application said."""
        return json.loads(self.body)

    def sent(self, name: str) -> str:
        """The values that arrived of a header, joined; empty when it did not."""
        return ",".join(self.told["headers"].get(name.lower(), []))


@dataclass(frozen=True)
class Server:
    """One nginx with one configuration."""

    name: str
    address: str

    def ask(
        self,
        path: str,
        method: str = "GET",
        body: bytes | None = None,
        port: int = 8080,
        **headers: str,
    ) -> Answer:
        """Ask from this machine, whose address is the gateway's of the network."""
        connection = http.client.HTTPConnection(self.address, port, timeout=20)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, given)
        answer = connection.getresponse()
        found = Answer(
            answer.status, {name.lower(): v for name, v in answer.getheaders()}, answer.read()
        )
        connection.close()
        return found

    def ask_from_a_container(self, path: str, **headers: str) -> dict[str, Any]:
        """Ask from a container of the network: another peer than this machine."""
        options = [f"-H{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        url = f"http://{self.address}:8080{path}"
        return json.loads(docker("exec", f"{STACK}-plain", "curl", "-sS", *options, url))

    def log(self) -> str:
        """What nginx wrote to standard output."""
        return docker("logs", self.name)


def rendered(texts: list[str]) -> list[dict[str, str]]:
    """Return the files of the releases of inventories."""
    done = subprocess.run(
        [sys.executable, "-c", RENDER],
        cwd=ROOT / "tests/unit",
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(done.stdout)
    assert [findings for findings, _ in outcomes] == [[]] * len(texts)
    return [release for _, release in outcomes]


@dataclass(frozen=True)
class Site:
    """Everything that runs for these tests."""

    plain: Server
    balanced: Server
    secure: Server
    gateway: str


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with files, as nginx finds them: of the image, uploaded ones, a certificate."""
    folder = tmp_path_factory.mktemp("files")
    static = folder / "static/r1/app/staticfiles"
    uploads, tls = folder / "uploads", folder / "tls"
    for one in (static, uploads / "empty", tls):
        one.mkdir(parents=True)
    (static / "app.3f2a.js").write_text("let a = 1;\n" * 500)
    (static / "ready.css").write_text("plain")
    (static / "ready.css.gz").write_bytes(gzip.compress(b"precompressed"))
    (static / "r.txt").write_text("Disallow: /")
    (uploads / "page.html").write_text("<script>alert(1)</script>")
    (uploads / "paper.pdf").write_text("%PDF-1.7")
    (uploads / "link").symlink_to("/etc/crisper-tls/front.pem")
    pem = tls / "front.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=app.example", "-keyout", pem, "-out", f"{pem}.crt"),
        ],
        check=True,
        capture_output=True,
    )
    pem.write_text(pem.read_text() + Path(f"{pem}.crt").read_text())
    pem.chmod(0o644)
    return folder


@pytest.fixture(scope="module")
def site(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three entry points in one network, with one application behind them."""
    docker("network", "create", STACK)
    try:
        gateway = docker(
            *("network", "inspect", STACK, "--format", "{{(index .IPAM.Config 0).Gateway}}")
        )
        echo = ROOT / "tests/integration/entry"
        docker(
            *("run", "--detach", "--name", f"{STACK}-app", "--network", STACK),
            *("--network-alias", "backend-r1", "--network-alias", "frontend-r1"),
            *("--volume", f"{echo}:/echo:ro", PYTHON, "python", "/echo/echo.py", "8000", "3000"),
        )
        trusted = [f"{gateway}/32", "203.0.113.0/24", "2001:db8:ffff::/48"]
        texts = {
            "plain": inventory(stack_tls="none"),
            "balanced": inventory(
                stack_tls="none",
                stack_trusted_proxies=trusted,
                stack_access_log="json",
                stack_rate_limits=[{"path": "/api/search", "rate": "1r/m", "burst": 1}],
            ),
            "secure": inventory(
                stack_tls="self_signed",
                stack_server_names=["app.example"],
                stack_trusted_proxies=[gateway],
                stack_proxy_protocol=True,
            ),
        }
        yield Site(
            gateway=gateway, **start_servers(texts, files, tmp_path_factory.mktemp("configuration"))
        )
    finally:
        names = docker("ps", "--all", "--quiet", "--filter", f"network={STACK}").split()
        docker("rm", "--force", "--volumes", *names)
        docker("network", "rm", STACK)


def start_servers(
    texts: dict[str, str], files: Path, folder: Path, edits: dict[str, dict[str, str]] | None = None
) -> dict[str, Server]:
    """Start an nginx for each inventory; `edits` replaces texts of its configuration."""

    def start(name: str, release: dict[str, str]) -> Server:
        place = folder / name
        place.mkdir(mode=0o755)
        for path in ("nginx.conf", "maintenance.html", "upstreams.sh"):
            text = release[f"nginx/{path}"]
            for old, new in (edits or {}).get(name, {}).items():
                assert path != "nginx.conf" or old in text
                text = text.replace(old, new)
            (place / path).write_text(text)
        upstreams = Upstreams(str(place), {"backend": {"port": 8000}, "frontend": {"port": 3000}})
        upstreams.prepare("r1")
        upstreams.switch("r1")
        mounts = {
            place: "/etc/crisper",
            files / "tls": "/etc/crisper-tls",
            files / "static": "/srv/static",
            files / "uploads": "/srv/uploads",
        }
        volumes = [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
        container = f"{STACK}-{name}"
        docker(
            *("run", "--detach", "--name", container, "--network", STACK, "--user", "101:101"),
            *(
                "--read-only",
                "--tmpfs",
                "/tmp:mode=1777",
                "--tmpfs",
                "/var/tmp:mode=1777",
                *volumes,
                NGINX,
            ),
            *("sh", "/etc/crisper/upstreams.sh", "serve"),
        )
        shown = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        server = Server(container, docker("inspect", container, "--format", shown))
        deadline = time.monotonic() + 20
        while True:
            try:
                assert server.ask("/-/nginx", port=8081).status == 200
                return server
            except OSError:
                assert time.monotonic() < deadline, docker("logs", container)
                time.sleep(0.05)

    with ThreadPoolExecutor() as pool:
        releases = rendered(list(texts.values()))
        return dict(zip(texts, pool.map(start, texts, releases), strict=True))


FORGED = {
    "X_Forwarded_For": "198.51.100.66",
    "X_Forwarded_Proto": "https",
    "X_Forwarded_Host": "evil.example",
    "X_Forwarded_Port": "444",
    "Forwarded": "for=198.51.100.66;proto=https",
    "X_Forwarded_Ssl": "on",
}


# --- Who the client is -------------------------------------------------------------------------


def test_headers_of_a_peer_that_is_not_trusted_are_replaced(site: Site) -> None:
    answer = site.plain.ask("/api/", Host="app.example:8088", **FORGED)
    assert answer.sent("X-Forwarded-For") == site.gateway
    assert answer.sent("X-Real-IP") == site.gateway
    assert answer.sent("X-Forwarded-Proto") == "http"
    assert answer.sent("X-Forwarded-Host") == "app.example:8088"
    assert answer.sent("X-Forwarded-Port") == "80"
    assert answer.sent("Forwarded") == answer.sent("X-Forwarded-Ssl") == ""
    # Another peer of the one that trusts some.
    told = site.balanced.ask_from_a_container("/api/", **FORGED)["headers"]
    assert told["x-forwarded-for"] == [site.plain.address]
    assert told["x-forwarded-proto"] == ["http"]
    assert told["x-forwarded-host"] == [site.balanced.address + ":8080"]
    assert told["x-forwarded-port"] == ["80"]


def test_headers_of_a_trusted_peer_are_believed(site: Site) -> None:
    """Regression: Django with SECURE_SSL_REDIRECT redirected every request to itself."""
    answer = site.balanced.ask("/api/", Host="inner", **FORGED)
    assert answer.sent("X-Forwarded-For") == "198.51.100.66"
    assert answer.sent("X-Forwarded-Proto") == "https"
    assert answer.sent("X-Forwarded-Host") == "evil.example"
    assert answer.sent("X-Forwarded-Port") == "444"
    assert answer.sent("Forwarded") == "for=198.51.100.66;proto=https"
    assert answer.sent("Host") == "inner"


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        # The first one is what the client itself sent to the first proxy.
        ("6.6.6.6, 198.51.100.7, 203.0.113.5", "198.51.100.7"),
        ("2001:db8::7, 2001:db8:ffff::1, 203.0.113.5", "2001:db8::7"),
        ("198.51.100.7:51234", "198.51.100.7"),
    ],
)
def test_the_client_of_a_chain_is_the_last_that_is_no_proxy(
    site: Site, chain: str, client: str
) -> None:
    assert site.balanced.ask("/api/", X_Forwarded_For=chain).sent("X-Forwarded-For") == client


@pytest.mark.parametrize(
    ("headers", "proto", "host", "port"),
    [
        ({"X_Forwarded_Proto": "https"}, "https", "here", "443"),
        ({"X_Forwarded_Proto": "https, http"}, "https", "here", "443"),
        ({"X_Forwarded_Proto": "gopher"}, "http", "here", "80"),
        ({"X_Forwarded_Host": "a.example, b.example"}, "http", "a.example", "80"),
        ({"X_Forwarded_Host": "a b", "X_Forwarded_Port": "x"}, "http", "here", "80"),
    ],
)
def test_what_a_trusted_peer_does_not_say_well_is_what_nginx_knows(
    site: Site, headers: dict[str, str], proto: str, host: str, port: str
) -> None:
    answer = site.balanced.ask("/api/", Host="here", **headers)
    told = [answer.sent(f"X-Forwarded-{name}") for name in ("Proto", "Host", "Port")]
    assert told == [proto, host, port]


def _through_proxy_protocol(site: Site, port: int, line: str, request: str) -> str:
    with socket.create_connection((site.secure.address, port), 10) as plain:
        plain.sendall(line.encode())
        connection: socket.socket = plain
        if port == 8443:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = context.wrap_socket(plain, server_hostname="app.example")
        connection.sendall(request.encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def test_with_proxy_protocol_its_line_says_who_the_client_is(site: Site) -> None:
    request = "GET /api/ HTTP/1.1\r\nHost: app.example\r\nX-Forwarded-For: 6.6.6.6\r\n"
    request += "X-Forwarded-Proto: http\r\nConnection: close\r\n\r\n"
    line = "PROXY TCP4 198.51.100.9 192.0.2.1 4242 443\r\n"
    head, _, body = _through_proxy_protocol(site, 8443, line, request).partition("\r\n\r\n")
    assert " 200 " in head.splitlines()[0]
    # By default, with a self-signed certificate: a browser that insists would shut its user out.
    assert "strict-transport-security" not in head.lower()
    told = json.loads(body)["headers"]
    assert told["x-forwarded-for"] == ["198.51.100.9"]
    assert told["x-forwarded-proto"] == ["https"]
    line = "PROXY TCP6 2001:db8::9 2001:db8::1 4242 80\r\n"
    redirect = _through_proxy_protocol(site, 8080, line, request)
    assert "Location: https://app.example/api/" in redirect
    assert "2001:db8::9 " in site.secure.log()
    # Without the line nobody gets in, and health checks use the internal port.
    with pytest.raises((OSError, http.client.HTTPException)):
        site.secure.ask("/-/nginx")
    answer = site.secure.ask("/api/", port=8081)
    assert (answer.status, answer.sent("X-Forwarded-Proto")) == (200, "https")


# --- WebSocket, streams, long polls ------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/ws", "/patient/ws", "/other"])
def test_websockets_work_on_every_path(site: Site, path: str) -> None:
    """Regression: Upgrade never reached the backend, which answered 400."""
    key = base64.b64encode(b"0123456789abcdef").decode()
    with socket.create_connection((site.plain.address, 8080), 10) as connection:
        connection.sendall(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        stream = connection.makefile("rb")
        assert stream.readline().split()[1] == b"101"
        while stream.readline() != b"\r\n":
            pass
        for text in (b"hello", b"again"):
            mask = b"\x01\x02\x03\x04"
            masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(text))
            connection.sendall(bytes((0x81, 0x80 | len(text))) + mask + masked)
            assert stream.read(2 + len(text)) == bytes((0x81, len(text))) + text


def test_nothing_but_websocket_is_upgraded_to(site: Site) -> None:
    answer = site.plain.ask("/api/", Upgrade="h2c", Connection="Upgrade, HTTP2-Settings")
    assert answer.status == 200
    assert answer.sent("Upgrade") == answer.sent("Connection") == ""


def _arrivals(server: Server, path: str, **headers: str) -> list[float]:
    """Return the seconds after which each event came."""
    begun, found = time.monotonic(), []
    connection = http.client.HTTPConnection(server.address, 8080, timeout=20)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    assert answer.status == 200
    while line := answer.readline():
        if line.startswith(b"data:"):
            found.append(time.monotonic() - begun)
    connection.close()
    return found


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        ("/api/events", "text/event-stream"),
        ("/events", "application/json, text/event-stream"),
        ("/patient/events", "text/event-stream"),
        ("/unbuffered/events", "*/*"),
        ("/api/events?dies-once", "text/event-stream"),
        ("/patient/events?dies-once", "text/event-stream"),
        ("/ndjson/events?dies-once", "*/*"),
    ],
)
def test_events_come_one_by_one(site: Site, path: str, accept: str) -> None:
    """Regression: without X-Accel-Buffering nginx held them back to the end.

    So it did in a second try, which streams in named locations did not get at all.
    """
    first, second, third = _arrivals(site.plain, path, Accept=accept)
    assert first < 0.35
    assert 0.3 < second - first < 0.7
    assert 0.3 < third - second < 0.7


def test_who_does_not_ask_for_a_stream_is_buffered(site: Site) -> None:
    first, *_, last = _arrivals(site.plain, "/api/events", Accept="*/*")
    assert last - first < 0.2


def test_a_post_may_ask_for_a_stream(site: Site) -> None:
    answer = site.plain.ask("/api/x?y=1", "POST", b"12345", Accept="text/event-stream")
    assert (answer.told["length"], answer.told["path"]) == (5, "/api/x?y=1")
    assert answer.told["port"] == 8000
    assert site.plain.ask("/x", Accept="text/event-stream").told["port"] == 3000


def test_each_path_has_its_timeout(site: Site) -> None:
    with ThreadPoolExecutor() as pool:
        quick = pool.submit(site.plain.ask, "/quick/slow")
        patient = pool.submit(site.plain.ask, "/patient/slow")
    assert (quick.result().status, patient.result().status) == (504, 200)


# --- Bodies ------------------------------------------------------------------------------------


def test_a_second_try_keeps_to_what_the_location_says(site: Site) -> None:
    """Regression: it waited 75 seconds everywhere, and sent no Cache-Control."""
    assert site.plain.ask("/quick/slow?dies-once").status == 504
    answer = site.plain.ask("/cached/x?dies-once")
    assert (answer.status, answer.headers["cache-control"]) == (200, "public, max-age=300")


def test_control_characters_open_no_way_around_a_location(site: Site) -> None:
    """Regression: Python's `$` matches before a newline, the locations of nginx do not."""
    found = _statuses(site.balanced, "/api/admin/login%0a", 14, X_Forwarded_For="198.51.100.5")
    assert found == [400] * 14
    for path in ("/.git%0a", "/closed%0d/", "/api/%7f", "/api/%09"):
        assert site.plain.ask(path).status == 400


@pytest.mark.parametrize(
    "path", ["/closed/../api/x", "/closed/%2E./api/x", "/api/.%2fx", "/.git%2f..%2Fapi/", "/api/.."]
)
def test_dot_segments_open_no_way_around_a_location(site: Site, path: str) -> None:
    """Regression: nginx compared what they resolve to, the application got them as they were."""
    assert site.plain.ask(path).status == 400


@pytest.mark.parametrize(
    "path", ["/api/..x/.y/z..", "/api/a.b?c=/../d", "/api/...", "/api/%2e%2e%2e"]
)
def test_dots_within_names_pass(site: Site, path: str) -> None:
    assert site.plain.ask(path).told["path"] == path


def test_each_path_has_its_body_size(site: Site) -> None:
    two_megabytes = b"x" * 2_000_000
    assert site.plain.ask("/big/", "POST", two_megabytes).told["length"] == 2_000_000
    assert site.plain.ask("/small/", "POST", b"x" * 1000).status == 200
    assert site.plain.ask("/small/", "POST", b"x" * 2000).status == 413
    # A stream of events is another location, with the same limits.
    streamed = site.plain.ask("/small/", "POST", b"x" * 2000, Accept="text/event-stream")
    assert streamed.status == 413
    assert site.plain.ask("/big/", "POST", two_megabytes, Accept="text/event-stream").status == 200


@pytest.mark.parametrize(("path", "comes"), [("/unbuffered/", True), ("/api/", False)])
def test_a_body_is_passed_on_as_it_comes_where_wanted(site: Site, path: str, comes: bool) -> None:
    with socket.create_connection((site.plain.address, 8080), 10) as connection:
        request = f"POST {path}first-byte HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nA"
        connection.sendall(request.encode())
        connection.settimeout(5 if comes else 0.5)
        got = b""
        try:
            while b'"first": "A"' not in got:
                part = connection.recv(65536)  # head and body may come apart
                assert part, got
                got += part
            assert comes
        except TimeoutError:
            assert not comes


# --- Files, redirects, refusals ----------------------------------------------------------------


def test_static_files_are_compressed_and_cached(site: Site) -> None:
    answer = site.plain.ask("/static/app.3f2a.js", Accept_Encoding="gzip")
    assert answer.status == 200
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "javascript" in answer.headers["content-type"]
    assert gzip.decompress(answer.body).startswith(b"let a")
    ready = site.plain.ask("/static/ready.css", Accept_Encoding="gzip")
    assert gzip.decompress(ready.body) == b"precompressed"
    assert site.plain.ask("/static/ready.css").body == b"plain"
    assert site.plain.ask("/robots.txt").body == b"Disallow: /"


def test_what_is_not_there_is_not_cached_and_no_folder_is_listed(site: Site) -> None:
    missing = site.plain.ask("/static/gone.js")
    assert missing.status == 404
    assert "cache-control" not in missing.headers
    assert missing.headers["x-content-type-options"] == "nosniff"
    assert site.plain.ask("/static/").status == 403
    assert site.plain.ask("/media/empty/").status == 403
    assert site.plain.ask("/media/../../etc/crisper/nginx.conf").status == 400
    assert site.plain.ask("/static/ready.css", "POST", b"").status == 405
    folder = site.plain.ask("/media/empty")
    assert (folder.status, folder.headers["location"]) == (301, "/media/empty/")


def test_uploaded_files_run_nothing_on_the_site(site: Site) -> None:
    page = site.plain.ask("/media/page.html")
    assert page.status == 200
    assert page.headers["cache-control"] == "public, max-age=60"
    assert "sandbox" in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    # Browsers do not show PDF in a sandbox.
    assert "content-security-policy" not in site.plain.ask("/media/paper.pdf").headers


def test_no_link_among_uploaded_files_leads_out(site: Site) -> None:
    assert site.plain.ask("/media/link").status == 403


@pytest.mark.parametrize(
    ("path", "status", "location"),
    [
        ("/old/page?a=1", 308, "/new/?a=1"),
        ("/away?b=2", 301, "https://www.example.org/x?y=1"),
        ("/.git/config", 404, None),
        ("/closed/x", 403, None),
    ],
)
def test_redirects_and_refusals(site: Site, path: str, status: int, location: str | None) -> None:
    answer = site.plain.ask(path)
    assert (answer.status, answer.headers.get("location")) == (status, location)
    assert answer.headers["x-frame-options"] == "DENY"


def test_cache_headers_of_services_are_their_own(site: Site) -> None:
    assert site.plain.ask("/cached/").headers["cache-control"] == "public, max-age=300"
    assert site.plain.ask("/cached/own-cache").headers["cache-control"] == "private"
    assert "immutable" in site.plain.ask("/assets/x").headers["cache-control"]
    assert site.plain.ask("/assets/x").headers["x-frame-options"] == "DENY"
    assert "cache-control" not in site.plain.ask("/api/").headers


# --- Limits and the log ------------------------------------------------------------------------


def _statuses(server: Server, path: str, times: int, **headers: str) -> list[int]:
    return [server.ask(path, **headers).status for _ in range(times)]


def test_limits_count_each_client_by_its_real_address(site: Site) -> None:
    """Regression: behind a balancer the limit of logins saw one client."""
    for client in ("198.51.100.1", "198.51.100.2", "2001:db8:0:1::1", "2001:db8:0:2::1"):
        found = _statuses(site.balanced, "/api/search/x", 3, X_Forwarded_For=client)
        assert found == [200, 200, 429], client
        stream = {"Accept": "text/event-stream", "X_Forwarded_For": client}
        assert _statuses(site.balanced, "/api/search", 1, **stream) == [429]
    # Of a /64 that has asked already.
    same = _statuses(site.balanced, "/api/search", 1, X_Forwarded_For="2001:db8:0:1:ffff::9")
    assert same == [429]
    assert site.balanced.ask("/api/other", X_Forwarded_For="198.51.100.1").status == 200


def test_logins_are_limited_and_locations_by_their_own_rate(site: Site) -> None:
    found = _statuses(site.balanced, "/api/admin/login", 14, X_Forwarded_For="198.51.100.3")
    assert found[:11] == [200] * 11
    assert 429 in found[11:]
    assert _statuses(site.balanced, "/api/admin/login", 1, X_Forwarded_For="198.51.100.4") == [200]
    assert _statuses(site.plain, "/api/rare/x", 4) == [200, 200, 200, 429]


def test_each_line_of_the_log_is_json(site: Site) -> None:
    agent = 'a "quoted" \\ \t agent'
    site.balanced.ask(
        "/api/logged?q=%22", X_Forwarded_For="198.51.100.8", User_Agent=agent, Referer="https://r/"
    )
    lines = [json.loads(line) for line in site.balanced.log().splitlines() if line[0] == "{"]
    (line,) = [line for line in lines if line["uri"].startswith("/api/logged")]
    assert line["uri"] == "/api/logged?q=%22"
    assert (line["method"], line["status"], line["client"]) == ("GET", 200, "198.51.100.8")
    assert (line["scheme"], line["user_agent"], line["referer"]) == ("http", agent, "https://r/")
    assert line["upstream_addr"].endswith(":8000")
    assert line["upstream_status"] == "200"
    assert float(line["upstream_time"]) <= line["request_time"] + 0.01
    assert len(line["request_id"]) == 32
    assert line["bytes"] > 0


# --- As a service of the stack -----------------------------------------------------------------


def _free_port() -> int:
    with socket.socket(socket.AF_INET6) as one:
        one.bind(("::", 0))
        return one.getsockname()[1]


def test_the_service_is_healthy_and_answers_on_ipv6(files: Path, tmp_path: Path) -> None:
    """The compose file's own container, with PROXY protocol: its health check does not speak it."""
    http_port, https_port, name = _free_port(), _free_port(), f"{STACK}-service"
    (release,) = rendered(
        [
            inventory(
                stack_name=name,
                stack_root=str(tmp_path),
                stack_bind_address="::",
                stack_http_port=http_port,
                stack_tls="self_signed",
                stack_https_port=https_port,
                stack_server_names=["app.example"],
                stack_trusted_proxies=["198.51.100.0/24"],
                stack_proxy_protocol=True,
            )
        ]
    )
    folder, live = tmp_path / "releases/r1", tmp_path / "live"
    for path, content in release.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    with (folder / ".env").open("a") as stream:
        stream.write("RELEASE=r1\n")
    shutil.copytree(folder / "nginx", live / "nginx")
    shutil.copytree(files / "tls", live / "tls")
    shutil.copytree(files / "static", live / "static")
    upstreams = Upstreams(str(live / "nginx"), {"backend": {"port": 8000}})
    upstreams.prepare("r1")
    upstreams.switch("r1")
    for one in (tmp_path, live, *live.iterdir()):
        one.chmod(0o755)
    compose = ("compose", "--file", str(folder / "docker-compose.prod.yml"))
    try:
        docker(*compose, "up", "--detach", "--no-deps", "--wait", "nginx")
        with socket.create_connection(("::1", http_port), 10) as connection:
            connection.sendall(
                b"PROXY TCP6 2001:db8::9 2001:db8::1 4242 80\r\n"
                b"GET /x HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n"
            )
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        assert f"Location: https://app.example:{https_port}/x" in answer
        seen = docker(
            *compose, "exec", "-T", "nginx", "curl", "-s", "http://127.0.0.1:8081/robots.txt"
        )
        assert seen == "Disallow: /"
    finally:
        docker(*compose, "down", "--volumes")


def test_static_files_come_out_of_an_image(tmp_path: Path) -> None:
    """The archive of the engine itself; tests/unit/proxy/test_static_files.py makes its own."""
    static = StaticDraft(StaticFiles(tmp_path, "r1"))
    static.begin()
    made = docker("create", "--network", "none", NGINX, "true")
    try:
        command = ["docker", "cp", "--follow-link", f"{made}:/etc/nginx", "-"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as copying:
            found = list(static.extract(copying.stdout, "/etc/nginx"))
    finally:
        docker("rm", "--force", made)
    static.publish(["/etc/nginx"])
    assert "/etc/nginx/mime.types" in found
    assert b"text/html" in (tmp_path / "live/static/r1/etc/nginx/mime.types").read_bytes()


def test_nginx_takes_every_generated_site_without_findings(tmp_path: Path) -> None:
    generated = subprocess.run(
        [sys.executable, "entry_sites.py", "40"],
        cwd=ROOT / "tests/unit",
        env={**os.environ, "PYTHONPATH": str(ROOT / "collections")},
        capture_output=True,
        text=True,
        check=True,
    )
    texts = json.loads(generated.stdout)
    assert len(texts) > 10
    for index, text in enumerate(texts):
        (tmp_path / f"{index}.conf").write_text(text)
    tmp_path.chmod(0o755)
    judged = subprocess.run(
        [
            *("docker", "run", "--rm", "--network", "none", "--volume", f"{tmp_path}:/sites:ro"),
            *(NGINX, "sh", "-c", "for one in /sites/*; do nginx -t -c $one; done"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert judged.stderr.count("test is successful") == len(texts), judged.stderr[-3000:]
