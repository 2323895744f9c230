"""http_probe against a real server on the loopback."""

from __future__ import annotations

import http.server
import socket
import threading
from pathlib import Path
from typing import Any, ClassVar

import http_probe
import nginx_probe
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.deploy.verify import (
    entry_request,
    http_finding,
    inner_answers,
    leads_to,
    request_paths,
    site_url,
)
from hypothesis import given
from hypothesis import strategies as st

SITE = "https://app.example"


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers 200 to /ok, to /late from the third time on, and to /pass with the header.

    /django is for one host and by HTTPS only; /moved and /elsewhere redirect; /none answers 204.
    """

    late = 0
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Handler.late += self.path == "/late"
        Handler.asked.append(self.path)
        passed = self.path == "/pass" and self.headers.get("X-Crisper-Pass") == "verify"
        good = self.path == "/ok" or passed or (self.path == "/late" and Handler.late > 2)
        status, location = (200 if good else 503), ""
        if self.path == "/none":
            status = 204
        elif self.path == "/moved":
            status, location = 302, "/ok"
        elif self.path == "/elsewhere":
            status, location = 301, "https://other.example/elsewhere"
        elif self.path == "/django" and self.headers["Host"] != "app.example":
            status = 400
        elif self.path == "/django" and self.headers["X-Forwarded-Proto"] != "https":
            status, location = 301, f"{SITE}/django"
        elif self.path == "/django":
            status = 200
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def port():
    Handler.late, Handler.asked = 0, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_paths_and_ports_are_told(run_module, port):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: refused
        result = run_module(
            http_probe,
            url=f"http://127.0.0.1:{port}",
            paths=["/ok", "/late", "/broken", "/pass"],
            maintenance_pass="verify",
            address="127.0.0.1",
            ports=[port, closed.getsockname()[1]],
        )
    assert [answer["status"] for answer in result["answers"]] == [200, 200, 503, 200]
    assert result["open"] == [port]


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_no_proxy_of_the_environment_stands_between(run_module, port, monkeypatch, name):
    """Regression: behind a proxy, the deploy asked that proxy for the server's own entry point."""
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))  # bound and not listening: refused
        monkeypatch.setenv(name, f"http://127.0.0.1:{dead.getsockname()[1]}")
        for other in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(other, raising=False)
        url = f"http://127.0.0.1:{port}"
        result = run_module(http_probe, url=url, paths=["/ok"], retries=0)
    assert result["answers"][0]["status"] == 200, result["answers"]


def test_no_answer_is_told_with_its_reason(run_module):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        result = run_module(http_probe, url=url, paths=["/"], retries=0)
    (answer,) = result["answers"]
    assert answer["status"] == -1
    assert "refused" in answer["msg"]


def test_only_http_is_asked(run_module):
    result = run_module(http_probe, url="file:///etc/passwd", paths=["/"])
    assert result["failed"]
    assert "give http://" in result["msg"]


def test_a_site_that_the_controller_does_not_reach_is_a_finding_with_a_way_out():
    silent = http_finding({"url": "http://192.0.2.7:80/health", "status": -1, "msg": "timed out"})
    assert "did not answer (timed out) from the controller" in silent
    assert "verify_url" in silent
    answered = http_finding({"url": "http://192.0.2.7:80/health", "status": 503, "msg": ""})
    assert "answered 503" in answered
    assert "verify_url" not in answered
    assert "to Host" not in answered


def test_a_redirect_is_not_followed(run_module, port):
    """Regression: verify followed redirects, and called what it found elsewhere the answer."""
    url = f"http://127.0.0.1:{port}"
    (answer,) = run_module(http_probe, url=url, paths=["/moved"], retries=0)["answers"]
    assert (answer["status"], answer["location"], answer["ok"]) == (302, "/ok", False)
    assert Handler.asked == ["/moved"]
    finding = http_finding(answer)
    assert "/moved answered 302, Location “/ok”, (expected 200)" in finding
    assert "stack_public_url" in finding


def test_each_path_is_held_against_its_own_status(run_module, port):
    paths = ["/none", {"path": "/none", "status": [200, 204]}, {"path": "/moved", "status": [302]}]
    url = f"http://127.0.0.1:{port}"
    result = run_module(http_probe, url=url, paths=paths, retries=0)
    assert [answer["ok"] for answer in result["answers"]] == [False, True, True]
    result = run_module(http_probe, url=url, paths=paths, status=[204], retries=0)
    assert [answer["ok"] for answer in result["answers"]] == [True, True, True]
    assert "failed" in run_module(http_probe, url=url, paths=[{"status": [1]}])


def test_the_site_is_asked_for_by_its_host(run_module, port):
    """Regression: Django answers 400 to the address of the server."""
    url = f"http://127.0.0.1:{port}"
    (answer,) = run_module(http_probe, url=url, paths=["/django"], retries=0)["answers"]
    assert (answer["status"], answer["ok"]) == (400, False)
    assert "ALLOWED_HOSTS" in http_finding(answer)
    headers = {"Host": "app.example", "X-Forwarded-Proto": "https"}
    result = run_module(http_probe, url=url, paths=["/django"], headers=headers, retries=0)
    assert result["answers"][0]["ok"]


