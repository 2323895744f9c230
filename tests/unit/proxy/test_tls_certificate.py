"""Certificates as files: made and read by openssl, replaced whole by the module."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tls_certificate
from ansible_collections.crisper.stack.plugins.module_utils.proxy.certificate import DAY, blocks
from ansible_collections.crisper.stack.plugins.module_utils.proxy.certificate_files import (
    FRONT,
    pair_problem,
    read,
    self_signed,
)
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given, settings
from hypothesis import strategies as st
from issued_certificates import NAME, NOW, bring, client_files, issued, put


def test_what_openssl_says_of_a_certificate_is_read_whole():
    pem, _ = issued("a.example", "*.b.example", days=10)
    found = read(pem)
    assert found.names == ("a.example", "*.b.example")
    assert abs(found.ends - NOW - 10 * DAY) < 3600
    assert (found.issuer, found.made_here) == ("CN=Test CA", False)


def test_a_certificate_without_alternative_names_has_none():
    """Regression guard: a common name that looks like one is no name (RFC 6125)."""
    assert read(issued(by="DNS:evil.example")[0]).names == ()


@settings(max_examples=5, deadline=None)
@given(st.lists(NAME | st.ip_addresses().map(str), min_size=1, max_size=3, unique=True))
def test_one_made_here_covers_every_name_and_its_key_fits(names):
    pem = self_signed(names, 30)
    (certificate,), (_key,) = blocks(pem)
    found = read(certificate)
    assert all(map(found.covers, names))
    assert found.made_here
    assert pair_problem(pem) == ""
    loaded = x509.load_pem_x509_certificate(certificate.encode())
    assert loaded.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_a_self_signed_one_is_made_once(run_module, tmp_path):
    path = tmp_path / "live" / "tls"
    planned = put(run_module, path, check=True, source="self_signed")
    assert (planned["due"], planned["made_here"], path.exists()) == (True, True, False)
    first = put(run_module, path, source="self_signed")
    before = (path / FRONT).read_text()
    again = put(run_module, path, source="self_signed")
    assert (first["changed"], again["changed"], again["due"]) == (True, False, False)
    assert (path / FRONT).read_text() == before
    assert (path / FRONT).stat().st_mode & 0o777 == 0o400
    assert path.stat().st_mode & 0o777 == 0o700
    assert "PRIVATE KEY" not in json.dumps(again)
    info = run_module(tls_certificate, path=str(path))
    assert info["trusted"] == again["trusted"]
    assert not info["changed"]


def test_it_is_made_anew_before_it_expires_and_both_are_trusted_meanwhile(run_module, tmp_path):
    put(run_module, tmp_path / "tls", source="self_signed", days=20, renew_days=10)
    renewed = put(run_module, tmp_path / "tls", source="self_signed")
    assert renewed["changed"]
    assert renewed["trusted"].count("BEGIN CERTIFICATE") == 2


def test_an_own_one_replaces_what_is_there(run_module, tmp_path):
    put(run_module, tmp_path / "tls", source="self_signed")
    certificate, key = issued("a.example")
    own = {"source": "own", "certificate": certificate, "key": key}
    planned = put(run_module, tmp_path / "tls", check=True, **own)
    assert (planned["due"], planned["made_here"]) == (True, False)
    assert put(run_module, tmp_path / "tls", **own)["changed"]
    again = put(run_module, tmp_path / "tls", **own)
    assert not again["changed"]
    assert key not in json.dumps(again)
    assert (tmp_path / "tls" / FRONT).read_text() == certificate + key


def encrypted(key: str) -> str:
    loaded = serialization.load_pem_private_key(key.encode(), None)
    return loaded.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"word"),
    ).decode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key": issued("a.example")[1]}, "key does not belong to the certificate"),
        ({"key": encrypted(issued("a.example")[1])}, "without a passphrase"),
        ({"key": "none"}, "holds 0 private keys"),
        ({"certificate": "none"}, "no certificate (PEM)"),
        ({"names": ["a.example", "c.example"]}, "not for c.example"),
    ],
)
def test_what_is_unfit_is_refused_and_nothing_changes(run_module, tmp_path, change, said):
    put(run_module, tmp_path / "tls", source="self_signed")
    before = (tmp_path / "tls" / FRONT).read_text()
    certificate, key = issued("a.example")
    own = {"source": "own", "certificate": certificate, "key": key, "where": "/own.pem", **change}
    result = put(run_module, tmp_path / "tls", **own)
    assert result["failed"]
    assert said in result["msg"]
    assert "/own.pem" in result["msg"]
    assert "PRIVATE KEY-" not in json.dumps(result)
    assert (tmp_path / "tls" / FRONT).read_text() == before


def test_an_expired_one_is_refused(run_module, tmp_path):
    certificate, key = issued("a.example", begins=-10, days=-1)
    result = put(run_module, tmp_path / "tls", source="own", certificate=certificate, key=key)
    assert "expired on" in result["msg"]
    assert not (tmp_path / "tls").exists()


def test_one_that_expires_soon_is_warned_of(run_module, tmp_path, monkeypatch):
    warned: list[str] = []
    monkeypatch.setattr(tls_certificate.AnsibleModule, "warn", lambda _, text: warned.append(text))
    certificate, key = issued("a.example", days=12.5, begins=-60)
    result = put(run_module, tmp_path / "tls", source="own", certificate=certificate, key=key)
    assert "in 12 days: renew it" in warned[0]
    assert (result["concerns"], result["days_left"]) == (warned, 12)
    short = issued("a.example", days=12.5)
    put(run_module, tmp_path / "tls", source="own", certificate=short[0], key=short[1])
    assert len(warned) == 1


@pytest.fixture
def acme(tmp_path):
    return client_files(tmp_path)


def test_a_self_signed_one_stands_in_until_the_acme_client_is_done(run_module, tmp_path, acme):
    assert put(run_module, tmp_path / "tls", **acme)["made_here"]
    bring(acme, *issued("a.example"))
    brought = put(run_module, tmp_path / "tls", **acme)
    assert (brought["changed"], brought["made_here"]) == (True, False)
    Path(acme["certificate_file"]).unlink()
    assert not put(run_module, tmp_path / "tls", **acme)["changed"]


@pytest.fixture
def warned(monkeypatch):
    texts: list[str] = []
    monkeypatch.setattr(tls_certificate.AnsibleModule, "warn", lambda _, text: texts.append(text))
    return texts


def test_who_only_looks_is_warned_as_well(run_module, tmp_path, acme, warned):
    put(run_module, tmp_path / "tls", **acme)
    assert "no ACME client has written" in warned.pop()
    info = {"path": str(tmp_path / "tls"), **acme}
    assert run_module(tls_certificate, **info)["concerns"] == warned
    assert len(warned) == 1
    certificate, key = issued("a.example", days=10, begins=-80)
    bring(acme, certificate, key)
    assert "hook" in run_module(tls_certificate, **info)["concerns"][0]
    put(run_module, tmp_path / "tls", **acme)
    result = run_module(tls_certificate, **info)
    assert "has not renewed it" in result["concerns"][0]
    assert run_module(tls_certificate, path=info["path"])["concerns"] == []
