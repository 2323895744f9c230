"""Filters that word the findings of role verify."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.celery.inspection import key_warnings
from ansible_collections.crisper.stack.plugins.module_utils.celery.settings import (
    planned_restart_warning,
    restart_warning,
    settings_warnings,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.stranded import (
    suspected as stranded_suspected,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.stranded_report import (
    rows as stranded_rows,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.stranded_report import (
    warning as stranded_warning,
)
from ansible_collections.crisper.stack.plugins.module_utils.deploy.fact import staged_release
from ansible_collections.crisper.stack.plugins.module_utils.deploy.summary import (
    answer_words,
    changes_made,
    page_words,
    picked_up,
    run_left,
    unchecked_warnings,
)
from ansible_collections.crisper.stack.plugins.module_utils.deploy.verify import (
    canary_seconds,
    celery_finding,
    entry_request,
    http_finding,
    known_tasks,
    port_finding,
    registered_tasks,
    request_counts,
    request_paths,
    site_url,
    step_finding,
    task_counts,
    worker_request,
    worker_summary,
)
from ansible_collections.crisper.stack.plugins.module_utils.deploy.verify_findings import (
    staged_words,
    verify_findings,
)
from ansible_collections.crisper.stack.plugins.module_utils.rollout.report import rollout_report


class FilterModule:
    """Jinja filters of role verify."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Map of filter name to function."""
        return {
            "crisper_answer_words": answer_words,
            "crisper_canary_seconds": canary_seconds,
            "crisper_changes_made": changes_made,
            "crisper_celery_finding": celery_finding,
            "crisper_entry_request": entry_request,
            "crisper_http_finding": http_finding,
            "crisper_key_warnings": key_warnings,
            "crisper_known_tasks": known_tasks,
            "crisper_page_words": page_words,
            "crisper_planned_restart_warning": planned_restart_warning,
            "crisper_picked_up": picked_up,
            "crisper_port_finding": port_finding,
            "crisper_registered_tasks": registered_tasks,
            "crisper_request_counts": request_counts,
            "crisper_request_paths": request_paths,
            "crisper_rollout_report": rollout_report,
            "crisper_restart_warning": restart_warning,
            "crisper_run_left": run_left,
            "crisper_settings_warnings": settings_warnings,
            "crisper_site_url": site_url,
            "crisper_staged_release": staged_release,
            "crisper_staged_words": staged_words,
            "crisper_step_finding": step_finding,
            "crisper_stranded_rows": stranded_rows,
            "crisper_stranded_suspected": stranded_suspected,
            "crisper_stranded_warning": stranded_warning,
            "crisper_task_counts": task_counts,
            "crisper_unchecked_warnings": unchecked_warnings,
            "crisper_verify_findings": verify_findings,
            "crisper_worker_request": worker_request,
            "crisper_worker_summary": worker_summary,
        }
