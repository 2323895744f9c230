"""Certificates as data: judged, and what is to be done about them."""

from __future__ import annotations

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.proxy.certificate import (
    DAY,
    Certificate,
    Renewal,
    blocks,
    choose_action,
    day,
    find_concerns,
    judge,
)
from hypothesis import given
from hypothesis import strategies as st
from issued_certificates import NAME, NOW, leaf


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        (leaf("a.example", ends=NOW - 1), ["expired on", "renew"]),
        (leaf("a.example", begins=NOW + DAY), ["valid from", "clock"]),
        (leaf("b.example"), ["is for b.example, not for a.example", "stack_server_names"]),
        (leaf(), ["is for no name"]),
    ],
)
def test_an_unfit_certificate_is_told_with_its_remedy(certificate, said):
    (problem,) = judge([certificate], ["a.example"], NOW, "/x.pem")
    assert all(text in problem for text in [*said, "/x.pem"])


def test_every_finding_comes_at_once():
    assert len(judge([leaf(ends=NOW - 1)], ["a.example"], NOW, "x")) == 2


def test_a_chain_in_the_wrong_order_is_told():
    root = Certificate((), 0, NOW + DAY, "CN=Root", "CN=Root")
    middle = Certificate((), 0, NOW + DAY, "CN=Test CA", "CN=Root")
    assert judge([leaf("a"), middle, root], ["a"], NOW, "x") == []
    (problem,) = judge([leaf("a"), root, middle], ["a"], NOW, "x")[:1]
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
    what = choose_action(source, installed, given_, ["a"], NOW, 30)
    assert (what == "given") == given_
    assert what != "keep" or installed is not None


def test_a_self_signed_one_is_kept_until_it_ends_soon_or_the_names_change():
    kept = leaf("a", here=True)
    assert choose_action("self_signed", kept, False, ["a"], NOW, 30) == "keep"
    assert choose_action("self_signed", kept, False, ["a", "b"], NOW, 30) == "make"
    assert choose_action("self_signed", kept, False, ["a"], NOW, 91) == "make"
    assert choose_action("self_signed", leaf("a"), False, ["a"], NOW, 30) == "make"


def test_a_real_certificate_stays_until_the_acme_client_has_one():
    assert choose_action("acme", leaf("a"), False, ["a"], NOW, 30) == "keep"
    assert choose_action("acme", leaf("a", here=True), False, ["a"], NOW, 30) == "keep"


def test_an_expired_certificate_of_an_acme_client_is_replaced_by_a_stand_in():
    """Regression guard: with an expired one no deploy was verified, so none got its challenge."""
    assert choose_action("acme", leaf("a", ends=NOW - 1), False, ["a"], NOW, 30) == "make"


def concerns(certificate, source="acme", **arguments):
    return find_concerns(
        certificate, Renewal(source, 30, 14, "/live/fullchain.pem"), NOW, **arguments
    )


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
    certificate = leaf("a", begins=NOW + (days - life) * DAY, ends=NOW + days * DAY)
    found = concerns(leaf("a", ends=NOW + days * DAY, here=True) if made else certificate, source)
    assert len(found) == warned
    assert all(("certbot renew" in text) == (source == "acme") for text in found)
    assert all(day(certificate.ends) in text for text in found)


@given(st.floats(-400, 400), st.floats(0.1, 400), st.sampled_from(["own", "acme"]))
def test_every_certificate_at_its_end_is_warned_of_and_no_fresh_one(left, life, source):
    certificate = leaf("a", begins=NOW + (left - life) * DAY, ends=NOW + left * DAY)
    found = concerns(certificate, source)
    assert len(found) == 1 if left < 0 else len(found) <= 1
    if left >= life / 2:
        assert found == []


def test_a_stand_in_says_that_the_acme_client_is_missing():
    (said,) = concerns(leaf("a", here=True))
    assert "/live/fullchain.pem" in said
    assert "run the client" in said


def test_a_failed_hook_is_noticed_by_what_the_client_has_written():
    (said,) = concerns(leaf("a"), newer=leaf("a", ends=NOW + 80 * DAY))
    assert "hook" in said
    assert "tls/renewed" in said


@given(st.lists(st.sampled_from(["CERTIFICATE", "EC PARAMETERS", "PRIVATE KEY", "EC PRIVATE KEY"])))
def test_blocks_are_found_in_their_order_whatever_stands_between(kinds):
    texts = [f"-----BEGIN {k}-----\nAA{i}=\n-----END {k}-----\n" for i, k in enumerate(kinds)]
    certificates, keys = blocks("subject=x\n".join(texts).replace("\n", "\r\n"))
    assert certificates == [t for t, k in zip(texts, kinds, strict=True) if k == "CERTIFICATE"]
    assert keys == [t for t, k in zip(texts, kinds, strict=True) if k.endswith("PRIVATE KEY")]
