"""build_ca_bundle: the host's trust store as a secret of at most 500 KiB."""

from __future__ import annotations

import build_ca_bundle
import pytest


def certificate(number: int) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{number:0>1400}\n-----END CERTIFICATE-----\n"


@pytest.fixture
def provide(run_module, tmp_path):
    def run(content: str | None, **other) -> dict:
        if content is not None:
            (tmp_path / "store.crt").write_text(content)
        sources = [str(tmp_path / name) for name in ("absent.crt", "store.crt")]
        return run_module(build_ca_bundle, sources=sources, dest=str(tmp_path / "ca.pem"), **other)

    return run


def test_a_small_bundle_stays_as_it_is(provide, tmp_path):
    content = "# a comment\n" + certificate(1) * 2
    assert provide(content)["path"] == str(tmp_path / "ca.pem")
    assert (tmp_path / "ca.pem").read_text() == content
    assert (tmp_path / "ca.pem").stat().st_mode & 0o777 == 0o600


def test_of_a_large_bundle_each_certificate_is_kept_once(provide, tmp_path):
    """Regression: `secret ca too big. max size 500KiB` on a host whose CA bundle holds them all."""
    everything = "".join(map(certificate, range(150)))
    provide(everything * 3)
    assert (tmp_path / "ca.pem").read_text() == everything


def test_a_bundle_that_stays_too_large_is_one_clear_error(provide):
    failed = provide("".join(map(certificate, range(500))))
    assert failed["failed"]
    assert "store.crt" in failed["msg"]
    assert "at most 512000" in failed["msg"]
    assert "controller_ca_bundle" in failed["msg"]


def test_no_bundle_is_no_error(provide):
    assert provide(None)["path"] == ""


def test_check_mode_writes_nothing(provide, tmp_path):
    assert provide(certificate(1), check_mode=True)["changed"]
    assert not (tmp_path / "ca.pem").exists()
