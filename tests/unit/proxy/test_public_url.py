"""The public URL, the host and the status of health checks: judged, and what comes of them."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.model.build import stack_model
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from ansible_collections.crisper.stack.plugins.module_utils.proxy import public_url as public
from hypothesis import given
from hypothesis import strategies as st
from stack_values import GOOD, OWN


def site(web: dict[str, Any] | None = None, **values: Any) -> dict[str, Any]:
    """The stack's variables with some others."""
    app = GOOD["stack_app"]
    trusted = {"stack_trusted_proxies": ["10.0.0.0/8"]}
    return {**GOOD, **trusted, **values, "stack_app": {**app, "web": {**app["web"], **(web or {})}}}


@pytest.mark.parametrize(
    "url",
    [
        "app.example.com",
        "ftp://app.example.com",
        "https://app.example.com/shop",
        "https://app.example.com?x=1",
        "https://user:secret@app.example.com",
        "https://app.example.com:0",
        "https://app.example.com:65536",
        "https://-app.example.com",
        "https://\u212a.example",
        "https://10.0.0.256",
        "https://[10.0.0.1]",
        "https://[::1",
        "https://app_1.example.com",
        'https://app.example.com";}',
        "https://app.example.com\n",
        "https://",
        8080,
        False,
    ],
)
def test_a_public_url_that_is_none_is_refused(url: Any):
    (finding,) = validate(site(stack_public_url=url))
    assert finding.startswith("stack_public_url is "), finding
    assert "https://app.example.com" in finding


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        ("https://app.example.com", ("https", "app.example.com", 443)),
        ("HTTPS://App.Example.com/", ("https", "app.example.com", 443)),
        ("http://10.0.0.5:8080", ("http", "10.0.0.5", 8080)),
        ("https://[2001:db8::1]:8443", ("https", "2001:db8::1", 8443)),
        ("https://localhost", ("https", "localhost", 443)),
    ],
)
def test_a_public_url_has_scheme_host_and_port(url: str, parsed: tuple[str, str, int]):
    assert validate(site(stack_public_url=url)) == []
    assert public.parse_url(url) == parsed


@given(
    st.sampled_from(["http", "https"]),
    st.sampled_from(["app.example", "a-1.b", "10.0.0.5", "2001:db8::1"]),
    st.integers(1, 65535),
)
def test_what_is_told_of_a_url_reads_back(scheme: str, host: str, port: int):
    url = f"{scheme}://{public.authority(scheme, host, port)}"
    assert public.parse_url(url) == (scheme, host, port)


def test_a_public_url_without_tls_contradicts_a_certificate():
    (finding,) = validate(OWN | {"stack_public_url": "http://app.example"})
    assert "stack_tls is 'own'" in finding
    assert validate(OWN | {"stack_public_url": "https://app.example"}) == []


@pytest.mark.parametrize(
    "host", ["app example", "app.example/x", "a\r\nX: y", 5, "a:0", '"', "[x]"]
)
def test_a_health_host_that_is_none_is_refused(host: Any):
    (finding,) = validate(site({"health_host": host}))
    assert finding.startswith("stack_app.web.health_host is "), finding


@given(st.text(max_size=40) | st.from_regex(public.AUTHORITY))
def test_a_health_host_that_is_fit_is_one_header(host: str):
    """It stands in a request as it is: nothing that is taken may end the line."""
    if not validate(site({"health_host": host})):
        told = stack_model(site({"health_host": host}))["probes"]["backend"]["host"]
        assert told.isascii()
        assert told.isprintable()
        assert " " not in told


@pytest.mark.parametrize("status", [0, 99, 600, "ok", [], [200, "x"], True, {200: 1}, b"\xc8", 2.5])
def test_a_health_status_that_is_none_is_refused(status: Any):
    (finding,) = validate(site({"health_status": status}))
    assert finding.startswith("stack_app.web.health_status is "), finding


@pytest.mark.parametrize(
    ("web", "values", "host"),
    [
        ({}, {}, "127.0.0.1:8000"),
        ({}, {"stack_server_names": ["App.example", "b.example"]}, "app.example"),
        ({}, {"stack_server_names": ["a.example"], "stack_http_port": 8080}, "a.example:8080"),
        ({}, {"stack_server_names": ["2001:db8::1"]}, "[2001:db8::1]"),
        (
            {},
            {"stack_public_url": "https://www.example:444", "stack_server_names": ["a.example"]},
            "www.example:444",
        ),
        (
            {"health_host": "own.example"},
            {"stack_public_url": "https://www.example"},
            "own.example",
        ),
        ({"health_host": ""}, {"stack_public_url": "https://www.example"}, "www.example"),
    ],
)
def test_the_health_check_asks_for_the_host_that_browsers_ask_for(web, values, host):
    values = site(web, **values)
    assert validate(values) == []
    assert stack_model(values)["probes"]["backend"]["host"] == host


@pytest.mark.parametrize(
    ("given", "status"),
    [(None, [200]), (204, [204]), ([204, 200, 204], [200, 204]), ("200", [200]), (302, [302])],
)
def test_the_model_says_which_status_is_healthy(given, status):
    web = {} if given is None else {"health_status": given}
    values = site(web)
    values["stack_app"]["frontend"] = {"image": "r/x:1", "port": 8080, "health_path": "/up"}
    values["stack_app"]["backend_paths"] = ["/api/"]
    assert validate(values) == []
    assert stack_model(values)["probes"] == {
        "backend": {
            "path": "/health",
            "host": "127.0.0.1:8000",
            "status": status,
            "scheme": "http",
            "port": 8000,
        },
        "frontend": {"path": "/up", "host": "", "status": [200], "scheme": "http", "port": 8080},
    }


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (GOOD, ("http", "", 80, "", "", False)),
        (
            site({"health_host": "localhost:8000"}),
            ("http", "", 80, "localhost:8000", "", False),
        ),
        (
            site(stack_server_names=["a.example"]),
            ("http", "a.example", 80, "a.example", "http://a.example", False),
        ),
        (OWN, ("https", "app.example", 443, "app.example", "https://app.example", False)),
        (
            OWN | {"stack_public_url": "https://w.example:444"},
            ("https", "w.example", 444, "w.example:444", "https://w.example:444", False),
        ),
        (
            site(stack_public_url="https://w.example", stack_http_port=8080),
            ("https", "w.example", 443, "w.example", "https://w.example", True),
        ),
    ],
)
def test_the_model_says_how_browsers_reach_the_site(values, told):
    names = ("scheme", "host", "port", "authority", "url", "in_front")
    assert stack_model(values)["proxy"]["public"] == dict(zip(names, told, strict=True))


def test_a_long_name_is_judged_at_once():
    """Regression: the pattern of names tried every way to cut one into labels."""
    begun = time.monotonic()
    assert not public.HOST.match("a" * 200 + "!")
    assert time.monotonic() - begun < 1
