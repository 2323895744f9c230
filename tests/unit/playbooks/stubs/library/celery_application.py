"""Stub: the application says what the world has of it, or what the reference application would."""

from __future__ import annotations

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import stub

FACTS = {
    "default_queue": "default",
    "consumed": ["default"],
    "routes": [{"queue": "default", "kind": "task_default_queue", "name": "default"}],
    "unknown": [],
    "conf": {},
    "registered": [],
    "broker": {"library": "redis://redis:6379/0", "command": "redis://redis:6379/0"},
    "backend": {"library": "redis://redis:6379/2", "command": "redis://redis:6379/2"},
    "transport": "redis",
}


def answer(stub_module):
    """What the module returns; a point of the script may say otherwise."""
    found = stub_module.world.point("celery_application:facts") or {}
    return {"facts": {**FACTS, **found}, "key": "0" * 64, "error": ""}


stub("celery_application", answer)
