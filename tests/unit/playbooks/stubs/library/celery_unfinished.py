"""Stub: what old workers had not finished is back in its queue."""

from __future__ import annotations

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import stub

stub(
    "celery_unfinished",
    lambda module: {
        "tasks": [
            {**task, "outcome": "is back in its queue (default)"} for task in module.params["tasks"]
        ],
        "error": "",
    },
)
