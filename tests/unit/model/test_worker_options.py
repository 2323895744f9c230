"""What a pool declares of its workers: as words of their command, and as what they must answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.celery.judge import judge
from ansible_collections.crisper.stack.plugins.module_utils.model.build import stack_model
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from ansible_collections.crisper.stack.plugins.module_utils.model.worker_options import (
    OWN_KEYS,
    worker_arguments,
)
from rendering import outcome
from stack_values import changed

NODE = "default@app-1-r-1"


def with_pool(**pool: Any) -> dict[str, Any]:
    values = changed("celery_workers.0.concurrency", pool.pop("concurrency", 2))
    values["celery_workers"][0] |= pool
    values["stack_app"]["name"] = "shop"
    return values


def words(**pool: Any) -> set[str]:
    return set(worker_arguments(pool, 3600, 3300))


def test_a_pool_that_declares_nothing_has_the_limits_of_all():
    expected = ["--loglevel=INFO", "--time-limit=3600", "--soft-time-limit=3300"]
    assert worker_arguments({}, 3600, 3300) == expected


@pytest.mark.parametrize(
    ("pool", "there", "absent"),
    [
        ({"pool": "threads"}, "--pool=threads", "--time-limit=3600"),
        ({"time_limit": "none", "soft_time_limit": "none"}, "--loglevel=INFO", "--time-limit=3600"),
        ({"time_limit": 60}, "--time-limit=60", "--time-limit=3600"),
        ({"autoscale": {"min": 1, "max": 8}}, "--autoscale=8,1", ""),
        ({"max_tasks_per_child": 50}, "--max-tasks-per-child=50", ""),
        ({"max_memory_per_child": "512m"}, "--max-memory-per-child=524288", ""),
        ({"prefetch_multiplier": 0}, "--prefetch-multiplier=0", ""),
        ({"options": {"optimization": "fair"}}, "--optimization=fair", ""),
        ({"options": {"without-mingle": True}}, "--without-mingle", ""),
        ({"options": {"without-mingle": False}}, "--loglevel=INFO", "--without-mingle"),
        ({"options": {"loglevel": "DEBUG"}}, "--loglevel=DEBUG", "--loglevel=INFO"),
        ({"options": {"include": ["a", "b"]}}, "--include=a,b", ""),
    ],
)
def test_what_a_pool_declares_is_in_its_command(pool: Any, there: str, absent: str):
    assert there in words(**pool)
    assert absent not in words(**pool)
    assert validate(with_pool(**pool)) == []


@pytest.mark.parametrize(
    ("pool", "said"),
    [
        ({"pool": "fork"}, ".pool is 'fork': choose prefork, threads, gevent, eventlet, solo."),
        ({"max_tasks_per_child": 0}, ".max_tasks_per_child is 0: give a whole number, 1 or more."),
        (
            {"prefetch_multiplier": -1},
            ".prefetch_multiplier is -1: give a whole number, 0 or more.",
        ),
        ({"max_memory_per_child": 7}, ".max_memory_per_child is 7: give a number and a unit"),
        ({"time_limit": "never"}, ".time_limit is 'never': give seconds, or none."),
        ({"pool": "gevent", "time_limit": 9}, "Celery has time limits in the prefork pool alone."),
        ({"soft_time_limit": 9, "time_limit": 9}, ".soft_time_limit (9 s) must be less than its"),
        ({"autoscale": [8, 1]}, ".autoscale is [8, 1]: give {min: 1, max: 8}."),
        (
            {"autoscale": {"min": 8, "max": 1}},
            ".autoscale.min is more than its max: exchange them.",
        ),
        ({"pool": "solo", "autoscale": {"min": 1, "max": 2}}, "pool solo, which has one process."),
        ({"options": ["-E"]}, ".options is ['-E']: give a mapping such as"),
        ({"options": {"--events": True}}, "'--events' is not the long name of an option of celery"),
        (
            {"options": {"umask": {}}},
            ".options.umask is {}: give true, a text, a number or a list.",
        ),
        ({"environment": "A=1"}, ".environment is 'A=1': give a mapping of names to values."),
        ({"environment": {"1A": "x"}}, ".environment: '1A' is not an environment variable name."),
        *(
            ({"options": {name: True}}, f".options.{name} is not for options; set {instead}.")
            for name, instead in OWN_KEYS.items()
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_remedy(pool: Any, said: str):
    (finding,) = validate(with_pool(**pool))
    assert finding.startswith("celery_workers[0]")
    assert said in finding


def test_the_command_and_the_environment_arrive_as_they_were_given():
    pool = {"options": {"include": "a$b: c"}, "environment": {"A": "$x: y", "B": True}}
    findings, files = outcome(json.dumps(with_pool(pool="threads", **pool)))
    assert findings == []
    service = yaml.safe_load(files["docker-compose.prod.yml"])["services"]["celery-worker"]
    assert "--include=a$$b: c" in service["command"]
    assert {"--pool=threads", "--loglevel=INFO"} <= set(service["command"])
    assert service["environment"] == {"RELEASE": "${RELEASE}", "A": "$$x: y", "B": "true"}


def answers(**pool: Any) -> dict[str, list[Any]]:
    facts = {"max-concurrency": 2, "timeouts": [3300, 3600], "max-tasks-per-child": None}
    facts |= {"implementation": "celery.concurrency.prefork:TaskPool"} | pool
    return {"ping": [{NODE: {"ok": "pong"}}], "stats": [{NODE: {"pool": facts}}]}


def codes(pool: dict[str, Any], **facts: Any) -> list[str]:
    model = stack_model(with_pool(**pool))
    expect = {"nodes": [NODE], "pools": {p["name"]: p for p in model["pools"]}}
    return [f.code for f in judge(answers(**facts), expect) if f.code != "wrong_queues"]


THREADS = "celery.concurrency.thread:TaskPool"


@pytest.mark.parametrize(
    ("pool", "facts", "code"),
    [
        ({}, {}, ""),
        ({}, {"timeouts": [3300, 60]}, "wrong_time_limits"),
        ({}, {"max-concurrency": 3}, "wrong_concurrency"),
        ({"time_limit": "none", "soft_time_limit": "none"}, {"timeouts": [1, 2]}, ""),
        ({"autoscale": {"min": 1, "max": 8}}, {"max-concurrency": 1}, ""),
        ({"autoscale": {"min": 1, "max": 8}}, {"max-concurrency": 9}, "wrong_concurrency"),
        ({"pool": "threads"}, {"implementation": THREADS, "timeouts": []}, ""),
        ({"pool": "threads"}, {"timeouts": []}, "wrong_pool"),
        (
            {"pool": "solo"},
            {"implementation": "celery.concurrency.solo:TaskPool"},
            "wrong_concurrency",
        ),
        ({"max_tasks_per_child": 5}, {"max-tasks-per-child": 5}, ""),
        ({"max_tasks_per_child": 5}, {"max-tasks-per-child": "N/A"}, "wrong_max_tasks"),
    ],
)
def test_workers_must_answer_what_is_declared(pool: Any, facts: Any, code: str):
    assert codes(pool, **facts) == ([code] if code else [])
