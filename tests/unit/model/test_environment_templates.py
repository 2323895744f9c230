"""Variables of the application that name services of the stack, from the inventory to .env.prod."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from rendering import APPS, GIVEN, Inventory, outcome

TEXT = (APPS / "fresh/stack_app.yml").read_text()


def environment(text: str) -> dict[str, str]:
    """The rendered environment, by name."""
    findings, files = outcome(text + GIVEN)
    assert not findings
    lines = (line.partition("=") for line in files[".env.prod"].splitlines() if "=" in line)
    return {name: value.strip('"') for name, _, value in lines}


def with_templates(**templates: str) -> str:
    """The inventory of the example with other templates."""
    head = TEXT.partition("  environment_templates:")[0]
    lines = [f"    {name}: {value}" for name, value in templates.items()]
    return "\n".join([f"{head}  environment_templates:", *lines, ""])


def test_addresses_are_in_the_applications_own_names() -> None:
    found = environment(TEXT)
    broker = urlsplit(found["BROKER_URL"])
    assert (broker.scheme, broker.username, broker.hostname, broker.path) == (
        *("redis", "app", "redis", "/3"),
    )
    assert len(broker.password or "") == 48
    # Celery takes them before the application's settings.
    assert "CELERY_BROKER_URL" not in found
    assert "CELERY_RESULT_BACKEND" not in found
    assert found["DATABASE_URL"].startswith("postgresql+psycopg://crisper:")


def test_every_form_and_a_generated_secret() -> None:
    found = environment(
        with_templates(
            ASYNC='"{{ postgres.asyncpg_url }}?ssl=disable"',
            PLAIN='"{{ postgres.url }}"',
            CACHE='"{{ redis.url(1) }}"',
            FIRST='"{{ redis.url }}"',
            PAIR="\"{{ redis.host }}:{{ redis.port }}/{{ secret('own_key') }}\"",
            QDRANT_URL='"{{ qdrant.url }}/x"',
        )
    )
    assert found["ASYNC"].startswith("postgresql+asyncpg://crisper:")
    assert found["ASYNC"].endswith("@postgres:5432/crisper?ssl=disable")
    assert found["PLAIN"].startswith("postgresql://crisper:")
    assert found["CACHE"].endswith("@redis:6379/1")
    assert found["FIRST"].endswith("@redis:6379/0")
    assert found["PAIR"] == "redis:6379/made-own_key"
    # What the application sets itself is not written by the stack, and the rest is.
    assert found["QDRANT_URL"] == "http://qdrant:6333/x"
    assert found["CELERY_BROKER_URL"].endswith("@redis:6379/0")


@pytest.mark.parametrize(
    ("templates", "words"),
    [
        ({"A": '"{{ redis.url(16) }}"'}, "redis.url(16) is no database"),
        ({"A": "\"{{ redis.url('x') }}\""}, "is no database"),
        ({"A": '"{{ mariadb.url }}"'}, "set mariadb_enabled: true"),
        ({"A": '"{{ postgres.link }}"'}, "cannot be resolved"),
        ({"RELEASE": '"{{ redis.host }}"'}, "the deploy writes RELEASE itself"),
    ],
)
def test_a_name_that_the_stack_does_not_have_is_refused(
    templates: dict[str, str], words: str
) -> None:
    findings, _ = outcome(with_templates(**templates) + GIVEN)
    assert any(words in finding for finding in findings), findings


def test_a_service_is_named_in_templates_alone() -> None:
    text = TEXT.replace("environment_templates:", "environment:")
    findings, _ = outcome(text + GIVEN)
    assert "move it to stack_app.environment_templates" in findings[0]


def test_no_inventory_of_before_is_another() -> None:
    """Without templates the stack writes what it wrote."""
    text = (APPS / "channels/stack_app.yml").read_text()
    found = environment(text)
    assert found["CELERY_BROKER_URL"].endswith("@redis:6379/0")
    assert found["CELERY_RESULT_BACKEND"].endswith("@redis:6379/2")
    assert Inventory(text + GIVEN).findings() == []
