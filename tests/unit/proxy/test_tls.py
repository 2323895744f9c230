"""Certificates of the front door: judged, made, replaced whole, taken by an ACME client's hook."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import front_certificate
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.proxy import tls
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = time.time()
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)


def subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def issued(*names: str, days: float = 90, begins: float = -1, by: str = "") -> tuple[str, str]:
    """A certificate and its key (PEM), as a CA would issue it."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject(names[0] if names else "nobody"))
        .issuer_name(subject(by or "Test CA"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=begins))
        .not_valid_after(now + timedelta(days=days))
    )
    if names:
        spelled = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        made = made.add_extension(spelled, critical=False)
    pem = made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()
    return pem, key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def put(run_module, path, check=False, **arguments):
    given_ = {"path": str(path), "state": "present", "names": ["a.example"], **arguments}
    return run_module(front_certificate, check_mode=check, **given_)


# --- Judging ----------------------------------------------------------------------------------


def leaf(*names: str, begins: float = NOW - 1, ends: float = NOW + 90 * tls.DAY, here=False):
    who = f"CN=x,{tls.MARK}" if here else "CN=x"
    return tls.Certificate(names, begins, ends, who, who if here else "CN=Test CA")


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        (leaf("a.example", ends=NOW - 1), ["expired on", "renew"]),
        (leaf("a.example", begins=NOW + tls.DAY), ["valid from", "clock"]),
        (leaf("b.example"), ["is for b.example, not for a.example", "stack_server_names"]),
        (leaf(), ["is for no name"]),
    ],
)
def test_an_unfit_certificate_is_told_with_its_remedy(certificate, said):
    (problem,) = tls.judge([certificate], ["a.example"], NOW, "/x.pem")
    assert all(text in problem for text in [*said, "/x.pem"])


def test_every_finding_comes_at_once():
    assert len(tls.judge([leaf(ends=NOW - 1)], ["a.example"], NOW, "x")) == 2


def test_a_chain_in_the_wrong_order_is_told():
    root = tls.Certificate((), 0, NOW + tls.DAY, "CN=Root", "CN=Root")
    middle = tls.Certificate((), 0, NOW + tls.DAY, "CN=Test CA", "CN=Root")
    assert tls.judge([leaf("a"), middle, root], ["a"], NOW, "x") == []
    (problem,) = tls.judge([leaf("a"), root, middle], ["a"], NOW, "x")[:1]
    assert "certificate 1 is not issued by number 2" in problem


@given(NAME, NAME)
def test_a_wildcard_covers_one_label_and_no_more(name, label):
    certificate = leaf(f"*.{name}")
    assert certificate.covers(f"w.{name}".upper())
    assert not certificate.covers(name) or name.partition(".")[2] == name
    assert not certificate.covers(f"{label}.w.{name}")


@given(st.ip_addresses())
def test_addresses_are_covered_in_any_spelling(address):
    exploded = address.exploded.upper()
    assert leaf(exploded).covers(str(address))
    assert not leaf("192.0.2.77" if str(address) != "192.0.2.77" else "::1").covers(str(address))


@given(
    st.sampled_from(["own", "self_signed", "acme"]),
    st.none() | st.builds(leaf, st.just("a"), here=st.booleans()),
    st.booleans(),
)
def test_what_is_given_always_wins_and_something_is_always_there(source, installed, given_):
    what = tls.choose_action(source, installed, given_, ["a"], NOW, 30)
    assert (what == "given") == given_
    assert what != "keep" or installed is not None


def test_a_self_signed_one_is_kept_until_it_ends_soon_or_the_names_change():
    kept = leaf("a", here=True)
    assert tls.choose_action("self_signed", kept, False, ["a"], NOW, 30) == "keep"
    assert tls.choose_action("self_signed", kept, False, ["a", "b"], NOW, 30) == "make"
    assert tls.choose_action("self_signed", kept, False, ["a"], NOW, 91) == "make"
    assert tls.choose_action("self_signed", leaf("a"), False, ["a"], NOW, 30) == "make"


def test_a_real_certificate_stays_until_the_acme_client_has_one():
    assert tls.choose_action("acme", leaf("a"), False, ["a"], NOW, 30) == "keep"
    assert tls.choose_action("acme", leaf("a", here=True), False, ["a"], NOW, 30) == "keep"


def test_an_expired_certificate_of_an_acme_client_is_replaced_by_a_stand_in():
    """Regression guard: with an expired one no deploy was verified, so none got its challenge."""
    assert tls.choose_action("acme", leaf("a", ends=NOW - 1), False, ["a"], NOW, 30) == "make"


