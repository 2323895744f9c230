"""Signatures of sets: ours, altered, of another key, none."""

from __future__ import annotations

import json

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.backup.signature import (
    MIN_KEY,
    OTHER_KEY,
    UNSIGNED,
    VERIFIED,
    judge,
    key_name,
    key_named,
    key_of,
    signed,
)
from hypothesis import given
from hypothesis import strategies as st

KEYS = st.text(min_size=MIN_KEY, max_size=60)
OURS, THEIRS = "k" * MIN_KEY, "t" * MIN_KEY


@given(st.binary(max_size=300), KEYS, KEYS)
def test_a_signature_is_ours_or_of_another_key(manifest: bytes, key: str, other: str) -> None:
    signature = signed(manifest, key)
    assert judge(manifest, signature, key) == VERIFIED
    assert key_named(signature) == key_name(key)
    if other != key:
        assert judge(manifest, signature, other) == OTHER_KEY
    assert judge(manifest, None, key) == UNSIGNED
    assert judge(manifest, signature, "") == OTHER_KEY


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_no_other_manifest_has_its_signature(manifest: bytes, other: bytes) -> None:
    if manifest == other:
        return
    with pytest.raises(BackupError, match="it was altered"):
        judge(other, signed(manifest, OURS), OURS)


@given(st.binary(max_size=200), st.integers(0, 94), st.binary(min_size=1, max_size=1))
def test_no_other_signature_passes(manifest: bytes, at: int, byte: bytes) -> None:
    good = signed(manifest, OURS)
    bad = good[:at] + byte + good[at + 1 :]
    if bad == good:
        return
    try:
        found = judge(manifest, bad, OURS)
    except BackupError:
        return
    # The name of the key is no part of the proof; with another one nothing is told of the key.
    assert found == OTHER_KEY or at in range(12, 28)


@given(st.binary(max_size=200))
def test_what_is_no_signature_is_refused(text: bytes) -> None:
    with pytest.raises(BackupError, match="holds no signature"):
        judge(b"x", text, OURS)


def test_what_is_signed_with_the_key_for_something_else_does_not_pass() -> None:
    """The name of a key is made with the key too; it must never stand for a signature."""
    assert key_name(OURS) not in signed(b"", OURS).decode().split()[2]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (OURS, OURS),
        (f"  {OURS}\n", OURS),
        (json.dumps({"backup_signing_key": THEIRS, "secret_key": "x"}), THEIRS),
    ],
)
def test_a_key_is_read_from_its_file_or_from_the_secrets(text: str, key: str) -> None:
    assert key_of(text, "x") == key


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "x has no backup_signing_key"),
        (
            '{"secret_key": "hidden-secret"}',
            r"x has no backup_signing_key\. The next run of playbooks",
        ),
        ('{"backup_signing_key": 5}', "x has no backup_signing_key"),
        ('{"backup_signing_key": "hidden-secret', "x cannot be read as JSON"),
        (
            "hidden-secret",
            r"has 13 characters: set stack_secrets\.backup_signing_key to 32 or more",
        ),
    ],
)
def test_a_file_without_a_key_is_told_without_its_content(text: str, said: str) -> None:
    with pytest.raises(BackupError, match=said) as caught:
        key_of(text, "x")
    assert "hidden" not in str(caught.value)
