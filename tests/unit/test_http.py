"""HTTPS by a name to an address, and the probes that use it, against a real server."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import deploy_ledger
import http_probe
import pytest
from ansible_collections.crisper.stack.plugins.module_utils import http as https
from ansible_collections.crisper.stack.plugins.module_utils.http import connect, trusting
from ansible_collections.crisper.stack.plugins.module_utils.probes import ledger as ledger_probe
from ansible_collections.crisper.stack.plugins.module_utils.proxy.certificate import blocks
from ansible_collections.crisper.stack.plugins.module_utils.proxy.certificate_files import (
    self_signed,
)

NAME = "app.example"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers 200, or redirects to where the server says."""

    def do_GET(self) -> None:
        self.server.hosts.append(self.headers["Host"])
        self.send_response(301 if self.server.location else 200)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


class Server(http.server.ThreadingHTTPServer):
    """With an address to redirect to."""

    location = ""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.hosts: list[str] = []


def serve(pem: Path | None = None) -> Server:
    server = Server(("127.0.0.1", 0), Handler)
    if pem:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def pem(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "front.pem"
    path.write_text(self_signed([NAME], 30))
    return path


@pytest.fixture
def secure(pem) -> Iterator[Server]:
    server = serve(pem)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def plain() -> Iterator[Server]:
    server = serve()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def trusted(pem) -> str:
    return "".join(blocks(pem.read_text())[0])


def test_the_name_and_the_certificate_must_be_right(secure, trusted):
    port = secure.server_address[1]
    connection = connect("127.0.0.1", port, NAME, trusting(trusted), 5)
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
    connection.close()
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect("127.0.0.1", port, "other.example", trusting(trusted), 5)
    another = blocks(self_signed([NAME], 30))[0][0]
    with pytest.raises(ssl.SSLCertVerificationError):
        connect("127.0.0.1", port, NAME, trusting(another), 5)


def test_the_entry_point_is_asked_by_its_name_at_its_address(run_module, secure, trusted):
    arguments = {
        "connect_to": "127.0.0.1",
        "certificates": trusted,
        "paths": ["/", "/x"],
        "retries": 0,
    }
    port = secure.server_address[1]
    good = run_module(http_probe, url=f"https://{NAME}:{port}", **arguments)
    assert [answer["status"] for answer in good["answers"]] == [200, 200]
    bad = run_module(http_probe, url=f"https://other.example:{port}", **arguments)
    assert {answer["status"] for answer in bad["answers"]} == {-1}
    assert "Hostname mismatch" in bad["answers"][0]["msg"]


def test_an_address_without_certificates_is_refused(run_module):
    result = run_module(http_probe, url="https://x", connect_to="127.0.0.1")
    assert "certificates" in result["msg"]


def request(plain: Server, secure: Server) -> dict[str, object]:
    ports = {"port": plain.server_address[1], "secure_port": secure.server_address[1]}
    site = {"site_host": "", "site_scheme": "https"}
    return {"host": "127.0.0.1", "path": "/", **site, **ports}


def test_the_ledger_follows_a_redirect_to_https_and_checks_the_name(plain, secure, trusted):
    asked, context = request(plain, secure), trusting(trusted)
    assert ledger_probe.ask(asked, context) == 200
    plain.location = f"https://{NAME}/"
    assert ledger_probe.ask(asked, context) == 200
    assert secure.hosts == [NAME], "a browser leaves out the port of HTTPS"
    asked["site_host"] = "www.example"
    assert ledger_probe.ask(asked, context) == 200
    assert (plain.hosts[-1], secure.hosts[-1]) == ("www.example", "www.example")
    plain.location = "https://other.example/"
    with pytest.raises(ssl.SSLCertVerificationError):
        ledger_probe.ask(asked, context)


def test_without_tls_a_redirect_of_the_application_is_an_answer(plain, secure):
    plain.location = f"https://{NAME}/"
    assert ledger_probe.ask(request(plain, secure), None) == 301


@pytest.mark.parametrize("key", ["front", "proxy"])  # of an older edition, and of this one
@pytest.mark.parametrize("source", ["", "self_signed"])
def test_the_ledger_trusts_what_the_release_that_serves_shows(tmp_path, pem, trusted, source, key):
    manifest = {"model": {key: {"tls": source}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    params = {"project_src": str(tmp_path), "tls_folder": str(pem.parent)}
    entry = deploy_ledger.serving(params)["proxy"]
    assert deploy_ledger.installed_certificates(params, entry) == (trusted if source else "")


@pytest.mark.parametrize(
    ("entry", "port"),
    [
        ({}, 8080),
        ({"tls": ""}, 8080),  # a release of before
        ({"tls": "", "internal_port": 8081, "proxy_protocol": False}, 8081),
        ({"tls": "own", "internal_port": 8081, "proxy_protocol": False}, 8080),
        ({"tls": "own", "internal_port": 8081, "proxy_protocol": True}, 8081),
    ],
)
def test_the_ledger_comes_in_as_browsers_do_where_it_can(entry, port):
    assert deploy_ledger.port(entry) == port


@pytest.mark.parametrize(
    ("ends", "line"),
    [
        ((("10.0.0.1", 5), ("10.0.0.2", 80)), b"PROXY TCP4 10.0.0.1 10.0.0.2 5 80\r\n"),
        ((("::1", 5, 0, 0), ("fd00::2", 443, 0, 0)), b"PROXY TCP6 ::1 fd00::2 5 443\r\n"),
    ],
)
def test_the_header_of_the_proxy_protocol(ends, line):
    assert https.proxy_line(*ends) == line


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_an_answer_that_drips_is_not_waited_for(head: bytes) -> None:
    """Regression: a health path that streams held the verification of a deploy for ever."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            client, _ = server.accept()
            with client, contextlib.suppress(OSError):
                client.sendall(head)
                while True:
                    client.sendall(b"x")
                    time.sleep(0.1)

        threading.Thread(target=drip, daemon=True).start()
        began = time.monotonic()
        connection = connect(*server.getsockname(), NAME, None, timeout=0.5)
        with pytest.raises(TimeoutError):
            https.get(connection, "/", {})
        assert time.monotonic() - began < 30