def concerns(certificate, source="acme", **arguments):
    return tls.find_concerns(certificate, source, NOW, 30, 14, "/live/fullchain.pem", **arguments)


@pytest.mark.parametrize(
    ("source", "days", "life", "warned"),
    [
        ("own", 31, 365, False),
        ("own", 29, 365, True),
        ("own", 29, 60, False),  # the last third of 60 days are 20
        ("acme", 29, 90, False),  # the client renews it these days
        ("acme", 15, 90, False),
        ("acme", 13, 90, True),
        ("acme", 2, 6, False),
        ("acme", 0.9, 6, True),
        ("acme", -1, 90, True),
        ("self_signed", 1, 397, False),  # the next deploy makes it anew
    ],
)
def test_a_certificate_is_warned_of_in_time_and_not_too_early(source, days, life, warned):
    made = source == "self_signed"
    certificate = leaf("a", begins=NOW + (days - life) * tls.DAY, ends=NOW + days * tls.DAY)
    found = concerns(
        leaf("a", ends=NOW + days * tls.DAY, here=True) if made else certificate, source
    )
    assert len(found) == warned
    assert all(("certbot renew" in text) == (source == "acme") for text in found)
    assert all(tls.day(certificate.ends) in text for text in found)


@given(st.floats(-400, 400), st.floats(0.1, 400), st.sampled_from(["own", "acme"]))
def test_every_certificate_at_its_end_is_warned_of_and_no_fresh_one(left, life, source):
    certificate = leaf("a", begins=NOW + (left - life) * tls.DAY, ends=NOW + left * tls.DAY)
    found = concerns(certificate, source)
    assert len(found) == 1 if left < 0 else len(found) <= 1
    if left >= life / 2:
        assert found == []


def test_a_stand_in_says_that_the_acme_client_is_missing():
    (said,) = concerns(leaf("a", here=True))
    assert "/live/fullchain.pem" in said
    assert "run the client" in said


def test_a_failed_hook_is_noticed_by_what_the_client_has_written():
    (said,) = concerns(leaf("a"), newer=leaf("a", ends=NOW + 80 * tls.DAY))
    assert "hook" in said
    assert "tls/renewed" in said


@given(st.lists(st.sampled_from(["CERTIFICATE", "EC PARAMETERS", "PRIVATE KEY", "EC PRIVATE KEY"])))
def test_blocks_are_found_in_their_order_whatever_stands_between(kinds):
    texts = [f"-----BEGIN {k}-----\nAA{i}=\n-----END {k}-----\n" for i, k in enumerate(kinds)]
    certificates, keys = tls.blocks("subject=x\n".join(texts).replace("\n", "\r\n"))
    assert certificates == [t for t, k in zip(texts, kinds, strict=True) if k == "CERTIFICATE"]
    assert keys == [t for t, k in zip(texts, kinds, strict=True) if k.endswith("PRIVATE KEY")]


def test_what_openssl_says_of_a_certificate_is_read_whole():
    pem, _ = issued("a.example", "*.b.example", days=10)
    read = tls.read(pem)
    assert read.names == ("a.example", "*.b.example")
    assert abs(read.ends - NOW - 10 * tls.DAY) < 3600
    assert (read.issuer, read.made_here) == ("CN=Test CA", False)


def test_a_certificate_without_alternative_names_has_none():
    """Regression guard: a common name that looks like one is no name (RFC 6125)."""
    assert tls.read(issued(by="DNS:evil.example")[0]).names == ()


@settings(max_examples=5, deadline=None)
@given(st.lists(NAME | st.ip_addresses().map(str), min_size=1, max_size=3, unique=True))
def test_one_made_here_covers_every_name_and_its_key_fits(names):
    pem = tls.self_signed(names, 30)
    (certificate,), (_key,) = tls.blocks(pem)
    read = tls.read(certificate)
    assert all(map(read.covers, names))
    assert read.made_here
    assert tls.pair_problem(pem) == ""
    loaded = x509.load_pem_x509_certificate(certificate.encode())
    assert loaded.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


# --- The module -------------------------------------------------------------------------------


