"""Stub: the release knows every task that waits."""

from __future__ import annotations

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import stub

stub(
    "celery_skew",
    lambda _: {
        "unknown": {},
        "waiting": {},
        "orphaned": {},
        "unreadable": {},
        "registered": 3,
        "seconds": 0.1,
        "problem": "",
    },
)
