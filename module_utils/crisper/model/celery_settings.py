"""Settings that workers are started with, over those of the application (no I/O)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .validators import as_mapping, quoted

SETTING = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)+\Z")
# What says it instead: only workers have these settings, and whoever sends tasks needs them too.
ELSEWHERE = {
    "broker_url": "CELERY_BROKER_URL in stack_app.environment_templates",
    "broker_read_url": "CELERY_BROKER_READ_URL in stack_app.environment_templates",
    "broker_write_url": "CELERY_BROKER_WRITE_URL in stack_app.environment_templates",
    "result_backend": "CELERY_RESULT_BACKEND in stack_app.environment_templates",
    "task_time_limit": "celery_task_time_limit",
    "task_soft_time_limit": "celery_task_soft_time_limit",
    "task_default_queue": "the application's own settings",
    "task_queues": "the application's own settings",
    "task_routes": "the application's own settings",
}


# First words of Celery's own settings (celery.app.defaults.NAMESPACES, 5.3 to 5.7). The value of
# any other, such as enable_utc, ends a worker that is started with it, unless it has a cast.
NAMESPACES = re.compile(
    "(arangodb|azureblockblob|beat|broker|cache|cassandra|control|cosmosdbsql|couchbase|database"
    "|elasticsearch|event|gcs|mongodb|redis|result|s3|security|task|worker)_"
)
# In names of settings whose values are secrets.
SECRET = re.compile("pass|secret|token|access_key|credential")


def setting_words(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as ``celery worker … --`` takes them: ``task_acks_late=true``.

    Lists and mappings are JSON, which Celery is told by ``(json)``; so is what it has no type for.
    """
    return [f"{name}={_word(name, value)}" for name, value in settings.items()]


def _word(name: str, value: Any) -> str:
    if not NAMESPACES.match(name):
        return f"(json){json.dumps(value)}"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (Mapping, list, tuple)) or value is None:
        return f"(json){json.dumps(value)}"
    return str(value)


def validate(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with celery_settings, with the remedy."""
    settings = values.get("celery_settings")
    if settings is not None and not isinstance(settings, Mapping):
        yield (
            f"celery_settings is {quoted(settings)}: give a mapping of Celery's settings, such as"
            " {task_acks_late: true}, or {} for the application's own."
        )
    for name, value in as_mapping(settings).items():
        where = f"celery_settings.{name}"
        if not isinstance(name, str) or not SETTING.match(name):
            yield (
                f"celery_settings: {quoted(name)} is no setting of Celery in lower case, such as"
                " task_acks_late."
            )
        elif name in ELSEWHERE:
            yield f"{where} is set for the workers alone: use {ELSEWHERE[name]}."
        elif SECRET.search(name):
            yield (
                f"{where} would stand in the workers' command, for everybody on the server to read:"
                " set it in the application."
            )
        elif isinstance(value, str) and (value.startswith("(") or not value.isprintable()):
            yield f"{where} is {quoted(value)}: give a text that is no cast of Celery's."
