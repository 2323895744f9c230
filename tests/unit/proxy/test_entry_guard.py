"""What the entry point keeps away, as nginx's configuration says it; the attacks meet a real nginx.

See tests/integration/test_entry_guard_nginx.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from ansible_collections.crisper.stack.plugins.module_utils.proxy import guard, maintenance_pass
from entry_sites import site
from front_files import blocks, nginx
from hypothesis import given
from hypothesis import strategies as st
from stack_values import GOOD

TOKEN = "t" * 43
TRUSTED = {"stack_trusted_proxies": ["10.0.0.0/8"]}
NAMED = {"stack_server_names": ["app.example", "2001:DB8::1"]}
HOST_WITH_PORT = guard.HOST_WITH_PORT.replace(r"\z", r"\Z")


def mapped(text: str, opening: str) -> list[tuple[str, str]]:
    """Patterns and values of a map of nginx, in their order."""
    (inner,) = blocks(text, f"map {opening}")
    found = re.findall(r'("(?:[^"\\]|\\.)*"|\S+)\s+("[^"]*"|[^\s;]+);', inner)
    return [(key.strip('"').replace("\\\\", "\\"), value.strip('"')) for key, value in found]


def look_up(table: list[tuple[str, str]], asked: str) -> str:
    """What a map gives for a value; nginx takes whole texts before regular expressions."""
    default = dict(table).get("default", "")
    for key, value in table:
        if not key.startswith("~") and key not in ("default", "volatile") and key == asked:
            return value
    for key, value in table:
        if key.startswith("~"):
            pattern = key[1:].removeprefix("*").replace(r"\z", r"\Z").replace("(?<", "(?P<")
            if re.search(pattern, asked, re.IGNORECASE if key.startswith("~*") else 0):
                return value
    return default


# --- Findings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stack_login_paths": "/login"}, "stack_login_paths is '/login': give a list of paths"),
        ({"stack_login_paths": ["login"]}, "stack_login_paths[0] is 'login': give a path"),
        ({"stack_login_paths": ["/"]}, "stack_login_paths[0] is '/': give a path"),
        ({"stack_login_paths": ["/a/../login"]}, "stack_login_paths[0] is '/a/../login'"),
        ({"stack_login_limit": "1r/s"}, "stack_login_limit is '1r/s': give a mapping"),
        ({"stack_login_limit": {"rate": "1/s"}}, "stack_login_limit.rate is '1/s': give requests"),
        ({"stack_login_limit": {"burst": -1}}, "stack_login_limit.burst is -1: give a whole"),
        ({"stack_login_limit": {"methods": ["POST"]}}, "has the key 'methods': give rate and"),
        ({"stack_client_connections": "many"}, "stack_client_connections is 'many': give a number"),
        ({"stack_client_connections": 65536}, "stack_client_connections is 65536"),
        ({"stack_header_timeout": 0}, "stack_header_timeout is 0: give a whole number of seconds"),
        ({"stack_body_timeout": "30s"}, "stack_body_timeout is '30s': give a whole number"),
        ({"stack_accepted_hosts": "a.example"}, "stack_accepted_hosts is 'a.example': give a list"),
        ({"stack_accepted_hosts": ["a.example:80"]}, "[0] is 'a.example:80': give a host name"),
        ({"stack_accepted_hosts": ["*example"]}, "stack_accepted_hosts[0] is '*example'"),
        ({"stack_accepted_hosts": ["*.10.0.0.1/8"]}, "stack_accepted_hosts[0] is '*.10.0.0.1/8'"),
        (
            {"stack_rate_limits": [{"path": "/x", "rate": "1r/s", "methods": ["post"]}]},
            "[0].methods is ['post']: give a list of GET,",
        ),
        (
            {"stack_rate_limits": [{"path": "/x", "rate": "1r/s", "methods": "POST"}]},
            "[0].methods is 'POST': give a list",
        ),
        (
            {"stack_security_headers": {"Transfer-Encoding": "chunked"}},
            "stack_security_headers.Transfer-Encoding: this header is about one connection",
        ),
        ({"stack_security_headers": {"connection": "close"}}, "about one connection"),
        ({"stack_security_headers": {"Content-Length": "0"}}, "describes one answer"),
        (
            {"stack_security_headers": {"X-Frame-Options": "a", "x-frame-options": "b"}},
            "stack_security_headers has 'x-frame-options' 2 times",
        ),
        (
            {"stack_secrets": {"maintenance_pass": "x"}},
            "made on the server (docs/ENTRY.md): choose another name",
        ),
        (
            {"app": {"secret_environment": {"A": "maintenance_pass"}}},
            "stack_app.secret_environment.A names maintenance_pass",
        ),
    ],
)
def test_a_bad_value_is_one_clear_error(values: dict[str, Any], said: str) -> None:
    given_site = site(**values)
    if "stack_secrets" in values:
        given_site["stack_secrets"] = GOOD["stack_secrets"] | values["stack_secrets"]
    (finding,) = validate(given_site)
    assert said in finding
    assert finding.endswith(".")


@given(
    st.sampled_from([*guard.FORMS, "stack_login_paths", "stack_login_limit"])
    | st.sampled_from(["stack_accepted_hosts", "stack_security_headers", "stack_secrets"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
        ),
        max_leaves=6,
    ),
)
def test_no_value_breaks_the_judge_or_the_model(name: str, value: Any) -> None:
    values = {"stack_app": GOOD["stack_app"], name: value}
    if not list(guard.guard_problems(values)):
        guard.guard_model(values, [], [], [])


# --- Logins ------------------------------------------------------------------------------------


def test_logins_of_django_and_the_reference_application_are_limited_by_default():
    """Regression: `/admin/login/` was not, and nothing was that backend_paths did not list."""
    defaults = site(app={"backend_paths": ["/api/", "/admin/"]})
    text = nginx(stack_app=defaults["stack_app"], **login_defaults())
    table = mapped(text, "$uri $login_client")
    for path in ("/admin/login/", "/admin/login", "/api/admin/login", "/Admin/Login/"):
        assert look_up(table, path) == "$client_network", path
    for path in ("/admin/", "/admin/login/x", "/xadmin/login", "/admin/login-help", "/"):
        assert look_up(table, path) == "", path
    # Of the server: a location without a limit of its own takes all of these over.
    (line,) = re.findall(r"^( *)limit_req (.*)$", text, re.MULTILINE)
    assert line == (" " * 8, "zone=logins burst=10 nodelay;")


def login_defaults() -> dict[str, Any]:
    return {"stack_login_paths": ["/login", "/admin/login", "/api/admin/login"]}


def test_zones_of_logins_are_not_named_as_those_of_older_editions():
    """nginx refuses to reload when a zone counts by another key: the deploy would fail."""
    zones = re.findall(r"limit_(?:req|conn)_zone (\S+) zone=(\w+)", nginx(**login_defaults()))
    assert ("$client_network", "login") not in zones
    assert "login" not in dict(zones).values()


def test_a_login_with_a_limit_of_its_own_has_only_that():
    own = {"path": "/login", "kind": "backend", "rate_limit": {"rate": "5r/m"}, "exact": True}
    text = nginx(stack_app=site(own)["stack_app"], **login_defaults())
    table = mapped(text, "$uri $login_client")
    assert look_up(table, "/login") == ""
    assert look_up(table, "/login/") == "$client_network"
    assert look_up(mapped(text, "$uri $limit_0"), "/login") == "$client_network"


def test_without_login_paths_nothing_is_limited():
    app = site(app={"backend_paths": ["/api/"]})["stack_app"]
    assert "logins" not in nginx(stack_app=app, stack_login_paths=[])


@pytest.mark.parametrize(
    ("rate", "seconds"), [("10r/s", 1), ("1r/s", 1), ("60r/m", 1), ("7r/m", 9), ("1r/m", 60)]
)
def test_retry_after_is_the_time_until_the_next_request_passes(rate: str, seconds: int) -> None:
    assert guard.seconds_between(rate) == seconds


def test_an_answer_429_of_nginx_says_when_to_come_again():
    limits = [
        {"path": "/api/", "rate": "10r/s"},
        {"path": "/api/slow", "rate": "2r/m", "methods": ["POST"]},
        {"path": "/api/slow/er", "rate": "1r/m"},
    ]
    text = nginx(stack_rate_limits=limits, **login_defaults())
    table = mapped(text, '"$request_method $uri" $limit_wait')
    for request, seconds in {
        "GET /api/x": "1",
        "POST /api/slow": "30",
        "GET /api/slow": "1",
        "GET /api/slow/er": "60",
        "POST /login": "1",
    }.items():
        assert look_up(table, request) == seconds, request
    again = mapped(text, '"$status $upstream_status" $retry_after')
    assert look_up(again, "429 ") == "$limit_wait"
    # The application's own says what it likes.
    assert look_up(again, "429 429") == look_up(again, "200 200") == ""


def test_a_limit_may_count_some_methods_only():
    text = nginx(stack_rate_limits=[{"path": "/x", "rate": "1r/s", "methods": ["POST", "PUT"]}])
    table = mapped(text, '"$request_method $uri" $limit_0')
    assert look_up(table, "POST /x/y") == look_up(table, "PUT /x") == "$client_network"
    assert look_up(table, "GET /x") == look_up(table, "POST /a/x") == ""
    assert look_up(table, "POST /health") == ""


# --- Hosts -------------------------------------------------------------------------------------


def refused(text: str, *, host: str, port: int = 8080, **given_values: str) -> bool:
    """Whether the maps refuse a request, as nginx would follow them."""
    name = re.sub(r":[0-9]+\Z", "", given_values.get("target", host)).lower()
    from_proxy = "1" if given_values.get("proxy") or port == 8081 else "0"
    forwarded = given_values.get("forwarded", "")
    asked = forwarded if forwarded and from_proxy == "1" else host
    any_host = look_up(mapped(text, "$uri $any_host"), given_values.get("path", "/"))
    own = "yes" if given_values.get("own") else ""
    known = look_up(mapped(text, "$forwarded_host $known_host"), asked)
    named = look_up(mapped(text, "$host $known_name"), name.rstrip("."))
    variables = (
        '"$server_port $any_host$client_is_proxy $from_proxy$http_x_forwarded_host'
        ' $known_host $known_name" $foreign_host'
    )
    request = f"{port} {any_host}{own} {from_proxy}{forwarded} {known} {named}"
    return bool(look_up(mapped(text, variables), request))


@pytest.mark.parametrize(
    ("request_", "is_refused"),
    [
        ({"host": "app.example"}, False),
        ({"host": "APP.example.:8443"}, False),
        ({"host": "[2001:db8::1]:80"}, False),
        ({"host": "evil.example"}, True),
        ({"host": "app.example.evil.example"}, True),
        ({"host": "appXexample"}, True),
        ({"host": "192.0.2.1"}, True),
        ({"host": ""}, True),
        # A URL as the target has another host than the header.
        ({"host": "app.example", "target": "evil.example"}, True),
        ({"host": "evil.example", "target": "app.example"}, True),
        # Health checks: the stack's own, a balancer's by address, a proxy's own request.
        ({"host": "192.0.2.1", "path": "/-/nginx"}, False),
        ({"host": "192.0.2.1", "path": "/health"}, False),
        ({"host": "192.0.2.1", "path": "/health/x"}, True),
        ({"host": "192.0.2.1", "port": 8081}, False),
        ({"host": "192.0.2.1", "proxy": "x", "own": "x"}, False),
        ({"host": "192.0.2.1", "proxy": "x"}, True),
        # A proxy that rewrites Host says the client's besides; nobody else may.
        ({"host": "inner", "proxy": "x", "forwarded": "app.example"}, False),
        ({"host": "inner", "proxy": "x", "forwarded": "evil.example"}, True),
        ({"host": "evil.example", "forwarded": "app.example"}, True),
        ({"host": "evil.example", "forwarded": "1 yes yes"}, True),
    ],
)
def test_requests_to_other_hosts_are_refused_once_there_are_names(
    request_: dict[str, Any], is_refused: bool
) -> None:
    """Regression: `evil.example` came back in a redirect of the application."""
    text = nginx(**NAMED, **TRUSTED)
    assert refused(text, **request_) is is_refused
    assert "if ($foreign_host) { return 421; }" in text


@given(st.integers(0, 200_000))
def test_a_port_is_one_that_there_is(port: int) -> None:
    """Regression: with port 99999 a redirect of Starlette named the container's address."""
    there_is = 1 <= port <= 65535
    for host in ("app.example", "[2001:db8::1]", "192.0.2.1"):
        assert bool(re.search(HOST_WITH_PORT, f"{host}:{port}")) is there_is
    assert not re.search(HOST_WITH_PORT, f"app.example:0{port}")
    assert not re.search(HOST_WITH_PORT, f"app.example:{port}:{port}")
    known = guard._hosts(NAMED)["header"].removeprefix("~*").replace(r"\z", r"\Z")
    assert bool(re.search(known, f"app.example:{port}")) is there_is


