"""Stub: nothing is reached that must not be."""

from __future__ import annotations

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import stub

stub("stack_firewall", lambda _: {"created": [], "findings": [], "tried": 0})
