"""Filters over what an application says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.celery.application import (
    adopt,
    application_replies,
    report,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.settings import (
    settings_warnings,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.environment_templates import (
    fill,
    reference,
    references,
    wiring,
)


def planned_warnings(
    facts: Mapping[str, Any], model: Mapping[str, Any], grace: float, limit: float
) -> list[str]:
    """Return the warnings over the application's settings, before a worker has any of them.

    Args:
        facts: of the application; empty where it could not be asked.
        model: of the stack.
        grace: celery_stop_grace_period, in seconds.
        limit: celery_task_time_limit, in seconds.
    """
    replies = application_replies(facts, model)
    return settings_warnings(replies, list(replies), grace, limit)


class FilterModule:
    """Jinja filters of role release."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the functions by filter name."""
        return {
            "crisper_adopted": adopt,
            "crisper_application_report": report,
            "crisper_filled": fill,
            "crisper_planned_warnings": planned_warnings,
            "crisper_reference": reference,
            "crisper_references": references,
            "crisper_wiring": wiring,
        }
