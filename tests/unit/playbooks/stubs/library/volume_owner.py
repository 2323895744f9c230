"""Stub: the volumes belong to their services."""

from __future__ import annotations

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import stub

stub("volume_owner", lambda _: {"services": []})