@pytest.mark.parametrize(
    ("host", "fits"),
    [
        ("", True),  # of HTTP/1.0
        ("app.example", True),
        ("a_b.example.", True),
        ("[::1]", True),
        ("::1", False),
        ("app.example:", False),
        ("app.example:http", False),
        ("app.example:80\n", False),
        ("[::1]:0", False),
    ],
)
def test_a_host_is_refused_for_its_port_with_names_and_without(host: str, fits: bool) -> None:
    assert bool(re.search(HOST_WITH_PORT, host)) is fits


@pytest.mark.parametrize("values", [{}, NAMED], ids=["no names", "named"])
def test_both_ask_for_a_port_and_no_redirect_names_a_container(values: dict[str, Any]) -> None:
    text = nginx(**values)
    pattern = guard.HOST_WITH_PORT.replace("\\", "\\\\")
    assert f'if ($http_host !~ "{pattern}") {{ return 400; }}' in text
    assert "proxy_redirect http://$upstream_own/ /;" in text
    table = mapped(text, "$upstream_addr $upstream_own")
    (pattern,) = (key for key, _ in table if key.startswith("~"))
    pattern = pattern[1:].replace(r"\z", r"\Z").replace("(?<", "(?P<")
    for asked, own in {
        "172.26.0.2:8000": "172.26.0.2:8000",
        "172.26.0.2:80": "172.26.0.2",
        "172.26.0.3:8000, 172.26.0.2:8000": "172.26.0.2:8000",
        "172.26.0.3:80, 172.26.0.4:80 : 172.26.0.2:80": "172.26.0.2",
    }.items():
        assert re.search(pattern, asked)["asked_at"] == own


