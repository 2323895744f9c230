"""Stub: a command in a container succeeds and prints nothing."""

from __future__ import annotations

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import stub

stub("container_exec", lambda _: {"rc": 0, "stdout": "", "stderr": ""})
