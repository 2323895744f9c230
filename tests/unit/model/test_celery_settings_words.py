"""celery_settings: what workers are started with, read back as Celery reads it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.model.celery_settings import (
    setting_words,
    validate,
)
from celery.loaders.base import BaseLoader


@pytest.mark.parametrize(
    "settings",
    [
        {"task_acks_late": True, "task_reject_on_worker_lost": False},
        {"broker_transport_options": {"visibility_timeout": 43200}},
        {"worker_prefetch_multiplier": 1, "task_default_rate_limit": "10/s"},
        {"accept_content": ["json", "yaml"]},
        {"enable_utc": False, "redbeat_key_prefix": "theirs:", "redbeat_lock_timeout": 60},
    ],
)
def test_celery_reads_what_is_set(settings: dict[str, Any]) -> None:
    assert not list(validate({"celery_settings": settings}))
    assert BaseLoader(None).cmdline_config_parser(setting_words(settings), "worker") == settings


def test_the_words_are_plain() -> None:
    assert setting_words({"task_acks_late": True}) == ["task_acks_late=true"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([], "give a mapping"),
        ({"TASK_ACKS_LATE": True}, "in lower case"),
        ({1: True}, "in lower case"),
        ({"broker_url": "redis://x"}, "CELERY_BROKER_URL in stack_app.environment_templates"),
        ({"task_time_limit": 5}, "use celery_task_time_limit"),
        ({"task_routes": {}}, "the application's own settings"),
        ({"task_default_rate_limit": "(int)5"}, "no cast of Celery's"),
    ],
)
def test_what_celery_would_read_otherwise_is_refused(settings: Any, words: str) -> None:
    (finding,) = validate({"celery_settings": settings})
    assert words in finding