@pytest.mark.parametrize(
    "values", [{}, {**NAMED, "stack_accepted_hosts": ["*"]}], ids=["no names", "any"]
)
def test_without_names_every_host_is_taken(values: dict[str, Any]) -> None:
    assert "421" not in nginx(**values)


def test_further_names_and_those_below_a_name_are_accepted():
    web = {**GOOD["stack_app"]["web"], "health_host": "probe.example:81"}
    values = {
        **GOOD,
        "stack_public_url": "http://Public.example",
        "stack_accepted_hosts": ["*.shop.example", "10.0.0.7"],
        "stack_app": {**GOOD["stack_app"], "web": web},
    }
    assert validate(values) == []
    own = ["public.example", "probe.example", "*.shop.example", "10.0.0.7"]
    assert guard.accepted_hosts(values) == own
    text = nginx(stack_accepted_hosts=["*.shop.example", "10.0.0.7"])
    for host in ("a.shop.example", "a_b.c-d.shop.example:8080", "10.0.0.7"):
        assert not refused(text, host=host), host
    for host in ("shop.example", ".shop.example", "ashop.example", "app.example"):
        assert refused(text, host=host), host


# --- Headers and slow clients ------------------------------------------------------------------


def test_headers_that_frameworks_believe_come_from_nginx_or_a_proxy():
    text = nginx(**TRUSTED)
    given_headers = dict(re.findall(r"proxy_set_header (\S+) ([^;]+);", text))
    for name in ("X-Scheme", "X-Original-Url", "X-Rewrite-Url", "Proxy", "X-Crisper-Pass"):
        assert given_headers[name] == '""', name
    for name in ("X-Forwarded-Prefix", "Forwarded", "Remote-User", "X-Ssl-Client-Verify"):
        variable = "believed_" + name.lower().replace("-", "_")
        assert given_headers[name] == f"${variable}"
        assert look_up(mapped(text, f"$from_proxy ${variable}"), "0") == ""
    lower = [name.lower() for name in (*guard.BELIEVED_HEADERS, *guard.DROPPED_HEADERS)]
    own = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"}
    assert len(lower) == len(set(lower))
    assert not {*own, "x-real-ip", "x-request-id", "host", "cookie", "authorization"} & set(lower)


