"""What role verify asks and finds, by its own variables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.deploy.verify import (
    known_tasks,
    request_counts,
    task_counts,
    worker_request,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.build import stack_model
from ansible_collections.crisper.stack.plugins.module_utils.release.model import read_model
from stack_values import GOOD
from verify_role_cases import GOOD_ANSWER, value

ROOT = Path(__file__).resolve().parents[3]
SITE = {"stack_public_url": "https://app.example", "stack_trusted_proxies": ["10.0.0.0/8"]}
BAD_ANSWER = {**GOOD_ANSWER, "status": 400, "ok": False}


def old_model() -> dict[str, Any]:
    """A model as releases of before have it in their manifest."""
    model = stack_model(GOOD)
    del model["probes"], model["proxy"]["public"]
    proxy = model.pop("proxy")
    return read_model({"model": {**model, "front": proxy}})


def test_a_site_whose_tls_ends_in_front_is_asked_by_its_host_and_inside():
    model = stack_model({**GOOD, **SITE})
    door = value("__verify_door", model)
    assert (door["url"], door["redirects_to"]) == ("http://192.0.2.1:80", "https://app.example")
    assert door["inside"]
    headers = {"Host": "app.example"}
    assert value("__verify_headers", model) == headers
    inner = {**headers, "X-Forwarded-Proto": "https"}
    assert value("__verify_inner_headers", model) == inner
    assert value("__verify_requests", model) == [{"path": "/health", "status": [200]}]


@pytest.mark.parametrize("model", [old_model(), {**old_model(), "proxy": None}, stack_model(GOOD)])
def test_a_site_without_a_name_is_asked_by_its_address(model):
    if model["proxy"] is None:
        del model["proxy"]
    door = value("__verify_door", model)
    assert (door["url"], door["host"]) == ("http://192.0.2.1:80", "")
    assert not door["inside"]
    assert value("__verify_headers", model) == {}
    (entry,) = value("__verify_requests", model)
    assert 200 in entry["status"]
    # The redirects of releases of before were followed when they were deployed.
    assert (302 in entry["status"]) is ("probes" not in model)
    assert value("__verify_findings", model) == []


@pytest.mark.parametrize(
    ("read", "token"),
    [
        ({"secrets": {"maintenance_pass": "t", "other": "x"}}, "t"),
        # Of an older edition, and one whose file cannot be read.
        ({"secrets": {"other": "x"}}, ""),
        ({"failed": True, "msg": "why"}, ""),
    ],
)
def test_the_token_of_the_maintenance_page_is_that_of_the_server(
    read: dict[str, Any], token: str
) -> None:
    assert value("__verify_pass", stack_model(GOOD), __verify_secrets=read) == token


def test_a_release_is_asked_for_its_own_health_path():
    """Regression: a release that was put back was asked for the path of the newer inventory."""
    app = GOOD["stack_app"]
    older = {**app, "web": {**app["web"], "health_path": "/older", "health_status": 204}}
    model = stack_model({**GOOD, "stack_app": older})
    assert value("__verify_requests", model) == [{"path": "/older", "status": [204]}]


def test_what_is_not_as_expected_outside_or_inside_is_a_finding():
    model = stack_model({**GOOD, **SITE})
    outside = {"answers": [BAD_ANSWER], "open": [], "address": "x"}
    (finding,) = value("__verify_findings", model, __verify_outside=outside)
    assert "answered 400 to Host app.example" in finding
    inside = {"answers": [{**BAD_ANSWER, "inside": True}]}
    (finding,) = value("__verify_findings", model, __verify_inside=inside)
    assert "inside the container of nginx answered 400 to Host app.example" in finding
    broken = {"failed": True, "msg": "no such module"}
    (finding,) = value("__verify_findings", model, __verify_inside=broken)
    assert "did not answer (no such module)" in finding
    good = {"answers": [{**GOOD_ANSWER, "inside": True}]}
    assert value("__verify_findings", model, __verify_inside=good) == []


@pytest.mark.parametrize("canary", [{}, {"queues": {}, "findings": []}])
def test_busy_pools_are_reported_and_no_finding(canary):
    model, after = stack_model(GOOD), {"release": "r", "steps": [], "containers": []}
    after["nodes"] = {"new": []}
    busy = [{"queue": "default", "text": "busy: 2 of 2 processes run nap, oldest 14 min"}]
    # Rollouts of before tell no busy ones.
    for proof, told in (({"canary": canary}, []), ({"canary": {**canary, "busy": busy}}, busy)):
        report = {"rollout_report": {"after": after, "proof": {"findings": [], **proof}}}
        assert value("__verify_findings", model, **report) == []
        assert value("__verify_seen", model, **report)["busy"] == told


@pytest.mark.parametrize(
    ("counted", "requests", "tasks"),
    [
        ({}, "", ""),
        ({"requests": {}, "tasks": {}, "error": "why"}, "", ""),
        (
            {
                "requests": {"probed": 9, "failed": 3, "errors": {"HTTP 400": 2, "timed out": 1}},
                "tasks": {"accepted": 4, "finished": 3, "lost": 1, "twice": 0, "waiting": 2},
            },
            "9 probed, 3 failed (HTTP 400: 2, timed out: 1)",
            "sentinel tasks of this deploy: 4 accepted, 3 finished, 1 lost, 0 run twice,"
            " 2 still waiting",
        ),
    ],
)
def test_what_the_ledger_counted_is_one_sentence(
    counted: dict[str, Any], requests: str, tasks: str
) -> None:
    assert request_counts(counted) == requests
    assert task_counts(counted) == tasks


def test_workers_are_asked_for_what_the_model_says() -> None:
    model = stack_model(GOOD)
    model["celery"]["canary_task"] = "ping"
    asked = worker_request(model, 5, 30, ["json"], "json")
    assert asked["expect"]["pools"] == {pool["name"]: pool for pool in model["pools"]}
    assert asked["expect"]["time_limit"] == model["celery"]["time_limit"]
    assert asked["canary"]["queues"] == model["queues"]
    celery = {**model["celery"], "canary_task": ""}
    assert "canary" not in worker_request({**model, "celery": celery}, 5, 30, ["json"], "json")


def test_roles_rollout_and_verify_ask_the_same() -> None:
    asking = r"_workers: >-\n(.*?)\n(?=[_#])"
    texts = [
        re.search(asking, (ROOT / f"roles/{role}/vars/main.yml").read_text(), re.DOTALL)
        for role in ("rollout", "verify")
    ]
    assert all(texts)
    assert len({text[1] for text in texts if text}) == 1


def test_a_proved_release_knows_what_its_workers_told() -> None:
    model = stack_model(GOOD)
    assert known_tasks(model, ["a", "b"]) == ["a", "b"]
    expected = [*model["celery"]["expected_tasks"], model["celery"]["canary_task"]]
    assert known_tasks(model) == known_tasks(model, []) == expected
