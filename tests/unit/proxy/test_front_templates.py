"""What nginx and Compose get of the entry point's settings."""

from __future__ import annotations

import re

import pytest
import yaml
from front_files import HEADERS, blocks, nginx, rendered

SECURE = {
    "stack_tls": "self_signed",
    "stack_server_names": ["app.example", "2001:db8::1"],
    "stack_hsts_seconds": 300,
}


def test_without_tls_there_is_one_server_and_one_port():
    text = nginx()
    assert len(blocks(text, "server")) == 1
    assert "8443" not in text
    assert " ssl_" not in text
    assert "return 301" not in text
    compose = yaml.safe_load(rendered("docker-compose.prod.yml.j2"))
    assert compose["services"]["nginx"]["ports"] == ["0.0.0.0:80:8080"]
    live = [f"/opt/crisper/live/{name}:ro" for name in ("nginx:/etc/crisper", "static:/srv/static")]
    volumes = [*live, "nginx-temp:/var/tmp"]
    assert compose["services"]["nginx"]["volumes"] == volumes


def test_with_tls_plain_http_only_redirects():
    plain, secure = blocks(nginx(**SECURE), "server")
    assert "proxy_pass" not in plain
    assert "return 301 https://$redirected$request_uri;" in plain
    assert "Strict-Transport-Security" not in plain
    assert "acme" not in plain
    assert "listen 8443 ssl;" in secure
    assert "listen 8080" not in secure
    compose = yaml.safe_load(rendered("docker-compose.prod.yml.j2", **SECURE))
    assert compose["services"]["nginx"]["ports"] == ["0.0.0.0:80:8080", "0.0.0.0:443:8443"]
    assert "/opt/crisper/live/tls:/etc/crisper-tls:ro" in compose["services"]["nginx"]["volumes"]


def test_redirects_lead_only_to_names_of_the_site():
    text = nginx(**SECURE, stack_https_port=8443)
    (names,) = blocks(text, "map $host $redirected")
    assert names.split() == [
        *("default", "app.example;"),
        *("app.example", "app.example;"),
        *("[2001:db8::1]", "[2001:db8::1];"),
    ]
    assert "https://$redirected:8443$request_uri" in text


def test_an_acme_client_gets_its_folder_past_the_redirect():
    values = SECURE | {
        "stack_tls": "acme",
        "stack_tls_certificate": "/x",
        "stack_tls_key": "/y",
    }
    plain, _ = blocks(nginx(**values), "server")
    assert "location ^~ /.well-known/acme-challenge/" in plain
    compose = yaml.safe_load(rendered("docker-compose.prod.yml.j2", **values))
    assert "/opt/crisper/live/acme:/etc/crisper-acme:ro" in compose["services"]["nginx"]["volumes"]


@pytest.mark.parametrize("values", [{}, SECURE], ids=["plain", "tls"])
def test_whoever_adds_a_header_adds_all_of_them(values):
    """nginx forgets the headers of the levels above where a level adds one of its own."""
    *_, server = blocks(nginx(**values), "server")
    wanted = {*HEADERS, *(["Strict-Transport-Security"] if values else [])}
    adding = [inner for inner in blocks(server, "location @closed") if "add_header" in inner]
    assert adding
    for level in [re.sub(r"location [^{]*\{[^}]*\}", "", server), *adding]:
        assert wanted <= set(re.findall(r"add_header ([\w-]+)", level))


def test_the_maintenance_page_may_use_its_own_style_and_no_other():
    (closed,) = blocks(nginx(), "location @closed")
    policy = re.search(r'Content-Security-Policy "([^"]+)"', closed)[1]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe-inline" not in policy


def test_the_applications_own_headers_win():
    text = nginx(stack_security_headers={"X-Frame-Options": 'say "no"', "Referrer-Policy": ""})
    (mapped,) = blocks(text, "map $upstream_http_x_frame_options $sent_x_frame_options")
    assert mapped.split(";")[:2] == [' default ""', ' "" "say \\"no\\""']
    assert "Referrer" not in text


@pytest.mark.parametrize(("address", "port"), [("::1", "[::1]:80:8080"), ("", "80:8080")])
def test_addresses_are_published_as_compose_wants_them(address, port):
    compose = yaml.safe_load(rendered("docker-compose.prod.yml.j2", stack_bind_address=address))
    assert compose["services"]["nginx"]["ports"] == [port]