def test_a_self_signed_one_is_made_once(run_module, tmp_path):
    path = tmp_path / "live" / "tls"
    planned = put(run_module, path, check=True, source="self_signed")
    assert (planned["due"], planned["made_here"], path.exists()) == (True, True, False)
    first = put(run_module, path, source="self_signed")
    before = (path / tls.FRONT).read_text()
    again = put(run_module, path, source="self_signed")
    assert (first["changed"], again["changed"], again["due"]) == (True, False, False)
    assert (path / tls.FRONT).read_text() == before
    assert (path / tls.FRONT).stat().st_mode & 0o777 == 0o400
    assert path.stat().st_mode & 0o777 == 0o700
    assert "PRIVATE KEY" not in json.dumps(again)
    info = run_module(front_certificate, path=str(path))
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
    assert (tmp_path / "tls" / tls.FRONT).read_text() == certificate + key


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
    before = (tmp_path / "tls" / tls.FRONT).read_text()
    certificate, key = issued("a.example")
    own = {"source": "own", "certificate": certificate, "key": key, "where": "/own.pem", **change}
    result = put(run_module, tmp_path / "tls", **own)
    assert result["failed"]
    assert said in result["msg"]
    assert "/own.pem" in result["msg"]
    assert "PRIVATE KEY-" not in json.dumps(result)
    assert (tmp_path / "tls" / tls.FRONT).read_text() == before


def test_an_expired_one_is_refused(run_module, tmp_path):
    certificate, key = issued("a.example", begins=-10, days=-1)
    result = put(run_module, tmp_path / "tls", source="own", certificate=certificate, key=key)
    assert "expired on" in result["msg"]
    assert not (tmp_path / "tls").exists()


def test_one_that_expires_soon_is_warned_of(run_module, tmp_path, monkeypatch):
    warned: list[str] = []
    monkeypatch.setattr(
        front_certificate.AnsibleModule, "warn", lambda _, text: warned.append(text)
    )
    certificate, key = issued("a.example", days=12.5, begins=-60)
    result = put(run_module, tmp_path / "tls", source="own", certificate=certificate, key=key)
    assert "in 12 days: renew it" in warned[0]
    assert (result["concerns"], result["days_left"]) == (warned, 12)
    short = issued("a.example", days=12.5)
    put(run_module, tmp_path / "tls", source="own", certificate=short[0], key=short[1])
    assert len(warned) == 1


@pytest.fixture
def acme(tmp_path):
    """The files of an ACME client, not yet written, as arguments."""
    folder = tmp_path / "client"
    folder.mkdir()
    files = {"certificate_file": str(folder / "chain"), "key_file": str(folder / "key")}
    return {"source": "acme", **files}


def bring(acme, *pair: str) -> None:
    Path(acme["certificate_file"]).write_text(pair[0])
    Path(acme["key_file"]).write_text(pair[1])


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
    monkeypatch.setattr(front_certificate.AnsibleModule, "warn", lambda _, text: texts.append(text))
    return texts


def test_who_only_looks_is_warned_as_well(run_module, tmp_path, acme, warned):
    put(run_module, tmp_path / "tls", **acme)
    assert "no ACME client has written" in warned.pop()
    info = {"path": str(tmp_path / "tls"), **acme}
    assert run_module(front_certificate, **info)["concerns"] == warned
    assert len(warned) == 1
    certificate, key = issued("a.example", days=10, begins=-80)
    bring(acme, certificate, key)
    assert "hook" in run_module(front_certificate, **info)["concerns"][0]
    put(run_module, tmp_path / "tls", **acme)
    result = run_module(front_certificate, **info)
    assert "has not renewed it" in result["concerns"][0]
    assert run_module(front_certificate, path=info["path"])["concerns"] == []


def hook(tmp_path, acme, reload, **more):
    settings_ = {
        **acme,
        "folder": str(tmp_path / "tls"),
        "names": ["a.example"],
        "uid": 101,
        "project": str(tmp_path),
        "root": str(tmp_path),
        "patience": 0,
        "reload_timeout": 0,
        "reload": reload,
        **more,
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings_))
    command = [sys.executable, "-m", "crisper.proxy.tls", str(tmp_path / "settings.json")]
    env = {**os.environ, "PYTHONPATH": str(Path(tls.__file__).resolve().parents[2])}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_the_hook_takes_what_the_client_brought_and_nginx_reads_it(run_module, tmp_path, acme):
    put(run_module, tmp_path / "tls", **acme)
    certificate, key = issued("a.example")
    bring(acme, certificate, key)
    done = hook(tmp_path, acme, ["touch", "reloaded"])
    assert (done.returncode, done.stdout[:9]) == (0, "in force:")
    assert (tmp_path / "tls" / tls.FRONT).read_text() == certificate + key
    assert (tmp_path / "reloaded").exists()


def test_the_hook_reloads_nginx_again_when_the_first_reload_failed(run_module, tmp_path, acme):
    """Regression guard: the second run said "unchanged", and nginx served the old certificate."""
    put(run_module, tmp_path / "tls", **acme)
    bring(acme, *issued("a.example"))
    assert hook(tmp_path, acme, ["false"]).returncode == 1
    assert hook(tmp_path, acme, ["touch", "reloaded"]).returncode == 0
    assert (tmp_path / "reloaded").exists()


