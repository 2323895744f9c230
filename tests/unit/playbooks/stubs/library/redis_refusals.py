"""Stub: Redis has refused the application nothing."""

from __future__ import annotations

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import stub

stub("redis_refusals", lambda _: {"refused": [], "problem": ""})
