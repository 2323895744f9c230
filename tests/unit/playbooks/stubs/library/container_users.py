"""Stub: no account of the host has the user of a container."""

from __future__ import annotations

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import stub

stub("container_users", lambda _: {"shared": []})
