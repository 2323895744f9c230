"""Filters that make text of others fit for a summary or a message."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.deploy.status import (
    dead_letter_rows,
    queue_rows,
    stale_tasks,
    worker_rows,
)
from ansible_collections.crisper.stack.plugins.module_utils.output import mark_last_lines
from ansible_collections.crisper.stack.plugins.module_utils.text import (
    clean,
    printable,
    printable_lines,
    quote,
)


def numbered(lines: Iterable[str]) -> str:
    """Return findings one below the other, each with its number."""
    return "\n".join(f"{number}. {line}" for number, line in enumerate(lines, start=1))


class FilterModule:
    """Jinja filters for text of others."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the functions by filter name."""
        return {
            "crisper_clean": clean,
            "crisper_dead_letter_rows": dead_letter_rows,
            "crisper_marked_lines": mark_last_lines,
            "crisper_numbered": numbered,
            "crisper_printable": printable,
            "crisper_printable_lines": printable_lines,
            "crisper_queue_rows": queue_rows,
            "crisper_quote": quote,
            "crisper_stale_tasks": stale_tasks,
            "crisper_worker_rows": worker_rows,
        }