def test_the_hook_refuses_what_is_unfit(run_module, tmp_path, acme):
    put(run_module, tmp_path / "tls", **acme)
    before = (tmp_path / "tls" / tls.FRONT).read_text()
    bring(acme, issued("a.example")[0], issued("a.example")[1])
    done = hook(tmp_path, acme, ["touch", "reloaded"])
    assert done.returncode == 1
    assert "the key does not belong" in done.stderr
    assert (tmp_path / "tls" / tls.FRONT).read_text() == before
    assert not (tmp_path / "reloaded").exists()


def test_the_certificate_from_before_comes_back_when_nginx_refuses_the_new(
    run_module, tmp_path, acme
):
    put(run_module, tmp_path / "tls", **acme)
    before = (tmp_path / "tls" / tls.FRONT).read_text()
    bring(acme, *issued("a.example"))
    refusal = ["sh", "-c", f"echo too weak >&2; exit {tls.REFUSED}"]
    done = hook(tmp_path, acme, refusal, reload_timeout=60)
    assert done.returncode == 1
    assert "from before stays. “too weak”" in done.stderr
    assert (tmp_path / "tls" / tls.FRONT).read_text() == before


def test_the_hook_says_when_nginx_does_not_read_it(tmp_path, acme):
    bring(acme, *issued("a.example"))
    done = hook(tmp_path, acme, ["sh", "-c", "echo no nginx >&2; exit 1"])
    assert done.returncode == 1
    assert "no nginx" in done.stderr
    gone = hook(tmp_path, acme, ["no-such-docker"])
    assert gone.returncode == 1
    assert "not in force" in gone.stderr
    assert "Traceback" not in gone.stderr


def hook_settings(tmp_path, acme, reload):
    hook(tmp_path, acme, ["true"])
    given_ = json.loads((tmp_path / "settings.json").read_text())
    return {**given_, "reload": reload, "patience": 60, "reload_timeout": 60}


@pytest.fixture
def quick(monkeypatch):
    """Pauses as moments at which something else happens: a list of functions, in their order."""
    events: list = []
    real = tls.time.sleep
    monkeypatch.setattr(tls.time, "sleep", lambda s: events.pop(0)() if s == tls.PAUSE else real(s))
    return events


def test_an_engine_that_restarts_is_waited_for(tmp_path, acme, quick):
    bring(acme, *issued("a.example"))
    quick += [lambda: None, (tmp_path / "up").touch]
    given_ = hook_settings(tmp_path, acme, ["test", "-e", "up"])
    assert tls.renewed(given_).startswith("in force:")
    assert quick == []


def lock(tmp_path, until):
    (tmp_path / "lock").write_text(json.dumps({"run": "x", "until": until}))


def test_a_renewal_waits_until_a_deploy_has_ended(run_module, tmp_path, acme, quick):
    """Regression guard: the deploy's requests met a certificate that it did not know."""
    put(run_module, tmp_path / "tls", **acme)
    bring(acme, *issued("a.example"))
    given_ = hook_settings(tmp_path, acme, ["true"])
    put_before, brought = (tmp_path / "tls" / tls.FRONT).read_text(), issued("a.example")
    bring(acme, *brought)
    lock(tmp_path, time.time() + 3600)
    during: list[str] = []
    quick += [
        lambda: during.append((tmp_path / "tls" / tls.FRONT).read_text()),
        (tmp_path / "lock").unlink,
    ]
    tls.renewed(given_)
    assert during == [put_before]
    assert (tmp_path / "tls" / tls.FRONT).read_text() == "".join(brought)


@pytest.mark.parametrize("content", ['{"run": "x", "until": 1}', '{"run": "x"}', "half a li", "[]"])
def test_a_lock_that_no_longer_counts_keeps_no_renewal_back(tmp_path, acme, quick, content):
    bring(acme, *issued("a.example"))
    given_ = hook_settings(tmp_path, acme, ["true"])
    (tmp_path / "lock").write_text(content)
    assert tls.renewed(given_).startswith("in force:")


def test_a_deploy_that_never_ends_does_not_cost_the_renewal(tmp_path, acme, quick):
    bring(acme, *issued("a.example"))
    lock(tmp_path, time.time() + 3600)
    assert hook(tmp_path, acme, ["true"], patience=0).stdout.startswith("in force:")


def test_no_deploy_begins_while_nginx_reads_the_new_certificate(tmp_path):
    with (
        tls.between_deploys(tmp_path, 0),
        (tmp_path / ".lock").open("a") as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / ".lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
