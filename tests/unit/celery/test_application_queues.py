"""What an application says of its queues, against the pools that an operator gives."""

from __future__ import annotations

import os
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery.application import (
    adopt,
    application_replies,
    read_facts,
    report,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.settings import settings_warnings
from ansible_collections.crisper.stack.plugins.module_utils.probes.application import (
    application_facts,
)
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu import Exchange, Queue

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def choose_by_month(name: str, args: Any, kwargs: Any, options: Any, **_: Any) -> Any:
    """Route by an argument, as an application's own function may."""
    return {"queue": f"month-{kwargs['month']}"} if name == "books.close" else None


def nothing() -> None:
    """Do nothing, as the body of a task."""


def facts_of(app: Celery) -> dict[str, Any]:
    """What the probe tells of an application, as the module reads it."""
    app.finalize()
    return read_facts(application_facts(app))


def new_app(*tasks: str, **settings: Any) -> Celery:
    """An application with tasks of those names."""
    app = Celery("other", broker="redis://redis:6379/0", backend="redis://redis:6379/1")
    app.conf.update(settings)
    for name in tasks:
        app.task(nothing, shared=False, name=name)
    return app


def model(*pools: dict[str, Any], canary: str = "celery.accumulate") -> dict[str, Any]:
    """A model with these pools."""
    found = [{"adopts": "queues" not in p, "queues": ["celery"], **p} for p in pools]
    queues = sorted({queue for pool in found for queue in pool["queues"]})
    celery = {"canary_task": canary, "time_limit": 3600, "soft_time_limit": 3300}
    return {"pools": found, "queues": queues, "celery": celery}


@pytest.mark.parametrize(
    ("settings", "queues"),
    [
        ({}, ["celery"]),
        ({"task_default_queue": "jobs"}, ["jobs"]),
        ({"task_queues": [Queue("mail"), Queue("celery")]}, ["celery", "mail"]),
        # What goes into a command is a name that an operator may give.
        ({"task_default_queue": "one,two"}, ["celery"]),
    ],
)
def test_a_pool_without_queues_consumes_what_celery_does(
    settings: dict[str, Any], queues: list[str]
) -> None:
    facts = facts_of(new_app("a", **settings))
    found = adopt(model({"name": "default"}), facts)
    assert found["pools"][0]["queues"] == found["queues"] == queues


def test_queues_of_another_pool_are_left_to_it() -> None:
    facts = facts_of(new_app(task_queues=[Queue("mail"), Queue("celery")]))
    found = adopt(model({"name": "default"}, {"name": "mail", "queues": ["mail"]}), facts)
    assert [pool["queues"] for pool in found["pools"]] == [["celery"], ["mail"]]


def test_queues_that_an_operator_gives_stay() -> None:
    wanted = model({"name": "default", "queues": ["default"]})
    assert adopt(wanted, facts_of(new_app()))["queues"] == ["default"]


def test_an_application_that_cannot_be_asked_changes_nothing() -> None:
    wanted = model({"name": "default"})
    assert adopt(wanted, {}) == wanted
    found = report(wanted, {}, "ImportError: no module named x")
    assert not found["refusals"]
    assert "ImportError: no module named x" in found["warnings"][0]


@pytest.mark.parametrize(
    ("app", "words"),
    [
        (new_app("a"), ["Queue celery: ", "task_default_queue"]),
        (
            new_app("mail.send", task_routes={"mail.*": {"queue": "mail"}}),
            ["Queue mail: ", "the task mail.send"],
        ),
        # Sent by name to workers of another program: no task here says so.
        (
            new_app("a", task_routes={"theirs.work": "theirs"}),
            ["Queue theirs: ", "task_routes sends theirs.work"],
        ),
        (new_app("a", task_queues=[Queue("slow")]), ["Queue slow: ", "task_queues"]),
        (
            new_app("a", beat_schedule={"nightly": {"task": "a", "options": {"queue": "night"}}}),
            ["Queue night: ", "beat_schedule sends nightly"],
        ),
        (
            new_app(
                "a",
                task_queues=[Queue("topics", Exchange("t", type="topic"), routing_key="t.x")],
                task_routes={"a": {"exchange": "t", "routing_key": "t.x"}},
            ),
            ["Queue topics: ", "task"],
        ),
    ],
)
def test_a_queue_without_a_pool_is_named_with_its_route(app: Celery, words: list[str]) -> None:
    wanted = model({"name": "default", "queues": ["other"]})
    refusals = report(wanted, facts_of(app), "")["refusals"]
    found = [text for text in refusals if words[0] in text]
    assert len(found) == 1
    assert words[1] in found[0]
    assert "celery_workers" in found[0]
    assert "celery_external_queues" in found[0]


def test_an_attribute_of_a_task_is_a_route() -> None:
    app = new_app()
    app.task(nothing, shared=False, name="heavy", queue="gpu")
    wanted = model({"name": "default", "queues": ["celery"]})
    assert "Queue gpu: " in report(wanted, facts_of(app), "")["refusals"][0]
    assert not report(wanted, facts_of(app), "", ["gpu"])["refusals"]


def test_a_function_that_routes_is_judged_as_far_as_it_answers() -> None:
    app = new_app("books.close", "books.open", task_routes=[choose_by_month])
    found = report(model({"name": "default", "queues": ["celery"]}), facts_of(app), "")
    assert not found["refusals"]
    assert "choose_by_month" in found["warnings"][0]
    assert "books.close (KeyError)" in found["warnings"][0]


def test_a_route_to_an_exchange_alone_is_told() -> None:
    app = new_app("a", task_routes={"a": {"exchange": "logs", "routing_key": "x"}})
    found = report(model({"name": "default", "queues": ["celery"]}), facts_of(app), "")
    assert "of task a (an exchange or a routing key without a queue)" in found["warnings"][0]


def test_celery_is_no_canary_where_results_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELERY_RESULT_BACKEND", raising=False)
    app = Celery("silent", broker="redis://redis:6379/0")
    wanted = model({"name": "default"})
    facts = facts_of(app)
    assert adopt(wanted, facts)["celery"]["canary_task"] == ""
    assert "no result backend" in report(wanted, facts, "")["warnings"][0]
    # A task that the operator names is judged, not left out.
    named = model({"name": "default"}, canary="shop.ping")
    assert adopt(named, facts)["celery"]["canary_task"] == "shop.ping"


def test_celery_is_no_canary_where_the_application_ignores_results() -> None:
    """Celery 5.5.3 and 5.7.0 store none then, whatever the message says."""
    facts = facts_of(new_app("a", task_ignore_result=True))
    wanted = model({"name": "default"})
    assert adopt(wanted, facts)["celery"]["canary_task"] == ""
    assert "task_ignore_result" in report(wanted, facts, "")["warnings"][0]


def test_no_login_leaves_the_application(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_URL", "redis://app:s3cret@redis:6379/3")
    facts = facts_of(new_app("a", result_backend="redis://app:s3cret@redis:6379/2"))
    assert "s3cret" not in str(facts)
    assert facts["broker"] == {
        "library": "redis://redis:6379/0",
        "command": "redis://redis:6379/3",
    }
    assert facts["backend"]["library"] == "redis://redis:6379/2"
    assert "CELERY_BROKER_URL" not in os.environ


def test_settings_are_judged_before_a_worker_has_them() -> None:
    app = new_app("a", "b")
    app.task(nothing, shared=False, name="careful", acks_late=True)
    nodes = application_replies(facts_of(app), model({"name": "default"}))
    found = settings_warnings(nodes, list(nodes), 330, 3600)
    assert found[0].startswith("celery-worker: a, b are acknowledged before they run")
    assert "careful" not in found[0]


@pytest.mark.parametrize(
    ("broker", "backend", "words"),
    [
        (
            ("redis://redis:6379/0", "redis://redis:6379/3"),
            ("", ""),
            ["/0 in web", "/3 in workers"],
        ),
        (("redis://localhost:6379/0",) * 2, ("", ""), ["broker is redis://localhost:6379/0"]),
        (("amqp://127.0.0.1:5672/",) * 2, ("", ""), ["its own container"]),
        (("redis://redis:6379/0",) * 2, ("redis://[::1]/1",) * 2, ["result backend is"]),
        (("redis://redis:6379/0",) * 2, ("a", "b"), ["RESULT_BACKEND of the environment"]),
        (("redis://redis:6379/0",) * 2, ("django-db",) * 2, []),
        (("redis://redis:6379/0",) * 2, ("redis://redis:6379/2",) * 2, []),
        (
            ("amqps://mq.example.com:5671/v",) * 2,
            ("db+postgresql://localhost.example.com/x",) * 2,
            [],
        ),
        (("sqs://:443/",) * 2, ("rpc://",) * 2, []),
    ],
)
def test_web_and_workers_must_have_one_broker(
    broker: tuple[str, str], backend: tuple[str, str], words: list[str]
) -> None:
    both = {"broker": broker, "backend": backend}
    facts = read_facts(
        {key: dict(zip(("library", "command"), each, strict=True)) for key, each in both.items()}
    )
    found = " ".join(report(model({"name": "default"}), facts, "")["refusals"])
    assert all(word in found for word in words)
    assert bool(found) == bool(words)


@given(JSON)
def test_whatever_a_container_answers_can_be_judged(reply: Any) -> None:
    facts = read_facts(reply)
    found = report(model({"name": "default"}), facts, "")
    assert all(isinstance(text, str) for text in [*found["refusals"], *found["warnings"]])
    settings_warnings(
        application_replies(facts, model({"name": "default"})), ["default@application"]
    )
