"""The entry point's variables: every bad one is named, and the good ones become nginx's terms."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.model.build import stack_model
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from ansible_collections.crisper.stack.plugins.module_utils.model.validators import LOCATION
from ansible_collections.crisper.stack.plugins.module_utils.proxy import entry
from entry_sites import generated_sites, site
from hypothesis import given
from hypothesis import strategies as st
from nginx_directives import directives
from proxy_files import blocks, nginx
from stack_values import GOOD


def model(*locations: Any, **values: Any) -> dict[str, Any]:
    given = site(*locations, **values)
    assert validate(given) == []
    return stack_model(given)["proxy"]


def location(text: str, match: str) -> str:
    (found,) = blocks(text, f"location {match}")
    return found


STATIC = {"path": "/static/", "kind": "static", "alias": "/app/staticfiles"}


# --- Findings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("/x", "[0] is '/x': give a mapping with path and kind"),
        ({"kind": "deny"}, "[0].path is None: give a path that begins with '/'"),
        ({"path": "/a b", "kind": "deny"}, "[0].path is '/a b'"),
        ({"path": "/a/../b", "kind": "deny"}, "without '.', '..' and '//'"),
        ({"path": "/a/./b", "kind": "deny"}, "without '.', '..' and '//'"),
        ({"path": "/a//b", "kind": "deny"}, "without '.', '..' and '//'"),
        (
            {"path": "/a/", "kind": "redirect", "to": "/a/b?c"},
            "[0].to is '/a/b?c', which leads back to /a/: browsers would go round in circles",
        ),
        (
            {"path": GOOD["stack_app"]["web"]["health_path"], "kind": "deny", "exact": True},
            "a deploy asks nginx for it, and would fail",
        ),
        ({"path": "/-/nginx", "kind": "deny"}, "below /-/ are the entry point's own"),
        ({"path": "/x"}, "[0].kind is None: choose backend, frontend, static, redirect, deny"),
        ({"path": "/x", "kind": "bakend"}, "did you mean backend?"),
        ({"path": "/x", "kind": ["deny"]}, "[0].kind is ['deny']: choose"),
        ({"path": "/x", "kind": "deny", "exact": "yes"}, "[0].exact is 'yes': give true or false"),
        ({"path": "/x", "kind": "backend", "body_size": "10 MB"}, "such as 10m"),
        ({"path": "/x", "kind": "backend", "timeout": 0}, "seconds from 1 to 604800"),
        ({"path": "/x", "kind": "backend", "buffering": "no"}, "give true or false"),
        ({"path": "/x", "kind": "backend", "cache": "forever"}, "choose immutable"),
        ({"path": "/x", "kind": "backend", "to": "/y"}, "kind is 'backend': remove it; to is for"),
        ({"path": "/x", "kind": "deny", "timeout": 5}, "timeout is for backend, frontend"),
        ({"path": "/x", "kind": "deny", "status": 301}, "[0].status is 301: choose 403, 404"),
        ({"path": "/x", "kind": "deny", "status": "gone"}, "choose 403, 404"),
        ({"path": "/x", "kind": "redirect"}, "[0].to is missing: give a path such as"),
        ({"path": "/x", "kind": "redirect", "to": "/x"}, "go round in circles"),
        ({"path": "/x", "kind": "redirect", "to": "//evil.example"}, "[0].to is '//evil.example'"),
        ({"path": "/x", "kind": "redirect", "to": "/$host"}, "without '$'"),
        ({"path": "/x", "kind": "redirect", "to": '/"; evil'}, "[0].to is"),
        ({"path": "/x", "kind": "redirect", "to": "/y", "status": 200}, "choose 301, 302"),
        ({"path": "/x/", "kind": "static"}, "[0].alias is missing: give an absolute path"),
        (STATIC | {"alias": "media"}, "[0].alias is 'media': give an absolute path"),
        (STATIC | {"alias": "/app/../etc"}, "[0].alias is"),
        (STATIC | {"path": "/static"}, "end it with '/' for a folder"),
        (STATIC | {"exact": True}, "with exact: true it is one file"),
        (STATIC | {"rate_limit": 5}, "give a mapping with rate and burst"),
        (STATIC | {"rate_limit": {"rate": "10/s"}}, "[0].rate_limit.rate is '10/s': give requests"),
        ({"path": "/x", "kind": "deny", "rate_limit": {"rate": "1r/s"}}, "remove it"),
        ({"path": "/api/", "kind": "deny"}, "and so is that of stack_app.backend_paths[0]"),
        ({"path": "/admin/login", "kind": "backend"}, "that of stack_app.backend_paths[1]"),
        ({"path": "/", "kind": "backend"}, "that of stack_app.frontend: each path stands once"),
    ],
)
def test_a_bad_location_is_named_with_its_remedy(item: Any, said: str) -> None:
    findings = validate(site(item))
    assert any(said in finding for finding in findings), findings
    assert all(finding.startswith("stack_app.") for finding in findings)


def test_the_same_path_twice_is_refused_but_not_a_prefix_and_a_whole_path():
    one, other = {"path": "/x", "kind": "deny"}, {"path": "/x", "kind": "deny", "exact": True}
    assert validate(site(one, other)) == []
    findings = validate(site(one, other, one))
    assert len(findings) == 1
    assert "[2].path is '/x', and so is that of stack_app.locations[0]" in findings[0]


def test_redirects_that_lead_to_each_other_are_refused_but_not_a_chain():
    there = {"path": "/a/", "kind": "redirect", "to": "/b/"}
    back = {"path": "/b/", "kind": "redirect", "to": "/a/x"}
    said = validate(site(there, back))
    assert [one.partition(" is ")[0] for one in said] == [
        "stack_app.locations[0].to",
        "stack_app.locations[1].to",
    ]
    assert validate(site(there, back | {"to": "/c"})) == []
    assert validate(site(there | {"to": "/a/b", "exact": True})) == []


def test_a_closed_prefix_may_have_an_open_health_path():
    closed = {"path": "/int/", "kind": "deny"}
    web = GOOD["stack_app"]["web"] | {"health_path": "/int/%68ealth?x"}
    (said,) = validate(site(closed, app={"web": web}))
    assert said.startswith("stack_app.locations[0].path is '/int/' of kind 'deny', but")
    health = {"path": "/int/health", "kind": "backend", "exact": True}
    assert validate(site(closed, health, app={"web": web})) == []


@given(st.dictionaries(st.sampled_from(["path", "to", "kind", "exact"]), st.text() | st.none()))
def test_no_destination_breaks_the_findings(item: dict[str, Any]):
    validate(site({"path": "/x", "kind": "redirect", "to": "//["} | item))


def test_a_location_of_the_front_end_needs_one():
    findings = validate(
        site(
            {"path": "/assets/", "kind": "frontend"},
            app={"frontend": {}, "backend_paths": ["/"]},
        )
    )
    assert any("stack_app.frontend is not set: choose backend" in finding for finding in findings)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stack_trusted_proxies": "10.0.0.0/8"}, "give a list of addresses and networks"),
        ({"stack_trusted_proxies": ["lb.example"]}, "[0] is 'lb.example': give an address"),
        ({"stack_trusted_proxies": [10]}, "[0] is 10: give an address"),
        ({"stack_trusted_proxies": ["fe80::1%eth0"]}, "give an address"),
        (
            {"stack_trusted_proxies": ["255.255.255.255"]},
            "[0] is '255.255.255.255': it is the addr",
        ),
        ({"stack_trusted_proxies": ["10.0.0.1/8"]}, "did you mean 10.0.0.0/8?"),
        ({"stack_trusted_proxies": ["0.0.0.0/0"]}, "anybody could forge"),
        ({"stack_trusted_proxies": ["0.0.0.0/1", "128.0.0.0/1"]}, "[1] is '128.0.0.0/1'"),
        ({"stack_trusted_proxies": ["::/0"]}, "anybody could forge"),
        ({"stack_proxy_protocol": True}, "but stack_trusted_proxies is empty"),
        ({"stack_proxy_protocol": "yes"}, "stack_proxy_protocol is 'yes': give true or false"),
        ({"stack_access_log": "jsn"}, "did you mean json? choose text, json"),
        ({"stack_rate_limits": {"/x": 1}}, "give a list of mappings"),
        ({"stack_rate_limits": ["/x"]}, "[0] is '/x': give a mapping"),
        ({"stack_rate_limits": [{"path": "x", "rate": "1r/s"}]}, "[0].path is 'x'"),
        ({"stack_rate_limits": [{"path": "/x", "rate": "1r/h"}]}, "such as 10r/s or 100r/m"),
        ({"stack_rate_limits": [{"path": "/x", "rate": "1r/s", "burst": -1}]}, "[0].burst is -1"),
        ({"stack_rate_limits": [{"path": "/x", "rate": "1r/s"}] * 2}, "is listed 2 times"),
    ],
)
def test_a_bad_variable_is_named_with_its_remedy(values: dict[str, Any], said: str) -> None:
    findings = validate(site(**values))
    assert any(said in finding for finding in findings), findings


# --- The model and the configuration -----------------------------------------------------------


def test_the_short_form_is_the_long_form_of_the_backend():
    short = nginx(stack_app=site()["stack_app"])
    long = site(
        {"path": "/api/", "kind": "backend"},
        {"path": "/admin/login", "kind": "backend"},
        app={"backend_paths": []},
    )
    assert validate(long) == []
    assert nginx(stack_app=long["stack_app"]) == short
    assert "set $service frontend;" in location(short, "/")


def test_without_paths_all_go_to_the_backend_unless_a_location_has_the_root():
    plain = GOOD["stack_app"]
    assert [one["match"] for one in entry.entry_model({"stack_app": plain})["locations"]] == ["/"]
    root = {**plain, "locations": [{"path": "/", "kind": "redirect", "to": "/app/"}]}
    (found,) = entry.entry_model({"stack_app": root})["locations"]
    assert (found["kind"], found["to"]) == ("redirect", "/app/$is_args$args")


def test_a_path_that_is_login_keeps_its_limit_unless_it_has_another():
    found = model(
        {"path": "/shop/login", "kind": "backend"},
        {"path": "/api/login", "kind": "backend", "rate_limit": {"rate": "5r/m"}},
    )
    by_match = {one["match"]: one for one in found["locations"]}
    assert by_match["= /shop/login"]["login"] is True
    assert by_match["= /api/login"]["login"] is False
    (limit,) = found["limits"]
    assert (limit["pattern"], limit["rate"], limit["burst"]) == (r"~^/api/login\z", "5r/m", 10)
    assert r"~*^/shop/login/?\z" in found["logins"]["patterns"]
    assert found["logins"]["exempt"] == [r"~^/api/login\z"]


def test_no_stream_of_events_passes_by_the_limit_of_logins():
    """A named location is another location: the limit of the first would not count there."""
    text = nginx(stack_app=site()["stack_app"])
    assert "$event_stream" not in location(text, "= /admin/login")
    assert "$event_stream" in location(text, "/api/")


def test_files_come_from_the_volume_of_uploads_or_out_of_the_image():
    found = model(
        STATIC,
        {"path": "/media/", "kind": "static", "alias": "/app/media/"},
        {"path": "/media/public/", "kind": "static", "alias": "/app/media/public"},
        {"path": "/mediator/", "kind": "static", "alias": "/app/mediator"},
        {
            "path": "/favicon.ico",
            "kind": "static",
            "alias": "/app/staticfiles/f.ico",
            "exact": True,
        },
    )
    aliases = {one["match"]: one["alias"] for one in found["locations"] if one["alias"]}
    assert aliases == {
        "/static/": "/etc/crisper/serving/static/app/staticfiles/",
        "/media/": "/srv/uploads/",
        "/media/public/": "/srv/uploads/public/",
        "/mediator/": "/etc/crisper/serving/static/app/mediator/",
        "= /favicon.ico": "/etc/crisper/serving/static/app/staticfiles/f.ico",
    }
    assert found["static"] == ["/app/mediator", "/app/staticfiles"]
    assert found["uploads"] is True


def test_networks_stand_once_and_as_nginx_writes_them():
    found = model(stack_trusted_proxies=["10.0.0.0/8", "2001:DB8::/32", "192.0.2.7", "10.0.0.0/8"])
    assert found["trusted"] == ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"]


def test_the_health_path_is_not_limited():
    found = model(stack_rate_limits=[{"path": "/", "rate": "1r/s"}])
    pattern = found["unlimited"].removeprefix("~").replace(r"\z", r"\Z")
    assert re.search(pattern, "/health")
    assert not re.search(pattern, "/health/x")


@given(st.from_regex(LOCATION, fullmatch=True), st.from_regex(LOCATION, fullmatch=True))
def test_a_limit_matches_the_paths_below_its_own(path: str, other: str) -> None:
    (limit,) = entry.entry_model(
        {"stack_app": GOOD["stack_app"], "stack_rate_limits": [{"path": path, "rate": "1r/s"}]}
    )["limits"]
    assert bool(re.match(limit["pattern"][1:], other)) is other.startswith(path)
    assert re.match(limit["pattern"][1:], path + "more")


# --- Generated inventories ---------------------------------------------------------------------

# All that may stand in a location; nothing else may be rendered, whatever an inventory holds.
KNOWN = frozenset(
    {"access_log", "add_header", "alias", "client_max_body_size", "default_type"}
    | {"disable_symlinks", "error_page", "gzip_static", "if", "internal", "limit_req"}
    | {"proxy_buffering", "proxy_pass", "proxy_read_timeout", "proxy_request_buffering"}
    | {"recursive_error_pages"}
    | {"proxy_send_timeout", "return", "root", "try_files"}
    # The location itself, and the conditions of the maintenance page.
    | {"location", "set"}
)


def test_locations_hold_no_directive_that_the_template_has_not():
    """tests/integration/test_entry_point.py has nginx judge such sites."""
    for text in generated_sites(20):
        found = {
            words[0]
            for depth, *words in directives(text)
            if int(depth) == 3 and words[0] not in ("map", "default")
        }
        assert found <= KNOWN, found - KNOWN
        assert "proxy_pass" in found


def test_a_balancer_that_ends_tls_by_the_proxy_protocol_means_https():
    """Regression: the application redirected every request to itself."""
    values = {"stack_proxy_protocol": True, "stack_trusted_proxies": ["10.0.0.0/8"]}
    plain = nginx(**values)
    assert "map $server_port $own_proto { default $scheme; 8081 http; }" in plain
    ended = nginx(**values, stack_public_url="https://app.example")
    assert "map $server_port $own_proto { default $balancer_scheme; 8081 http; }" in ended
    (geo,) = re.findall(r"geo \$realip_remote_addr \$balancer_scheme \{([^}]*)\}", ended)
    assert geo.split() == ["default", "http;", "10.0.0.0/8", "https;"]
    assert '$own_port { default 443; "1 http" 80;' in ended


def test_the_health_path_must_have_a_location():
    """Regression: found by verify alone, when requests went to the release already."""
    app = {**GOOD["stack_app"], "backend_paths": ["/api/"]}
    app.pop("frontend", None)
    (finding,) = validate({**GOOD, "stack_app": app})
    assert finding.startswith("No path of stack_app.locations or backend_paths is met, but")
