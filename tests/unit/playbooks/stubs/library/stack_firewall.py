"""Stub: nothing is reached that must not be."""

from __future__ import annotations

from ansible.module_utils.stub_module import stub

stub("stack_firewall", lambda _: {"created": [], "findings": [], "tried": 0})
