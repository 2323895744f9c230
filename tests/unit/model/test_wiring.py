"""Variables of the stack that give way to those of the application."""

from __future__ import annotations

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.model.environment_templates import (
    wiring,
)

STACK = {"CELERY_BROKER_URL": "redis://a", "CELERY_RESULT_BACKEND": "redis://b", "OTHER": "x"}


@pytest.mark.parametrize(
    ("own", "given_way"),
    [
        ({}, set()),
        ({"BROKER_URL": "redis://c"}, {"CELERY_BROKER_URL"}),
        ({"MY_BROKER": "amqp://c"}, {"CELERY_BROKER_URL"}),
        ({"RESULT_BACKEND": "django-db"}, {"CELERY_RESULT_BACKEND"}),
        ({"APP_RESULTS": "redis://c/1"}, {"CELERY_RESULT_BACKEND"}),
        # Regression: these took the result backend away from the application.
        ({"CELERY_RESULT_EXPIRES": "3600", "SEARCH_RESULTS_LIMIT": 20}, set()),
        ({"BROKER_POOL_LIMIT": 10}, set()),
        # Set by the operator: it is written by its own name.
        ({"CELERY_BROKER_URL": "redis://c"}, set()),
    ],
)
def test_only_an_address_of_ones_own_replaces_the_stacks(
    own: dict[str, object], given_way: set[str]
) -> None:
    assert set(STACK) - set(wiring(STACK, own)) == given_way