def test_a_redirect_to_the_site_itself_says_that_the_application_answers(run_module, port):
    """Regression: TLS ended in front; verify followed the redirect, and undid the deploy."""
    given = {"url": f"http://127.0.0.1:{port}", "headers": {"Host": "app.example"}, "retries": 0}
    paths = ["/django", "/elsewhere"]
    result = run_module(http_probe, **given, paths=paths, redirects_to=SITE)
    assert [answer["ok"] for answer in result["answers"]] == [True, False]
    result = run_module(http_probe, **given, paths=paths)
    assert [answer["ok"] for answer in result["answers"]] == [False, False]


@pytest.mark.parametrize(
    ("said", "seconds", "why"),
    [
        # Regression: these came as a traceback of http.client.
        (b"HTTP/1.1 2", 0, "not HTTP"),
        (b"220 mail ESMTP\r\n", 0, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", 0, "cut off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", 9, "timed out"),
        (b"", 9, "timed out"),
        (b"", 0, "closed connection"),
    ],
)
def test_what_is_no_whole_answer_is_told_with_its_reason(run_module, raw, said, seconds, why):
    url = f"http://127.0.0.1:{raw(said, seconds)}"
    result = run_module(http_probe, url=url, paths=["/"], retries=0, timeout=0.5)
    (answer,) = result["answers"]
    assert (answer["status"], answer["ok"]) == (-1, False)
    assert why in answer["msg"]


PLAIN = {"tls": "", "scheme": "http", "host": "", "port": 80}
PUBLIC = {
    "scheme": "https",
    "host": "app.example",
    "port": 443,
    "url": SITE,
    "authority": "app.example",
    "in_front": True,
}
OWN = {"tls": "own", "scheme": "https", "host": "a.example", "port": 8443}


@pytest.mark.parametrize(
    ("proxy", "url", "asked"),
    [
        # A release of before knows nothing of a public URL.
        (PLAIN, "", ("http://192.0.2.1:80", "", False, "", False)),
        (OWN, "", ("https://a.example:8443", "", True, "", False)),
        (PLAIN | {"public": PUBLIC}, "", ("http://192.0.2.1:80", "app.example", False, SITE, True)),
        (
            OWN | {"public": {**PUBLIC, "in_front": False}},
            "",
            ("https://a.example:8443", "app.example", True, "", False),
        ),
        # Asked by its own URL, a redirect to it would be one for ever.
        (PLAIN | {"public": PUBLIC}, SITE + "/", (SITE, "", False, "", True)),
        (
            PLAIN | {"public": PUBLIC},
            "http://192.0.2.9:8080",
            ("http://192.0.2.9:8080", "app.example", False, SITE, True),
        ),
    ],
)
def test_how_the_site_is_asked_for(proxy: dict[str, Any], url: str, asked: tuple[Any, ...]):
    found = entry_request(proxy, url, "192.0.2.1")
    names = ("url", "host", "pinned", "redirects_to", "inside")
    assert tuple(found[name] for name in names) == asked


@pytest.mark.parametrize(
    ("proxy", "shown"),
    [
        (PLAIN, "http://192.0.2.1"),
        (PLAIN | {"port": 8080}, "http://192.0.2.1:8080"),
        (OWN, "https://a.example:8443"),
        # Regression: by its address, a site with a name answers 421.
        (PLAIN | {"public": {**PUBLIC, "in_front": False}}, SITE),
        (PLAIN | {"public": {**PUBLIC, "url": ""}}, "http://192.0.2.1"),
    ],
)
def test_people_are_shown_the_url_that_browsers_have(proxy: dict[str, Any], shown: str) -> None:
    assert site_url(proxy, "192.0.2.1") == shown
    assert entry_request(proxy, "", "192.0.2.1")["shown"] == shown
    assert entry_request(proxy, "http://10.0.0.1:81/", "192.0.2.1")["shown"] == "http://10.0.0.1:81"


PROBES = {"backend": {"path": "/up", "status": [204]}, "frontend": {"path": "/", "status": [200]}}


@pytest.mark.parametrize(
    ("paths", "probes", "found"),
    [
        (["/up", "/", "/x"], PROBES, [("/up", [204]), ("/", [200]), ("/x", [200])]),
        ([{"path": "/up"}], PROBES, [("/up", [204])]),
        ([{"path": "/up", "status": 200}], PROBES, [("/up", [200])]),
        ([{"path": "/x", "status": [302, "200"]}], PROBES, [("/x", [200, 302])]),
        # A release of before: its redirects were followed when it was deployed.
        (["/up"], {}, [("/up", [200, 301, 302, 303, 307, 308])]),
    ],
)
def test_what_is_expected_of_each_path(paths, probes, found):
    told = [(entry["path"], entry["status"]) for entry in request_paths(paths, probes)]
    assert told == found


@pytest.mark.parametrize("path", ["up", 5, None, {}, {"path": "/", "status": "ok"}, {"path": 1}])
def test_a_path_that_is_none_is_refused(path):
    with pytest.raises(ValueError, match=r"verify_paths\[1\] is .*give a path"):
        request_paths(["/", path], PROBES)


@pytest.mark.parametrize(
    ("status", "location", "leads"),
    [
        (301, "https://app.example/up?a=1", True),
        (308, "https://APP.example:443/up?a=1", True),
        (200, "https://app.example/up?a=1", False),
        (301, "https://app.example/up", False),
        (301, "https://app.example/login?a=1", False),
        (301, "http://app.example/up?a=1", False),
        (301, "https://app.example.org/up?a=1", False),
        (301, "https://app.example:444/up?a=1", False),
        (301, "https://app.example:99999/up?a=1", False),
        (301, "/up?a=1", False),
        (301, "", False),
    ],
)
def test_where_a_redirect_leads(status, location, leads):
    assert leads_to(status, location, f"{SITE}/up?a=1") is leads


@given(st.integers(), st.text())
def test_no_location_leads_astray(status, location):
    leads_to(status, location, SITE)


# --- From inside the container of nginx ---------------------------------------------------------


@pytest.fixture
def docker(tmp_path: Path) -> str:
    """A Docker whose containers are this machine."""
    path = tmp_path / "docker"
    path.write_text('#!/bin/sh\ncase "$1" in ps) echo abc;; exec) shift 3; exec "$@";; esac\n')
    path.chmod(0o755)
    return str(path)


def test_nginx_is_asked_from_inside_with_the_scheme_of_the_site(run_module, port, docker):
    paths = [{"path": "/django", "status": [200]}, {"path": "/none", "status": [204]}]
    given = {"project": "x", "port": port, "docker_cli": docker, "retries": 0, "paths": paths}
    headers = {"Host": "app.example", "X-Forwarded-Proto": "https"}
    result = run_module(nginx_probe, **given, headers=headers)
    assert [answer["ok"] for answer in result["answers"]] == [True, True]
    result = run_module(nginx_probe, **given, headers={"Host": "app.example"})
    assert [answer["ok"] for answer in result["answers"]] == [False, True]
    answer = result["answers"][0]
    assert (answer["status"], answer["location"]) == (301, f"{SITE}/django")
    assert "inside the container of nginx answered 301" in http_finding(answer, "app.example")


def test_a_host_that_nginx_refuses_is_told_with_the_variable():
    told = http_finding({"url": "http://x/", "status": 421, "expected": [200]}, "x")
    assert "add the name to stack_server_names or stack_accepted_hosts" in told


def test_the_token_is_sent_and_stands_in_no_argument(run_module, port, docker):
    given = {"project": "x", "port": port, "docker_cli": docker, "retries": 0}
    given["paths"] = [{"path": "/pass", "status": [200]}]
    assert run_module(nginx_probe, **given)["answers"][0]["ok"]  # of an older edition
    assert (
        run_module(nginx_probe, **given, maintenance_pass="t" * 43)["answers"][0]["status"] == 503
    )
    params = {**given, "headers": {}, "timeout": 1, "maintenance_pass": "t" * 43}
    assert "t" * 43 not in " ".join(nginx_probe.curl(params))


@pytest.mark.parametrize("name", ["http_proxy", "all_proxy"])
def test_nginx_is_asked_without_a_proxy_and_again(run_module, port, docker, monkeypatch, name):
    monkeypatch.setenv(name, "http://127.0.0.1:1")
    paths = [{"path": "/late", "status": [200]}]
    result = run_module(nginx_probe, project="x", port=port, docker_cli=docker, paths=paths)
    assert result["answers"][0]["ok"], result


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("exit 0", "no container of service nginx of project x runs"),
        ('[ "$1" = ps ] && echo abc || { echo "it is gone" >&2; exit 1; }', "it is gone"),
    ],
)
def test_a_container_that_is_not_there_is_told(run_module, docker, script, why):
    Path(docker).write_text(f"#!/bin/sh\n{script}\n")
    given = {"project": "x", "docker_cli": docker, "retries": 0}
    result = run_module(nginx_probe, **given, paths=[{"path": "/", "status": [200]}])
    (answer,) = result["answers"]
    assert (answer["ok"], answer["status"]) == (False, -1)
    assert why in http_finding(answer)
    assert "verify_url" not in http_finding(answer)


def test_nginx_that_does_not_listen_is_told(run_module, docker):
    given = {"project": "x", "docker_cli": docker, "retries": 0, "port": 1}
    result = run_module(nginx_probe, **given, paths=[{"path": "/", "status": [200]}])
    assert "connect" in result["answers"][0]["msg"]


@given(st.text(), st.text())
def test_whatever_curl_prints_there_is_an_answer_for_each_path(out, err):
    paths = [{"path": "/", "status": [200]}, {"path": "/x", "status": [204]}]
    assert len(inner_answers(paths, "http://x", out, err)) == 2
