"""Passwords as PostgreSQL stores them: what a role may store itself."""

from __future__ import annotations

import time

from ansible_collections.crisper.stack.plugins.module_utils.database.scram import (
    matches,
    scram_verifier,
)


def test_a_verifier_costs_no_more_than_a_moment() -> None:
    """A role chooses its own: PostgreSQL takes one of two thousand million rounds."""
    began = time.monotonic()
    slow = scram_verifier("x", b"salt", 2).replace("$2:", "$2147483647:")
    assert not matches("x", slow)
    assert not matches("x", slow.replace("$2147483647:", "$99999999999999:"))
    assert not matches("x", slow.replace("$2147483647:", "$0:"))
    assert time.monotonic() - began < 5
    assert matches("x", scram_verifier("x", b"salt", 5000))