@pytest.mark.parametrize(
    ("memory", "value", "number"),
    [("256m", "auto", 1024), ("4g", "auto", 2048), ("6m", "auto", 128), ("256m", 9, 9)],
)
def test_one_client_takes_half_of_the_requests_at_most(
    memory: str, value: Any, number: int
) -> None:
    limits = {**GOOD["stack_limits"], "nginx": {"memory": memory, "cpus": 0.5}}
    text = nginx(stack_limits=limits, stack_client_connections=value)
    assert f"limit_conn clients {number};" in text
    assert look_up(mapped(text, "$server_port $busy_client"), "8081") == ""


def test_a_client_may_have_any_number_of_requests():
    assert "zone=clients" not in nginx(stack_client_connections=0)
    assert "limit_conn clients" not in nginx(stack_client_connections=0)


def test_slow_clients_are_cut_off():
    text = nginx(stack_header_timeout=7, stack_body_timeout="9")
    for line in ("client_header_timeout 7s;", "client_body_timeout 9s;"):
        assert line in text
    assert "reset_timedout_connection on;" in text
    assert "client_header_timeout 10s;" in nginx()


# --- The token of the maintenance page ---------------------------------------------------------


def test_nginx_knows_the_token_by_the_name_of_a_file(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets.json"
    folder = tmp_path / maintenance_pass.FOLDER
    secrets.write_text(json.dumps({"maintenance_pass": TOKEN, "other": "x"}))
    assert maintenance_pass.place(tmp_path) is False  # nginx has no folder yet
    folder.parent.mkdir(parents=True)
    assert maintenance_pass.place(tmp_path) is True
    assert [path.name for path in folder.iterdir()] == [TOKEN]
    assert folder.stat().st_mode & 0o777 == 0o711
    assert maintenance_pass.place(tmp_path) is False
    secrets.write_text(json.dumps({"maintenance_pass": "n" * 43}))
    assert maintenance_pass.place(tmp_path) is True
    assert [path.name for path in folder.iterdir()] == ["n" * 43]


@pytest.mark.parametrize("token", ["short", "../../etc/passwd" + "x" * 30, 5, "a" * 129, ""])
def test_what_is_no_token_names_no_file(tmp_path: Path, token: Any) -> None:
    (tmp_path / "live/nginx").mkdir(parents=True)
    (tmp_path / "secrets.json").write_text(json.dumps({"maintenance_pass": token}))
    with pytest.raises(ValueError, match="remove it from the file"):
        maintenance_pass.place(tmp_path)
    assert list((tmp_path / "live/nginx").iterdir()) == []


@pytest.mark.parametrize("text", [None, "{}"])
def test_a_stack_of_an_older_edition_has_no_token(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "live/nginx").mkdir(parents=True)
    if text:
        (tmp_path / "secrets.json").write_text(text)
    assert maintenance_pass.place(tmp_path) is False
    # Its nginx lets every value pass, but no empty one.
    assert maintenance_pass.header_value("") == "verify"


@pytest.mark.parametrize(
    ("sent", "name"),
    [(TOKEN, "$http_x_crisper_pass"), ("anything", "none"), ("../maintenance.html", "none")],
)
def test_only_a_token_names_a_file(sent: str, name: str) -> None:
    """Regression: `X-Crisper-Pass: anything` passed."""
    text = nginx()
    assert look_up(mapped(text, "$http_x_crisper_pass $pass"), sent) == name
    assert 'if (-f /etc/crisper/passes/$pass) { set $closed ""; }' in text
    assert "if ($http_x_crisper_pass)" not in text
